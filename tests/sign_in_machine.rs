//! The sign-in as a machine: whatever is asked of it in whatever order, by two browsers that plant their flows in each
//! other, no code is issued without every step that policy and request demand. Against the real flows, store and hashes,
//! with a clock of our own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use countersign::clock::{Clock, UnixTime};
use countersign::config::{Config, KeySource};
use countersign::crypto::opaque::FlowId;
use countersign::crypto::password::PasswordHasher;
use countersign::crypto::seal::SealingKey;
use countersign::domain::activity::Origin;
use countersign::domain::client::Client;
use countersign::domain::ids::{ClientId, SessionId, UserId};
use countersign::domain::user::User;
use countersign::flow::client::RemoteKeys;
use countersign::flow::enrolment::{self, Confirmed};
use countersign::flow::interaction::{Arrival, Situation, Step, arrive, choose_account, situation};
use countersign::flow::registry::Registry;
use countersign::flow::second_factor::{self, Outcome, Shown, enrolment_place};
use countersign::flow::session::{Browser, current};
use countersign::flow::{Context, authorize, login};
use countersign::metrics::Metrics;
use countersign::outbound::Outbound;
use countersign::protocol::metadata::ClientMetadata;
use countersign::protocol::params::Params;
use countersign::store::{Added, FactorChange, NewUser, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use secrecy::ExposeSecret as _;
use serde_json::json;
use totp_rs::Builder;

const START: UnixTime = UnixTime::from_seconds(1_800_000_000);
const PASSWORD: &str = "correct horse battery staple";
const PEOPLE: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    Optional,
    Trusting,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Plain,
    Again,
    Essential,
}

#[derive(Clone, Debug)]
enum Move {
    /// An application, one of which demands a second factor, sends the browser here.
    Open {
        browser: usize,
        strict: bool,
        asked: Asked,
    },
    Password {
        browser: usize,
        flow: usize,
        person: usize,
        right: bool,
    },
    Code {
        browser: usize,
        flow: usize,
        right: bool,
        trust: bool,
    },
    /// The last code that was taken, once more.
    Replay {
        browser: usize,
        flow: usize,
    },
    RecoveryCode {
        browser: usize,
        flow: usize,
        number: usize,
    },
    Enrol {
        browser: usize,
        flow: usize,
        right: bool,
    },
    Look {
        browser: usize,
        flow: usize,
    },
    Choose {
        browser: usize,
        flow: usize,
        other: bool,
    },
    /// What the page asks for, as its person does it.
    Onward {
        browser: usize,
        person: usize,
    },
    /// One browser is given the other's flow cookie, as a neighbouring host can do.
    Plant {
        from: usize,
    },
    SignOut {
        browser: usize,
    },
    Wait {
        seconds: u64,
    },
}

fn moves() -> impl Strategy<Value = Move> {
    let (browser, flow) = (0..2_usize, prop_oneof![4 => Just(0_usize), 1 => 1..4_usize]);
    let asked = prop_oneof![3 => Just(Asked::Plain), 1 => Just(Asked::Again), 1 => Just(Asked::Essential)];
    let at = || (browser.clone(), flow.clone());
    prop_oneof![
        3 => (browser.clone(), any::<bool>(), asked).prop_map(|(browser, strict, asked)| Move::Open { browser, strict, asked }),
        5 => (at(), 0..PEOPLE, prop::bool::weighted(0.8))
            .prop_map(|((browser, flow), person, right)| Move::Password { browser, flow, person, right }),
        4 => (at(), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|((browser, flow), right, trust)| Move::Code { browser, flow, right, trust }),
        1 => at().prop_map(|(browser, flow)| Move::Replay { browser, flow }),
        1 => (at(), 0..3_usize).prop_map(|((browser, flow), number)| Move::RecoveryCode { browser, flow, number }),
        2 => (at(), prop::bool::weighted(0.8)).prop_map(|((browser, flow), right)| Move::Enrol { browser, flow, right }),
        4 => at().prop_map(|(browser, flow)| Move::Look { browser, flow }),
        20 => (browser.clone(), 0..PEOPLE).prop_map(|(browser, person)| Move::Onward { browser, person }),
        1 => (at(), any::<bool>()).prop_map(|((browser, flow), other)| Move::Choose { browser, flow, other }),
        1 => (0..2_usize).prop_map(|from| Move::Plant { from }),
        1 => browser.prop_map(|browser| Move::SignOut { browser }),
        2 => prop_oneof![Just(1), Just(31), Just(400), Just(700)].prop_map(|seconds| Move::Wait { seconds }),
    ]
}

/// The cookies of a browser.
#[derive(Clone, Default)]
struct Jar {
    flow: Option<String>,
    session: Option<String>,
    step: Option<String>,
    trust: Option<String>,
    known: Option<String>,
}

/// What a browser has truly shown.
#[derive(Default)]
struct Proofs {
    /// Of whom, in the session that it has now.
    password: BTreeSet<usize>,
    factor: BTreeSet<usize>,
    trusted_by: BTreeSet<usize>,
    /// Half a sign-in: the flow, whose, when.
    half: Option<(usize, usize, UnixTime)>,
}

struct OpenFlow {
    id: String,
    strict: bool,
    asked: Asked,
    /// What was shown in it, by which browser and of whom.
    password: BTreeSet<(usize, usize)>,
    factor: BTreeSet<(usize, usize)>,
}

struct World {
    ctx: Context,
    policy: Policy,
    hash: String,
    lax: ClientId,
    strict: ClientId,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(policy: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = vec![
            ("COUNTERSIGN_DATA_DIR".to_owned(), folder.path().display().to_string()),
            ("COUNTERSIGN_PASSWORD__THREADS".to_owned(), "1".to_owned()),
        ];
        let mut set = |key: &str, value: &str| settings.push((format!("COUNTERSIGN_MFA__{key}"), value.to_owned()));
        match policy {
            Policy::Optional => {}
            Policy::Trusting => set("TRUST_BROWSER", "30d"),
            Policy::Always => set("REQUIRED", "always"),
            Policy::Never => set("REQUIRED", "never"),
        }
        let config = Config::load(None, settings.into_iter(), false).unwrap();
        let store = Store::open(&config.database_url).unwrap();
        let (lax, strict) = (ClientId::random(), ClientId::random());
        for (id, require_mfa) in [(&lax, false), (&strict, true)] {
            let metadata = json!({
                "redirect_uris": ["https://a.example/cb"], "skip_consent": true, "require_mfa": require_mfa,
            });
            let metadata = ClientMetadata::parse(metadata.as_object().unwrap()).unwrap();
            store.create_client(Client::new(id.clone(), metadata, None, START)).await.unwrap();
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sealing =
            SealingKey::load(&KeySource::Inline("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into())).unwrap();
        let registry = Registry::build(store.registry().await.unwrap(), &config, &sealing, START).unwrap();
        let hasher = PasswordHasher::start(&config.password).unwrap();
        let hash = hasher.hash(PASSWORD.into()).await.unwrap();
        let ctx = Context {
            hasher,
            rotation_key: sealing.rotation_key(),
            known_browser_key: sealing.known_browser_key(),
            session_key: sealing.session_key(),
            registry: arc_swap::ArcSwap::from_pointee(registry),
            remote_keys: RemoteKeys::default(),
            outbound: Outbound::new(&config.outbound).unwrap(),
            config,
            clock: Clock::manual(START),
            store,
            sealing,
            metrics: Metrics::default(),
            node: "test".to_owned(),
            stopping: AtomicBool::new(false),
        };
        Self { ctx, policy, hash, lax, strict, _folder: folder }
    }
}

/// One run: two browsers, a person without a second factor and one with.
struct Run<'a> {
    world: &'a World,
    users: Vec<User>,
    secrets: BTreeMap<usize, Vec<Vec<u8>>>,
    codes: Vec<String>,
    used: BTreeSet<String>,
    taken: BTreeSet<(Vec<u8>, u64)>,
    last_code: Option<String>,
    jars: [Jar; 2],
    shown: [Proofs; 2],
    flows: Vec<OpenFlow>,
    issued: &'a RefCell<BTreeMap<String, usize>>,
}

impl<'a> Run<'a> {
    async fn new(world: &'a World, number: usize, issued: &'a RefCell<BTreeMap<String, usize>>) -> Self {
        let ctx = &world.ctx;
        let now = ctx.now();
        let mut users = Vec::new();
        for name in ["plain", "armed"] {
            let user = User {
                id: UserId::random(),
                username: format!("{name}{number}"),
                email: None,
                email_verified: false,
                is_admin: false,
                claims: serde_json::Map::new(),
                disabled_at: None,
                created_at: now,
                updated_at: now,
                has_second_factor: false,
            };
            ctx.store
                .create_user(NewUser { user: user.clone(), password_hash: Some(world.hash.clone()) })
                .await
                .unwrap();
            users.push(user);
        }
        let armed = users[1].id.clone();
        let secret = enrolment::show(ctx, &armed, "x", now).await.unwrap().as_bytes().to_vec();
        let code = code_at(&secret, step(now));
        let Confirmed { device, codes } = enrolment::confirm(ctx, &armed, "x", &code, "x", now).await.unwrap().unwrap();
        let change = FactorChange {
            user: armed,
            origin: Origin::default(),
            session: SessionId::random(),
            ends_others: false,
            notices: Vec::new(),
        };
        assert_eq!(ctx.store.add_totp_device(change, device, None, now).await.unwrap(), Added::Done { codes: true });
        let taken = BTreeSet::from([(secret.clone(), step(now))]);
        Self {
            world,
            users,
            secrets: BTreeMap::from([(1, vec![secret])]),
            codes: codes.iter().map(|code| code.expose_secret().to_owned()).collect(),
            used: BTreeSet::new(),
            taken,
            last_code: None,
            jars: [Jar::default(), Jar::default()],
            shown: [Proofs::default(), Proofs::default()],
            flows: Vec::new(),
            issued,
        }
    }

    fn browser(&mut self, number: usize) -> Browser {
        let jar = &mut self.jars[number];
        let (flow, session) = (jar.flow.as_deref(), jar.session.as_deref());
        // Each from a network of its own, so that only accounts are slowed.
        let browser =
            Browser::new(flow, session, jar.known.clone(), format!("192.0.2.{number}"), Origin::default()).unwrap();
        let browser = browser.with_second_step(jar.step.as_deref(), jar.trust.as_deref());
        jar.flow = Some(browser.secret.expose_secret().to_owned());
        browser
    }

    fn person(&self, id: &UserId) -> usize {
        self.users.iter().position(|user| user.id == *id).unwrap()
    }

    fn now(&self) -> UnixTime {
        self.world.ctx.now()
    }

    /// The flow that a move is about, the newest first; `None` where there is none for this browser.
    async fn visit(&mut self, browser: usize, back: usize) -> Option<(usize, Browser, Situation)> {
        let flow = self.flows.len().checked_sub(1 + back)?;
        let found = self.browser(browser);
        let id = FlowId::parse(&self.flows[flow].id).unwrap().digest();
        let situation = situation(&self.world.ctx, id, &found, self.now()).await.unwrap()?;
        Some((flow, found, situation))
    }

    /// The one rule, in other words than the program's.
    fn judge(&self, browser: usize, person: usize, strict: bool, asked: Asked, flow: Option<usize>) {
        let (policy, shown) = (self.world.policy, &self.shown[browser]);
        let context = format!("{policy:?} {strict} {asked:?} person {person}");
        assert!(shown.password.contains(&person), "no password: {context}");
        let named = strict || asked == Asked::Essential;
        assert!(!(named && policy == Policy::Never), "nobody can have one: {context}");
        let general = policy != Policy::Never && (policy == Policy::Always || self.secrets.contains_key(&person));
        let trusted = policy == Policy::Trusting && shown.trusted_by.contains(&person);
        let due = named || (general && !trusted);
        assert!(!due || shown.factor.contains(&person), "no second factor: {context}");
        if asked == Asked::Again {
            let flow = &self.flows[flow.expect("prompt=login shows a page")];
            assert!(flow.password.contains(&(browser, person)), "not again: {context}");
            assert!(!due || flow.factor.contains(&(browser, person)), "the second factor not again: {context}");
        }
        let strength = if shown.factor.contains(&person) { "strong" } else { "weak" };
        *self.issued.borrow_mut().entry(format!("{policy:?} {strength}")).or_default() += 1;
    }

    fn signed_in(&mut self, browser: usize, flow: usize, person: usize, entry: &login::Entry, factor: bool) {
        let jar = &mut self.jars[browser];
        jar.session = Some(entry.cookie.value.expose_secret().to_owned());
        jar.step = None;
        jar.known.clone_from(&entry.known);
        if let Some(trust) = &entry.trust {
            jar.trust = Some(trust.expose_secret().to_owned());
            // A browser keeps one such cookie.
            self.shown[browser].trusted_by = BTreeSet::from([person]);
        }
        let shown = &mut self.shown[browser];
        shown.half = None;
        shown.password.retain(|other| *other == person);
        shown.factor.retain(|other| *other == person);
        shown.password.insert(person);
        if factor {
            shown.factor.insert(person);
            let both = (browser, person);
            self.flows[flow].factor.insert(both);
            // It is as new in another tab where this password was typed before.
            for other in self.flows.iter_mut().filter(|other| other.password.contains(&both)) {
                other.factor.insert(both);
            }
        }
    }

    async fn make(&mut self, step: &Move) {
        let ctx = &self.world.ctx;
        let now = self.now();
        match *step {
            Move::Open { browser, strict, asked } => self.open(browser, strict, asked).await,
            Move::Password { browser, flow, person, right } => {
                let Some((flow, found, situation)) = self.visit(browser, flow).await else { return };
                let reauthenticated = match (&situation.step, &situation.signed_in) {
                    (Step::Reauthenticate, Some(signed_in)) => Some(self.person(&signed_in.user.id)),
                    _ => None,
                };
                let person = reauthenticated.unwrap_or(person);
                let name = self.users[person].username.clone();
                let password = if right { PASSWORD } else { "wrong" }.into();
                let outcome = login::sign_in(ctx, &situation, &found, Some(&name), password, false, now).await.unwrap();
                match outcome {
                    login::Outcome::SignedIn(entry) => {
                        assert!(right);
                        self.flows[flow].password.insert((browser, person));
                        // A new sign-in by password stands on the password alone.
                        self.shown[browser].factor.remove(&person);
                        self.signed_in(browser, flow, person, &entry, false);
                    }
                    login::Outcome::Half(secret) => {
                        assert!(right);
                        self.flows[flow].password.insert((browser, person));
                        self.jars[browser].step = Some(secret.expose_secret().to_owned());
                        self.shown[browser].half = Some((flow, person, now));
                    }
                    _ => {}
                }
            }
            Move::Code { browser, flow, right, trust } => {
                let Some((flow, found, situation)) = self.visit(browser, flow).await else { return };
                let Some(person) = situation.person().map(|user| self.person(&user.id)) else { return };
                let code = if right { self.fresh_code(person) } else { Some("000000".to_owned()) };
                let Some(code) = code else { return };
                self.show(browser, flow, &found, &situation, person, Shown::Code { code: &code, trust }, right).await;
                if right {
                    self.last_code = Some(code);
                }
            }
            Move::Replay { browser, flow } => {
                let Some((flow, found, situation)) = self.visit(browser, flow).await else { return };
                let Some(person) = situation.person().map(|user| self.person(&user.id)) else { return };
                let Some(code) = self.last_code.clone() else { return };
                let fresh = self.is_fresh(person, &code);
                self.show(browser, flow, &found, &situation, person, Shown::Code { code: &code, trust: false }, fresh)
                    .await;
            }
            Move::RecoveryCode { browser, flow, number } => {
                let Some((flow, found, situation)) = self.visit(browser, flow).await else { return };
                let Some(person) = situation.person().map(|user| self.person(&user.id)) else { return };
                let code = self.codes[number].clone();
                let right = person == 1 && !self.used.contains(&code);
                if self.show(browser, flow, &found, &situation, person, Shown::RecoveryCode(&code), right).await {
                    self.used.insert(code);
                }
            }
            Move::Enrol { browser, flow, right } => self.enrol(browser, flow, right).await,
            Move::Look { browser, flow } => {
                let Some((flow, _, situation)) = self.visit(browser, flow).await else { return };
                let Some(Arrival::Client(answer)) = arrive(ctx, &situation, now).await.unwrap() else { return };
                if answer.parameters.iter().any(|(name, _)| *name == "code") {
                    let person = self.person(&situation.signed_in.as_ref().unwrap().user.id);
                    self.judge(browser, person, self.flows[flow].strict, self.flows[flow].asked, Some(flow));
                }
            }
            Move::Onward { browser, person } => {
                let flow = 0;
                let Some((_, _, situation)) = self.visit(browser, flow).await else { return };
                let next = match situation.step {
                    Step::SignIn | Step::Reauthenticate => Move::Password { browser, flow, person, right: true },
                    Step::SecondFactor => Move::Code { browser, flow, right: true, trust: person == 0 },
                    Step::Enrol => Move::Enrol { browser, flow, right: true },
                    _ => Move::Look { browser, flow },
                };
                Box::pin(self.make(&next)).await;
            }
            Move::Choose { browser, flow, other } => {
                if let Some((_, _, situation)) = self.visit(browser, flow).await {
                    choose_account(ctx, &situation, other).await.unwrap();
                }
            }
            Move::Plant { from } => {
                let planted = self.jars[from].flow.clone();
                self.jars[1 - from].flow = planted;
            }
            Move::SignOut { browser } => {
                self.jars[browser].session = None;
                let shown = &mut self.shown[browser];
                shown.password.clear();
                shown.factor.clear();
            }
            Move::Wait { seconds } => ctx.clock.advance(Duration::from_secs(seconds)),
        }
    }

    async fn open(&mut self, browser: usize, strict: bool, asked: Asked) {
        let ctx = &self.world.ctx;
        let client = if strict { &self.world.strict } else { &self.world.lax };
        let claims = json!({"id_token": {"acr": {"essential": true, "value": "urn:countersign:acr:mfa"}}}).to_string();
        let mut query = vec![
            ("client_id", client.as_str()),
            ("redirect_uri", "https://a.example/cb"),
            ("response_type", "code"),
            ("scope", "openid"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
        ];
        match asked {
            Asked::Plain => {}
            Asked::Again => query.push(("prompt", "login")),
            Asked::Essential => query.push(("claims", &claims)),
        }
        let query: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let found = self.browser(browser);
        let params = Params::parse(query.as_bytes()).unwrap();
        match authorize::begin(ctx, &params, &found, self.now()).await {
            Ok(authorize::Outcome::Respond(_)) => {
                let signed_in = current(ctx, &found, self.now()).await.unwrap().unwrap();
                self.judge(browser, self.person(&signed_in.user.id), strict, asked, None);
            }
            Ok(authorize::Outcome::Interact(id)) => self.flows.push(OpenFlow {
                id: id.expose_secret().to_owned(),
                strict,
                asked,
                password: BTreeSet::new(),
                factor: BTreeSet::new(),
            }),
            Err(_) => assert_eq!(self.world.policy, Policy::Never),
        }
    }

    async fn enrol(&mut self, browser: usize, flow: usize, right: bool) {
        let (ctx, now) = (&self.world.ctx, self.now());
        let Some((flow, found, situation)) = self.visit(browser, flow).await else { return };
        let Some(user) = situation.person().cloned() else { return };
        let person = self.person(&user.id);
        let secret = enrolment::show(ctx, &user.id, &enrolment_place(&situation), now).await.unwrap();
        let secret = secret.as_bytes().to_vec();
        let code = if right { code_at(&secret, step(now)) } else { "000000".to_owned() };
        let outcome = second_factor::enrol(ctx, &situation, &found, &code, "x", now).await.unwrap();
        if let Outcome::Enrolled(entry, _) = outcome {
            assert!(right, "set up by a wrong code");
            assert!(matches!(situation.step, Step::Enrol), "set up where nobody asked");
            assert!(!self.secrets.contains_key(&person), "s61 somebody without the first one added a second");
            self.secrets.insert(person, vec![secret.clone()]);
            self.taken.insert((secret, step(now)));
            self.rise(browser, flow, person, &entry);
        }
    }

    /// Shows a second factor; whether it was taken, which it may only be where it is right, fresh and asked for.
    #[expect(clippy::too_many_arguments, reason = "a move in full")]
    async fn show(
        &mut self,
        browser: usize,
        flow: usize,
        found: &Browser,
        situation: &Situation,
        person: usize,
        shown: Shown<'_>,
        right: bool,
    ) -> bool {
        let outcome = second_factor::show(&self.world.ctx, situation, found, shown, self.now()).await.unwrap();
        let Outcome::SignedIn(entry) = outcome else { return false };
        assert!(right, "s57 a code that is wrong or spent was taken");
        assert!(matches!(situation.step, Step::SecondFactor), "s60 a code was taken where none was asked for");
        self.rise(browser, flow, person, &entry);
        true
    }

    fn rise(&mut self, browser: usize, flow: usize, person: usize, entry: &login::Entry) {
        if let Some((half_flow, whose, at)) = self.shown[browser].half
            && (half_flow, whose) == (flow, person)
        {
            assert!(self.now().since(at) < Duration::from_mins(10), "s60 half a sign-in is short");
            self.shown[browser].password.insert(person);
        }
        assert!(self.shown[browser].password.contains(&person), "s60 a second factor without the first");
        self.signed_in(browser, flow, person, entry, true);
    }

    fn is_fresh(&self, person: usize, code: &str) -> bool {
        let now = step(self.now());
        self.secrets
            .get(&person)
            .into_iter()
            .flatten()
            .any(|secret| (now - 1..=now + 1).any(|step| code_at(secret, step) == code && self.is_free(secret, step)))
    }

    /// No step up to the last one that was taken.
    fn is_free(&self, secret: &[u8], step: u64) -> bool {
        self.taken.iter().filter(|(other, _)| other == secret).all(|(_, taken)| step > *taken)
    }

    fn fresh_code(&mut self, person: usize) -> Option<String> {
        let now = step(self.now());
        let secret = self.secrets.get(&person)?.first()?.clone();
        let step = (now - 1..=now + 1).find(|step| self.is_free(&secret, *step))?;
        Some(code_at(&secret, step))
    }

    /// Learns from the database which codes were taken.
    async fn learn(&mut self) {
        for (person, secrets) in &self.secrets {
            let devices = self.world.ctx.store.list_totp_devices(self.users[*person].id.clone()).await.unwrap();
            for (device, secret) in devices.iter().zip(secrets) {
                self.taken.insert((secret.clone(), u64::try_from(device.last_step).unwrap()));
            }
        }
    }
}

fn step(now: UnixTime) -> u64 {
    u64::try_from(now.seconds() / 30).unwrap()
}

fn code_at(secret: &[u8], step: u64) -> String {
    Builder::new().with_secret(secret.to_vec()).build_noncompliant().generate(step * 30).to_string()
}

#[test]
fn s59_s60_no_sequence_of_requests_reaches_a_code_without_every_step_that_policy_demands() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let policies = [Policy::Optional, Policy::Trusting, Policy::Always, Policy::Never];
    let worlds: Vec<World> = policies.into_iter().map(|policy| runtime.block_on(World::new(policy))).collect();
    let (number, issued) = (Cell::new(0), RefCell::new(BTreeMap::new()));
    let mut runner = TestRunner::new(Runs { cases: 160, failure_persistence: None, ..Runs::default() });
    let cases = (0..worlds.len(), prop::collection::vec(moves(), 10..40));
    runner
        .run(&cases, |(world, moves)| {
            number.set(number.get() + 1);
            runtime.block_on(async {
                let mut run = Run::new(&worlds[world], number.get(), &issued).await;
                for step in &moves {
                    run.make(step).await;
                    run.learn().await;
                }
            });
            Ok(())
        })
        .unwrap();
    // The machine was not merely shut: codes came out wherever they may.
    let issued = issued.into_inner();
    for way in ["Optional weak", "Optional strong", "Trusting strong", "Always strong", "Never weak"] {
        assert!(issued.get(way).is_some_and(|codes| *codes > 0), "{way}: {issued:?}");
    }
    assert!(!issued.contains_key("Always weak"), "{issued:?}");
}
