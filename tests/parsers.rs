//! What strangers send, bent in every way that dice think of: each parser answers, soon, and with little memory (reliability
//! figure 21, short form); and what we make by chance never comes twice (figure 22). `TEST_SEED` repeats a run,
//! `TEST_EXECUTIONS` and `TEST_VALUES` lengthen it. scripts/campaign runs the long form, of optimised code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a campaign prints its seed and its counts")]

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use countersign::clock::UnixTime;
use countersign::crypto::client_keys::is_usable;
use countersign::crypto::opaque::{
    BrowserSecret, CODE_PREFIX, FlowId, GrantSecret, REFRESH_TOKEN_PREFIX, SessionSecret, StepSecret, TrustSecret,
};
use countersign::domain::ids::{SessionId, uuid_v7};
use countersign::domain::user::{check_chosen_name, check_claims, check_email};
use countersign::protocol::access_token::bearer_token;
use countersign::protocol::authorization::{AuthorizationRequest, ResponseTarget};
use countersign::protocol::claims::ClaimsRequest;
use countersign::protocol::client_auth::{ClientCredentials, parse_basic};
use countersign::protocol::jose::UnverifiedJws;
use countersign::protocol::metadata::ClientMetadata;
use countersign::protocol::params::Params;
use countersign::protocol::redirect_uri::RedirectUri;
use countersign::protocol::scope::Scope;
use countersign::protocol::token::TokenRequest;
use secrecy::ExposeSecret as _;
use support::Dice;
use support::journal::setting;

/// No parser may take longer for what one request can hold.
const SLOWEST: Duration = Duration::from_millis(100);
const MOST_MEMORY: u64 = 64 * 1024;
const LONGEST: usize = 4096;
const BATCH: u64 = 1000;

type Parser = (&'static str, &'static [&'static str], fn(&[u8]));

fn text(parse: impl Fn(&str)) -> impl Fn(&[u8]) {
    move |bytes| std::str::from_utf8(bytes).map_or((), &parse)
}

fn form(parse: impl Fn(&Params)) -> impl Fn(&[u8]) {
    move |bytes| Params::parse(bytes).map_or((), |params| parse(&params))
}

fn object(parse: impl Fn(&serde_json::Map<String, serde_json::Value>)) -> impl Fn(&[u8]) {
    move |bytes| serde_json::from_slice(bytes).map_or((), |members| parse(&members))
}

fn client() -> &'static ClientMetadata {
    static CLIENT: std::sync::LazyLock<ClientMetadata> = std::sync::LazyLock::new(|| {
        let members = serde_json::json!({"redirect_uris": ["https://a.example/cb"], "scope": "openid email"});
        ClientMetadata::parse(members.as_object().unwrap()).unwrap()
    });
    &CLIENT
}

const PARSERS: &[Parser] = &[
    (
        "authorization request",
        &[
            "client_id=a&redirect_uri=https%3A%2F%2Fa.example%2Fcb&response_type=code&scope=openid+email&state=x&nonce=n&\
             code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256&prompt=login+consent",
            "redirect_uri=https://a.example/cb&response_type=code&max_age=10&response_mode=form_post&resource=urn:a&\
             resource=urn:b&acr_values=a+b&claims=%7B%22id_token%22%3A%7B%22acr%22%3Anull%7D%7D&code_challenge_method=plain",
        ],
        |bytes| {
            form(|params| {
                if let Ok(target) = ResponseTarget::prove(params, client()) {
                    drop(black_box(AuthorizationRequest::parse(params, target, client())));
                }
            })(bytes);
        },
    ),
    (
        "token request and client credentials",
        &[
            "grant_type=authorization_code&code=cs_ac_x&redirect_uri=https%3A%2F%2Fa.example%2F&code_verifier=v&client_id=a&\
             client_secret=b",
            "grant_type=refresh_token&refresh_token=cs_rt_x&scope=a+b&resource=urn%3Aa&client_assertion=a.b.c&\
             client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
            "grant_type=client_credentials&scope=jobs.read",
        ],
        |bytes| {
            form(|params| {
                drop(black_box(TokenRequest::parse(params)));
                drop(black_box(ClientCredentials::parse(None, params)));
                drop(black_box(bearer_token(None, "", Some(params))));
            })(bytes);
        },
    ),
    ("Authorization header", &["Basic YTpi", "Basic YSUzQWI6YyUyQmQrZQ==", "Bearer a.b.c"], |bytes| {
        text(|header| {
            drop(black_box(parse_basic(header)));
            drop(black_box(bearer_token(Some(header), "", None)));
        })(bytes);
    }),
    (
        "JWS",
        &[
            "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJhIiwic3ViIjoiYSIsImF1ZCI6WyJiIl0sImV4cCI6MX0.c2ln",
            "eyJhbGciOiJub25lIiwiY3JpdCI6WyJiNjQiXX0.e30.",
        ],
        |bytes| {
            text(|token| {
                if let Some(jws) = UnverifiedJws::parse(token) {
                    black_box((jws.claim_seconds("exp"), jws.has_audience("b"), jws.header_str("kid")));
                }
            })(bytes);
        },
    ),
    (
        "JWK Set",
        &[
            r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","use":"sig","kid":"1"}]}"#,
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","key_ops":["verify"]},{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#,
        ],
        |bytes| _ = serde_json::from_slice(bytes).map(|jwks| black_box(is_usable(&jwks, None))),
    ),
    (
        "client metadata",
        &[
            r#"{"redirect_uris":["https://a.example/cb"],"scope":"openid email","grant_types":["authorization_code","refresh_token"],"token_endpoint_auth_method":"none","client_name":"A"}"#,
            r#"{"grant_types":["client_credentials"],"jwks_uri":"https://a.example/jwks","token_endpoint_auth_method":"private_key_jwt","network_binding":"ask","default_max_age":60}"#,
        ],
        |bytes| object(|members| drop(black_box(ClientMetadata::parse(members))))(bytes),
    ),
    (
        "claims",
        &[
            r#"{"userinfo":{"given_name":{"essential":true},"nickname":null},"id_token":{"acr":{"values":["a","b"]},"sub":{"value":"1"}}}"#,
        ],
        |bytes| {
            text(|claims| {
                if let Ok(claims) = ClaimsRequest::parse(claims) {
                    black_box((claims.required_subjects(), claims.essential_acr(), claims.wished_acr()));
                }
            })(bytes);
        },
    ),
    (
        "claims of a person",
        &[
            r#"{"name":"A","birthdate":"1815-12-10","zoneinfo":"Europe/London","locale":"en-GB","picture":"https://a.example/a.png","address":{"country":"NL"}}"#,
        ],
        |bytes| object(|claims| drop(black_box(check_claims(claims))))(bytes),
    ),
    ("scope", &["openid email offline_access", "a  b c:d/e"], |bytes| {
        text(|scope| drop(black_box(Scope::parse(scope))))(bytes);
    }),
    (
        "redirect URI",
        &["https://a.example:8443/cb?x=%20#f", "http://127.0.0.1:4711/cb", "com.example.app:/cb"],
        |bytes| {
            text(|uri| {
                if let Ok(uri) = RedirectUri::register(uri, &["state"]) {
                    black_box((uri.origin(), uri.matches("http://127.0.0.1:1/cb", true)));
                }
            })(bytes);
        },
    ),
    (
        "cookies, codes and refresh tokens",
        &[
            "cs_ss_GaIl6abSLfp2HkxV642jZcTcebCt6ri4OIyuU7rc1JI1DIzHH",
            "cs_ac_x",
            "cs_fl_XNeGpGfgXyZIHOvZnXnvKO0ENEbW4MDrXoewHiTD7AU0y7eS8",
        ],
        |bytes| {
            text(|secret| {
                black_box((SessionSecret::parse(secret).is_some(), FlowId::parse(secret).is_some()));
                black_box((BrowserSecret::parse(secret).is_some(), StepSecret::parse(secret).is_some()));
                black_box((TrustSecret::parse(secret).is_some(), GrantSecret::parse(CODE_PREFIX, secret).is_some()));
                black_box(GrantSecret::parse(REFRESH_TOKEN_PREFIX, secret).is_some());
            })(bytes);
        },
    ),
    (
        "names and addresses",
        &["ada.lovelace", "ada+x@b\u{fc}cher.example", "\u{7528}\u{6237}@\u{4f8b}\u{3048}.jp"],
        |bytes| {
            text(|name| {
                let _why = black_box(check_chosen_name(name));
                let _why = black_box(check_email(name));
            })(bytes);
        },
    ),
];

/// One of the corpus with some of it taken out, doubled, changed or put in from another.
fn bend(dice: &mut Dice, corpus: &[&str], into: &mut Vec<u8>) {
    const ODD: &[u8] = b"\0\n\r \"%&'+,-./0:;<=>?@[\\]^_`{|}~\x7f\x80\xc3\xff";
    let pick = |dice: &mut Dice| corpus[usize::try_from(dice.below(corpus.len() as u64)).unwrap()].as_bytes();
    into.clear();
    into.extend_from_slice(pick(dice));
    for _ in 0..=dice.below(6) {
        let below = |dice: &mut Dice, bound: usize| usize::try_from(dice.below(bound.max(1) as u64)).unwrap();
        let at = below(dice, into.len());
        let end = (at + 1 + below(dice, 16)).min(into.len());
        match dice.below(8) {
            0 if !into.is_empty() => into[at] ^= 1 << dice.below(8),
            1 if !into.is_empty() => into[at] = ODD[below(dice, ODD.len())],
            2 => into.insert(at, ODD[below(dice, ODD.len())]),
            3 => drop(into.drain(at..end)),
            4 => into.extend_from_within(at..end),
            5 => {
                let other = pick(dice);
                let from = below(dice, other.len());
                into.splice(at..at, other[from..].iter().copied());
            }
            6 => into.truncate(at),
            _ => {
                let piece = into[at..end].to_vec();
                let times = below(dice, 64);
                into.splice(at..at, piece.repeat(times));
            }
        }
    }
    into.truncate(LONGEST);
}

/// In KiB: what this process has held at most.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn s105_whatever_is_sent_every_parser_answers_soon_and_with_little_memory() {
    let executions = setting("TEST_EXECUTIONS", 20_000);
    let seed = setting("TEST_SEED", 1);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    println!("seed {seed}, {executions} executions each");
    for (name, corpus, parse) in PARSERS {
        corpus.iter().for_each(|text| parse(text.as_bytes()));
        let (before, started) = (peak_memory(), Instant::now());
        let slowest = std::thread::scope(|scope| {
            let run = |thread: u64| {
                let mut dice = Dice::new(seed ^ (thread << 32));
                let (mut input, mut slowest) = (Vec::with_capacity(2 * LONGEST), Duration::ZERO);
                for _ in 0..=executions / threads / BATCH {
                    let (mut again, began) = (dice.clone(), Instant::now());
                    for _ in 0..BATCH {
                        bend(&mut dice, corpus, &mut input);
                        parse(&input);
                    }
                    if began.elapsed() < SLOWEST {
                        continue;
                    }
                    // One of them, or the machine: those that are slow again are.
                    for _ in 0..BATCH {
                        bend(&mut again, corpus, &mut input);
                        let began = Instant::now();
                        parse(&input);
                        slowest = slowest.max(began.elapsed());
                    }
                }
                slowest
            };
            let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
            running.into_iter().map(|one| one.join().unwrap()).max().unwrap()
        });
        let grew = peak_memory().saturating_sub(before);
        let took = started.elapsed();
        println!("{name}: {took:.1?}, the slowest of slow ones {slowest:.1?}, memory grew by {grew} KiB");
        assert!(slowest < SLOWEST, "{name}: {slowest:?}");
        assert!(grew < MOST_MEMORY, "{name}: {grew} KiB");
    }
}

#[test]
fn what_is_made_by_chance_never_comes_twice() {
    let values = usize::try_from(setting("TEST_VALUES", 50_000)).unwrap();
    let now = UnixTime::from_seconds(1_700_000_000);
    let secret = |secret: secrecy::SecretString| secret.expose_secret().to_owned();
    let makers: [(&str, &dyn Fn() -> String); 4] = [
        ("codes", &|| secret(GrantSecret::mint().unwrap().reveal(CODE_PREFIX))),
        ("session cookies", &|| secret(SessionSecret::mint().unwrap().reveal())),
        ("sid", &|| SessionId::random().to_string()),
        // All of one millisecond.
        ("jti", &|| uuid_v7(now)),
    ];
    for (name, make) in makers {
        // Of each the digest's first half: a repeat in what was made repeats there.
        let digest = |text: String| {
            let digest = countersign::crypto::opaque::Digest::of(text.as_bytes());
            u128::from_be_bytes(*digest.as_bytes().first_chunk().unwrap())
        };
        let mut seen: Vec<u128> = (0..values).map(|_| digest(make())).collect();
        seen.sort_unstable();
        let repeats = seen.windows(2).filter(|pair| pair[0] == pair[1]).count();
        println!("{name}: {values}, {repeats} twice");
        assert_eq!(repeats, 0, "{name}");
    }
}
