use actix_web::http::StatusCode;
use actix_web::test::TestRequest;
use openidconnect::{CsrfToken, Nonce, PkceCodeVerifier};

use super::client::SignIn;
use super::*;
use crate::config::OutboundConfig;

/// Nobody listens there.
const ISSUER: &str = "http://127.0.0.1:9";

fn demo() -> Demo {
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = OutboundConfig { allow: Vec::new(), allow_private: true, ca_file: None };
    Demo::new(ISSUER.to_owned(), "app".to_owned(), "secret".to_owned().into(), Outbound::new(&config).unwrap())
}

/// A visitor who started a sign-in, by cookie.
fn visitor(demo: &Demo) -> String {
    let sign_in = SignIn {
        state: CsrfToken::new("right".to_owned()),
        nonce: Nonce::new("n".to_owned()),
        verifier: PkceCodeVerifier::new("v".to_owned()),
    };
    demo.visitors().begin("", sign_in).unwrap()
}

fn from(id: &str, query: &str) -> HttpRequest {
    let uri = format!("/demo/callback?{query}");
    TestRequest::with_uri(&uri).insert_header(("cookie", format!("cs_demo={id}"))).to_http_request()
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
    assert_eq!(response.status(), StatusCode::OK);
    let body = actix_web::body::to_bytes(response.into_body()).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("The provider could not be reached."));
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
