use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::domain::ids::{ClientId, SessionId, UserId};
use crate::domain::session::{Authentication, Session};
use crate::domain::user::User;
use crate::protocol::acr::Class;
use crate::protocol::authorization::{AuthorizationRequest, ResponseTarget};
use crate::protocol::metadata::ClientMetadata;
use crate::protocol::params::Params;

fn config(settings: &[(&str, &str)]) -> Config {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Config::load(None, settings, false).unwrap()
}

const NOW: UnixTime = UnixTime::from_seconds(1_000_000);
const CONFIDENTIAL: &str = r#"{"redirect_uris": ["https://a.example/cb"]}"#;
const LOOPBACK: &str = r#"{"redirect_uris": ["http://127.0.0.1/cb"], "token_endpoint_auth_method": "none"}"#;

fn client(metadata: &str) -> Client {
    let members: serde_json::Value = serde_json::from_str(metadata).unwrap();
    Client::new(ClientId::random(), ClientMetadata::parse(members.as_object().unwrap()).unwrap(), None, NOW)
}

fn destination(client: &Client, extra: &str) -> ClientDestination {
    let uri = client.metadata.redirect_uris[0].as_str();
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let query = format!(
        "redirect_uri={uri}&response_type=code&scope=openid&code_challenge={challenge}&code_challenge_method=S256&{extra}"
    );
    let params = Params::parse(query.as_bytes()).unwrap();
    let target = ResponseTarget::prove(&params, &client.metadata).unwrap();
    let request = AuthorizationRequest::parse(&params, target, &client.metadata).unwrap();
    ClientDestination { client_id: client.id.clone(), request, required_user: None }
}

fn signed_in(seconds_ago: i64) -> SignedIn {
    let user_id = UserId::from_stored("ada");
    let at = UnixTime::from_seconds(NOW.seconds() - seconds_ago);
    SignedIn {
        session: Session {
            id: SessionId::from_stored("s1"),
            user_id: user_id.clone(),
            authentication: Authentication::by("pwd", at),
            proven_at: at,
            last_seen_at: NOW,
            expires_at: NOW.plus(Duration::from_hours(1)),
            is_kept: false,
            auth_address: String::new(),
        },
        user: User {
            id: user_id,
            username: "ada".to_owned(),
            email: None,
            email_verified: false,
            is_admin: false,
            claims: serde_json::Map::new(),
            disabled_at: None,
            created_at: NOW,
            updated_at: NOW,
            has_second_factor: false,
        },
        address: String::new(),
    }
}

#[test]
fn s61_a_change_in_the_account_needs_a_sign_in_of_the_last_five_minutes_with_all_that_the_person_has() {
    let account = Destination::Account { page: "/account/security".to_owned() };
    let judge = |destination: &Destination, who: Option<&SignedIn>| {
        let here = Here { progress: &Progress::default(), half: None, signed_in: who, trusted: true };
        words(&own_page(&config(&[]), destination, here, NOW))
    };
    assert_eq!(judge(&account, None), "sign in");
    assert_eq!(judge(&account, Some(&signed_in(300))), "issue");
    assert_eq!(judge(&account, Some(&signed_in(301))), "prove again");
    assert_eq!(judge(&Destination::Home, Some(&signed_in(301))), "issue");
    let mut with_factor = signed_in(0);
    with_factor.user.has_second_factor = true;
    assert_eq!(judge(&account, Some(&with_factor)), "prove again");
    with_factor.session.authentication.amr = "pwd otp mfa".to_owned();
    assert_eq!(judge(&account, Some(&with_factor)), "issue");
    // A code alone, a moment ago, makes an old password no newer.
    with_factor.session.proven_at = NOW.minus(Duration::from_secs(301));
    assert_eq!(judge(&account, Some(&with_factor)), "prove again");
}

fn proven(session: &str) -> Progress {
    Progress { session_id: Some(SessionId::from_stored(session)), signed_in: true, ..Progress::default() }
}

/// The step as one word, with everything allowed that could be remembered.
fn step(client: &Client, destination: &ClientDestination, progress: &Progress, who: Option<&SignedIn>) -> String {
    let asked = crate::flow::consent::asked(&destination.request);
    let here = Here { progress, half: None, signed_in: who, trusted: false };
    words(&next_step(&config(&[]), client, destination, here, Some(&asked), &asked, NOW))
}

fn words(step: &Step) -> String {
    match step {
        Step::SignIn => "sign in".to_owned(),
        Step::Reauthenticate => "prove again".to_owned(),
        Step::SecondFactor => "code".to_owned(),
        Step::Enrol => "enrol".to_owned(),
        Step::SelectAccount => "select".to_owned(),
        Step::Consent(_) => "consent".to_owned(),
        Step::Issue => "issue".to_owned(),
        Step::Refuse(error) => error.code.as_str().to_owned(),
    }
}

#[test]
fn s78_what_the_request_asks_for_decides_the_step() {
    let client = client(CONFIDENTIAL);
    let acr = |class: &str| {
        let claims = json!({"id_token": {"acr": {"essential": true, "value": class}}}).to_string();
        format!("claims={}", form_urlencoded::byte_serialize(claims.as_bytes()).collect::<String>())
    };
    let (ours, foreign) = (acr(Class::Password.acr()), acr("urn:other"));
    // What is asked, signed in how long ago, proven in this flow, the step.
    for (extra, ago, in_flow, expected) in [
        ("", None, false, "sign in"),
        ("prompt=none", None, false, "login_required"),
        ("", Some(100), false, "issue"),
        ("prompt=none", Some(100), false, "issue"),
        ("prompt=login", Some(0), false, "prove again"),
        ("prompt=login", Some(0), true, "issue"),
        ("max_age=99", Some(100), false, "prove again"),
        ("max_age=100", Some(100), false, "issue"),
        ("max_age=99&prompt=none", Some(100), false, "login_required"),
        ("max_age=0", Some(1), true, "issue"),
        ("prompt=select_account", Some(100), false, "select"),
        ("prompt=select_account", Some(0), true, "issue"),
        ("prompt=consent", Some(100), false, "consent"),
        ("prompt=login%20consent", Some(100), false, "prove again"),
        ("acr_values=urn:other", Some(100), false, "issue"),
        (&ours, Some(100), false, "issue"),
        (&foreign, Some(100), false, "unmet_authentication_requirements"),
        (&foreign, None, false, "unmet_authentication_requirements"),
    ] {
        let destination = destination(&client, extra);
        let who = ago.map(signed_in);
        let progress = if in_flow { proven("s1") } else { Progress::default() };
        assert_eq!(step(&client, &destination, &progress, who.as_ref()), expected, "{extra} {ago:?} {in_flow}");
    }
}

#[test]
fn s60_steps_proven_in_another_session_prove_nothing() {
    let client = client(CONFIDENTIAL);
    let destination = destination(&client, "prompt=login");
    assert_eq!(step(&client, &destination, &proven("other"), Some(&signed_in(0))), "prove again");
    let consented = Progress { consented: true, ..proven("other") };
    let asks = self::destination(&client, "prompt=consent");
    assert_eq!(step(&client, &asks, &consented, Some(&signed_in(0))), "consent");
}

#[test]
fn another_person_than_the_one_asked_for_gets_nothing() {
    let client = client(CONFIDENTIAL);
    let mut destination = destination(&client, "");
    destination.required_user = Some(UserId::from_stored("bob"));
    assert_eq!(step(&client, &destination, &Progress::default(), Some(&signed_in(0))), "sign in");
    assert_eq!(step(&client, &destination, &proven("s1"), Some(&signed_in(0))), "login_required");
    destination.request.prompt.none = true;
    assert_eq!(step(&client, &destination, &Progress::default(), Some(&signed_in(0))), "login_required");
    let other = Progress { other_account: true, ..proven("s1") };
    for (named, next) in [(r#""value":"bob""#, "login_required"), (r#""values":["bob","ada"]"#, "issue")] {
        for place in ["id_token", "userinfo"] {
            let claims = format!(r#"claims={{"{place}":{{"sub":{{{named}}}}}}}"#);
            let named = self::destination(&client, &claims);
            assert_eq!(step(&client, &named, &proven("s1"), Some(&signed_in(0))), next, "{claims}");
        }
    }
    let anybody = self::destination(&client, "");
    assert_eq!(step(&client, &anybody, &other, Some(&signed_in(0))), "sign in");
}

#[test]
fn s18_a_public_client_that_anything_can_pose_as_gets_no_silent_consent() {
    let loopback = client(LOOPBACK);
    let quiet = destination(&loopback, "prompt=none");
    assert_eq!(step(&loopback, &quiet, &Progress::default(), Some(&signed_in(0))), "consent_required");
    let seen = Progress { consented: true, ..proven("s1") };
    assert_eq!(step(&loopback, &destination(&loopback, ""), &seen, Some(&signed_in(0))), "issue");
    let browser_app = client(r#"{"redirect_uris": ["https://a.example/cb"], "token_endpoint_auth_method": "none"}"#);
    let quiet = destination(&browser_app, "prompt=none");
    assert_eq!(step(&browser_app, &quiet, &Progress::default(), Some(&signed_in(0))), "issue");
}

#[test]
fn s17_nothing_beyond_the_remembered_consent_is_silent() {
    let client = client(CONFIDENTIAL);
    let who = signed_in(0);
    let destination = destination(&client, "prompt=none");
    let asked = crate::flow::consent::asked(&destination.request);
    let judge_in = |progress: &Progress, remembered: Option<&Consent>| {
        let here = Here { progress, half: None, signed_in: Some(&who), trusted: false };
        next_step(&config(&[]), &client, &destination, here, remembered, &asked, NOW)
    };
    let judge = |remembered: Option<&Consent>| judge_in(&Progress::default(), remembered);
    assert!(matches!(judge(None), Step::Refuse(_)));
    assert!(matches!(judge(Some(&Consent::default())), Step::Refuse(_)));
    assert!(matches!(judge(Some(&asked)), Step::Issue));
    let allowed = Progress { consented: true, ..proven("s1") };
    assert!(matches!(judge_in(&allowed, None), Step::Refuse(_)), "allowed in this flow, and taken back since");
    let more = Consent { resources: BTreeSet::from(["https://api.example".to_owned()]), ..asked.clone() };
    let here = Here { progress: &Progress::default(), half: None, signed_in: Some(&who), trusted: false };
    let judged = next_step(&config(&[]), &client, &destination, here, Some(&asked), &more, NOW);
    assert!(matches!(judged, Step::Refuse(_)));
}

#[test]
fn s59_half_a_sign_in_and_an_older_session_lead_to_the_second_step_and_nowhere_else() {
    let client = client(CONFIDENTIAL);
    let mut weak = signed_in(10);
    weak.user.has_second_factor = true;
    let mut strong = weak.clone();
    strong.session.authentication = Authentication::by("pwd otp mfa", NOW);
    let plain = signed_in(10);
    let essential = |class: &str| {
        let claims = json!({"id_token": {"acr": {"essential": true, "value": class}}}).to_string();
        format!("claims={}", form_urlencoded::byte_serialize(claims.as_bytes()).collect::<String>())
    };
    let (mfa, wish) = (essential(Class::Mfa.acr()), format!("acr_values={}", Class::Mfa.acr()));
    let never = [("COUNTERSIGN_MFA__REQUIRED", "never")];
    let always = [("COUNTERSIGN_MFA__REQUIRED", "always")];
    // Settings, what is asked, half a sign-in, the session, a trusted browser, the step.
    for (settings, extra, half, who, trusted, expected) in [
        (&[][..], "", None, Some(&plain), false, "issue"),
        (&[], "", None, Some(&weak), false, "code"),
        (&[], "prompt=none", None, Some(&weak), false, "login_required"),
        (&[], "", None, Some(&strong), false, "issue"),
        (&[], "", None, Some(&weak), true, "issue"),
        (&[], &mfa, None, Some(&weak), true, "code"),
        (&[], &wish, None, Some(&weak), true, "code"),
        (&[], &wish, None, Some(&plain), false, "issue"),
        (&[], &mfa, None, Some(&plain), false, "enrol"),
        // Row 61: whoever finds a session left open adds no app of their own.
        (&[], &mfa, None, Some(&signed_in(301)), false, "prove again"),
        (&always, "", None, Some(&signed_in(301)), false, "prove again"),
        (&[], &mfa, None, Some(&strong), false, "issue"),
        (&[], "prompt=login", None, Some(&strong), false, "prove again"),
        (&[], "", Some(&weak.user), None, false, "code"),
        (&[], "", Some(&weak.user), Some(&strong), true, "code"),
        (&[], "prompt=consent", Some(&weak.user), Some(&strong), true, "code"),
        // What half a sign-in was for is gone: nothing is made of it.
        (&[], "", Some(&plain.user), None, false, "sign in"),
        (&always, "", None, Some(&plain), false, "enrol"),
        (&always, "", Some(&plain.user), None, false, "enrol"),
        (&never, "", None, Some(&weak), false, "issue"),
        (&never, &mfa, None, Some(&strong), false, "unmet_authentication_requirements"),
        (&never, &wish, None, Some(&weak), false, "issue"),
    ] {
        let destination = destination(&client, extra);
        let asked = crate::flow::consent::asked(&destination.request);
        let progress = Progress::default();
        let here = Here { progress: &progress, half, signed_in: who, trusted };
        let step = next_step(&config(settings), &client, &destination, here, Some(&asked), &asked, NOW);
        let half = half.is_some();
        assert_eq!(words(&step), expected, "{settings:?} {extra} {half} {trusted}");
    }
}
