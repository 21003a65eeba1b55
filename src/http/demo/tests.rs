use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, LOCATION, SET_COOKIE};
use actix_web::test::TestRequest;
use openidconnect::{AccessToken, CsrfToken, Nonce, PkceCodeVerifier, SubjectIdentifier};

use super::client::SignIn;
use super::*;
use crate::config::OutboundConfig;

/// Nobody listens there.
const ISSUER: &str = "http://127.0.0.1:9";

fn demo() -> Demo {
    demo_at(ISSUER)
}

fn demo_at(issuer: &str) -> Demo {
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = OutboundConfig { allow: Vec::new(), allow_private: true, ca_file: None };
    Demo::new(issuer.to_owned(), "app".to_owned(), "secret".to_owned().into(), Outbound::new(&config).unwrap())
}

/// A visitor who started a sign-in, by cookie.
fn visitor(demo: &Demo) -> String {
    started(demo, "", "right")
}

/// The same visitor, or a new one, starts a sign-in.
fn started(demo: &Demo, id: &str, state: &str) -> String {
    let sign_in = SignIn {
        state: CsrfToken::new(state.to_owned()),
        nonce: Nonce::new("n".to_owned()),
        verifier: PkceCodeVerifier::new("v".to_owned()),
    };
    demo.visitors().begin(id, sign_in).unwrap()
}

fn from(id: &str, query: &str) -> HttpRequest {
    let uri = format!("/demo/callback?{query}");
    TestRequest::with_uri(&uri).insert_header(("cookie", format!("cs_demo={id}"))).to_http_request()
}

fn holding() -> Holding {
    let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
    let claims = format!(r#"{{"iss":"{ISSUER}","aud":["app"],"sub":"s","iat":0,"exp":600}}"#);
    let id_token = format!("{}.{}.{}", encode(r#"{"alg":"RS256"}"#), encode(&claims), encode("signature"));
    let tokens = Tokens {
        access_token: AccessToken::new("a".to_owned()),
        refresh_token: None,
        id_token: id_token.parse().unwrap(),
        subject: SubjectIdentifier::new("s".to_owned()),
    };
    Holding { tokens, account_name: "ada".to_owned(), userinfo: None }
}

fn header(response: &HttpResponse, name: HeaderName) -> &str {
    response.headers().get(name).unwrap().to_str().unwrap()
}

/// Where a 303 leads.
fn target(response: &HttpResponse) -> &str {
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    header(response, LOCATION)
}

async fn text(response: HttpResponse) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    String::from_utf8(actix_web::body::to_bytes(response.into_body()).await.unwrap().to_vec()).unwrap()
}

#[actix_web::test]
async fn an_answer_counts_once_in_the_browser_that_asked_and_from_the_provider_that_was_asked() {
    let demo = demo();
    let id = visitor(&demo);
    let iss = "iss=http%3A%2F%2F127.0.0.1%3A9";
    let answer = async |id: &str, query: String| exchange(&from(id, &query), &demo).await.map(drop).unwrap_err();
    assert!(matches!(answer(&id, format!("state=wrong&code=c&{iss}")).await, ClientError::Unasked));
    assert!(matches!(answer("another", format!("state=right&code=c&{iss}")).await, ClientError::Unasked));
    assert!(matches!(answer(&id, format!("state=right&state=right&code=c&{iss}")).await, ClientError::Unreadable(_)));
    // Up to the code's exchange, where nobody listens.
    assert!(matches!(answer(&id, format!("state=right&code=c&{iss}")).await, ClientError::Unreachable(_)));
    assert!(matches!(answer(&id, format!("state=right&code=c&{iss}")).await, ClientError::Unasked));

    for iss in ["", "iss=https%3A%2F%2Fevil.example"] {
        let id = visitor(&demo);
        assert!(matches!(answer(&id, format!("state=right&code=c&{iss}")).await, ClientError::OtherIssuer));
    }
    let id = visitor(&demo);
    assert!(matches!(answer(&id, format!("state=right&error=access_denied&{iss}")).await, ClientError::Denied));
    let id = visitor(&demo);
    let told = answer(&id, format!("state=right&error=invalid_scope&error_description=No.&{iss}")).await.to_string();
    assert_eq!(told, "The provider said no: No. (invalid_scope)");
}

#[actix_web::test]
async fn a_sign_in_may_be_finished_in_an_older_tab_too() {
    let demo = demo();
    let id = started(&demo, "", "1");
    for state in 2..=9 {
        assert_eq!(started(&demo, &id, &state.to_string()), id);
    }
    let answer = async |id: &str, state: &str| {
        let query = format!("state={state}&code=c&iss=http%3A%2F%2F127.0.0.1%3A9");
        exchange(&from(id, &query), &demo).await.map(drop).unwrap_err()
    };
    // Up to the code's exchange, where nobody listens; each once, and the ninth made the first forgotten.
    assert!(matches!(answer(&id, "1").await, ClientError::Unasked));
    for state in ["5", "2"] {
        assert!(matches!(answer(&id, state).await, ClientError::Unreachable(_)));
        assert!(matches!(answer(&id, state).await, ClientError::Unasked));
    }
    // Another tab was faster.
    let signed_in = demo.visitors().admit(&id, holding()).unwrap();
    assert_ne!(signed_in, id);
    assert!(matches!(answer(&id, "3").await, ClientError::Unasked));
    assert!(matches!(answer(&signed_in, "3").await, ClientError::Unreachable(_)));
    assert!(matches!(answer(&signed_in, "3").await, ClientError::Unasked));
}

#[actix_web::test]
async fn an_answer_to_nothing_leads_to_the_tokens_where_there_are_some_and_says_why() {
    let demo = web::Data::new(demo());
    let why = "This answer belongs to no sign-in that was started in this browser, or it was used already, or the \
               server was restarted since.";
    let id = visitor(&demo);
    assert!(text(callback(from(&id, "state=wrong&code=c"), demo.clone()).await).await.contains(why));

    let id = demo.visitors().admit(&id, holding()).unwrap();
    let response = callback(from(&id, "state=wrong&code=c"), demo.clone()).await;
    assert_eq!(target(&response), "/demo/tokens");
    assert!(text(tokens(from(&id, ""), demo.clone()).await).await.contains(why));
    assert!(!text(tokens(from(&id, ""), demo).await).await.contains(why));
}

#[actix_web::test]
async fn after_a_restart_the_page_says_that_the_tokens_are_forgotten() {
    let demo = web::Data::new(demo());
    let response = tokens(from("of-the-last-run", ""), demo.clone()).await;
    assert_eq!(target(&response), "/demo");
    let cookie = header(&response, SET_COOKIE);
    let id = cookie.strip_prefix("cs_demo=").unwrap().split(';').next().unwrap();
    assert!(text(get(from(id, ""), demo.clone()).await).await.contains(RESTARTED));
    assert!(!text(get(from(id, ""), demo.clone()).await).await.contains(RESTARTED));

    // Nobody forgot anything here.
    for id in [id, &visitor(&demo), ""] {
        let response = tokens(from(id, ""), demo.clone()).await;
        assert!(target(&response) == "/demo" && !response.headers().contains_key(SET_COOKIE));
    }
}

#[actix_web::test]
async fn under_another_name_than_the_issuers_the_demo_sends_to_the_issuer() {
    let demo = web::Data::new(demo());
    let called = |name: &'static str, host: &'static str| {
        TestRequest::with_uri("/demo?next=//evil.example").insert_header((name, host)).to_http_request()
    };
    for host in
        ["localhost:9", "127.0.0.1", "127.0.0.1:8080", "evil.example", "127.0.0.1:9@evil.example", "no host", ""]
    {
        let response = get(called("host", host), demo.clone()).await;
        assert_eq!(target(&response), "http://127.0.0.1:9/demo", "{host}");
        let response = sign_in(called("host", host), demo.clone()).await;
        assert_eq!(target(&response), "http://127.0.0.1:9/demo/sign-in", "{host}");
    }
    assert_eq!(get(called("host", "127.0.0.1:9"), demo.clone()).await.status(), StatusCode::OK);
    assert_eq!(sign_in(called("host", "127.0.0.1:9"), demo.clone()).await.status(), StatusCode::OK);
    assert_eq!(get(called("x-forwarded-host", "evil.example"), demo).await.status(), StatusCode::OK);

    let named = |issuer: &str, host: &'static str| {
        let demo = demo_at(issuer);
        demo.elsewhere(&called("host", host), "/demo").is_none()
    };
    assert!(named("http://localhost", "LOCALHOST:80") && named("http://[::1]:8080", "[::1]:8080"));
    assert!(named("https://localhost", "localhost:443") && !named("https://localhost", "localhost:80"));
}

#[actix_web::test]
async fn the_address_of_a_form_opened_like_a_page_leads_to_the_demo() {
    let app = actix_web::App::new().app_data(web::Data::new(demo())).configure(crate::http::demo_routes);
    let app = actix_web::test::init_service(app).await;
    for path in ["/demo/refresh", "/demo/userinfo", "/demo/revoke", "/demo/sign-out"] {
        let request = TestRequest::with_uri(path).to_request();
        let response = actix_web::test::call_service(&app, request).await.into_parts().1;
        assert_eq!(target(&response.map_into_boxed_body()), "/demo", "{path}");
    }
}

#[test]
fn only_what_the_pages_links_ask_for_is_passed_on() {
    assert_eq!(prompt("prompt=login"), Some(CoreAuthPrompt::Login));
    assert_eq!(prompt("prompt=select_account"), Some(CoreAuthPrompt::SelectAccount));
    for query in ["", "prompt=", "prompt=none", "prompt=consent", "prompt=login%20consent", "prompt=%ff"] {
        assert_eq!(prompt(query), None, "{query}");
    }
}

#[test]
fn a_form_from_elsewhere_is_not_ours() {
    let demo = demo();
    let id = visitor(&demo);
    let form = |csrf: &str| Params::parse(format!("csrf={csrf}").as_bytes()).unwrap();
    let right = form(&csrf_token(&id, PURPOSE));
    let sent = |name: &'static str, value: &'static str| {
        TestRequest::post()
            .insert_header(("cookie", format!("cs_demo={id}")))
            .insert_header((name, value))
            .to_http_request()
    };
    assert!(demo.is_own_form(&sent("origin", ISSUER), &right));
    assert!(!demo.is_own_form(&sent("origin", "null"), &right));
    assert!(!demo.is_own_form(&sent("sec-fetch-site", "cross-site"), &right));
    assert!(!demo.is_own_form(&sent("origin", ISSUER), &form("wrong")));
    assert!(!demo.is_own_form(&TestRequest::post().to_http_request(), &right));
}

#[actix_web::test]
async fn a_provider_that_does_not_answer_is_told_on_the_page() {
    let demo = web::Data::new(demo());
    let response = sign_in(TestRequest::default().to_http_request(), demo.clone()).await;
    assert!(text(response).await.contains("The provider could not be reached."));
    assert_eq!(tokens(TestRequest::default().to_http_request(), demo).await.status(), StatusCode::SEE_OTHER);
}

#[test]
fn a_jwt_is_shown_decoded_and_an_opaque_token_as_it_is() {
    let now = UnixTime::from_seconds(0);
    let jwt = token("id", "n", "p", "eyJhbGciOiJub25lIn0.eyJleHAiOjYwMH0.", now);
    assert_eq!(jwt.header.as_deref(), Some("{\n  \"alg\": \"none\"\n}"));
    assert_eq!(jwt.claims.as_deref(), Some("{\n  \"exp\": 600\n}"));
    assert_eq!(jwt.expires.as_deref(), Some("00:10:00 UTC, in 10 minutes"));
    let opaque = token("id", "n", "p", "cs_rt_abc", now);
    assert!(opaque.header.is_none() && opaque.claims.is_none() && opaque.expires.is_none());
}
