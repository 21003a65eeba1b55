//! OpenID Connect Back-Channel Logout 1.0: real receivers on loopback, good, slow, failing, dead and lying.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests have a clock of their own, and wait")]

mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::clock::FalseClock;
use support::receiver::{Manner, Received, Receiver};
use support::server::free_port;
use support::{App, Browser, Certificate, TestServer, World, claims, get, header, wait_for};

const ALLOWED: (&str, &str) = ("COUNTERSIGN_OUTBOUND__ALLOW_PRIVATE", "true");
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

fn world() -> World {
    World::new(&[ALLOWED])
}

fn app(server: &TestServer, uri: &str, more: &Value) -> App {
    let mut metadata = json!({
        "client_name": "Told", "redirect_uris": ["https://told.example/callback"], "skip_consent": true,
        "grant_types": ["authorization_code", "refresh_token"], "backchannel_logout_uri": uri,
        "backchannel_logout_session_required": true, "scope": "openid offline_access",
    });
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.client(&metadata)
}

/// Signs out by the person's own hand, and gives the time that it took.
fn sign_out(w: &World, browser: &Browser) -> Duration {
    let page = browser.open(w.server.url("/logout"));
    let start = Instant::now();
    browser.press(&page, "logout-confirm", &[("decision", "logout")]);
    start.elapsed()
}

fn first(receiver: &Receiver, what: &str) -> Received {
    wait_for(what, || receiver.received().first().cloned())
}

/// What a relying party checks, section 2.6, step by step.
#[track_caller]
fn check_as_section_2_6(w: &World, app: &App, token: &str, id_token: &Value, seen: &mut HashSet<String>) {
    // Step 1: not encrypted, none was asked for. Steps 2 and 3: alg is the registered one, signed by a key of the JWKS.
    let alg = app.registration["id_token_signed_response_alg"].as_str().unwrap_or("RS256");
    assert_eq!(header(token)["alg"], alg);
    assert_eq!(header(token)["typ"], "logout+jwt");
    let told = support::verify(token, &w.jwks());
    // Step 4: iss, aud, iat and exp as for ID tokens.
    assert_eq!(told["iss"], w.server.issuer);
    assert_eq!(told["aud"], app.id);
    let now = i64::try_from(support::jose::now()).unwrap();
    let (iat, exp) = (told["iat"].as_i64().unwrap(), told["exp"].as_i64().unwrap());
    assert!((now - iat).abs() <= 60 && exp > now && exp - iat <= 120, "{told}");
    // Step 5: whom it concerns; here both.
    assert_eq!((&told["sub"], &told["sid"]), (&id_token["sub"], &id_token["sid"]));
    // Step 6: the event, an object. Step 7: no nonce.
    assert_eq!(told["events"], json!({EVENT: {}}));
    assert!(told.get("nonce").is_none());
    // Step 8: not seen before.
    assert!(seen.insert(told["jti"].as_str().unwrap().to_owned()), "told twice: {told}");
    assert_eq!(told.as_object().unwrap().len(), 8, "{told}");
}

#[test]
fn s114_a_sign_out_tells_each_application_once_by_a_token_that_stands_every_check() {
    let w = world();
    let receivers: Vec<_> = (0..3).map(|_| Receiver::start(Manner::Answer(200))).collect();
    let algorithms = ["RS256", "ES256", "EdDSA"];
    let apps: Vec<_> = receivers
        .iter()
        .zip(algorithms)
        .map(|(receiver, alg)| {
            app(&w.server, &receiver.url("/logout?x=1"), &json!({"id_token_signed_response_alg": alg}))
        })
        .collect();
    // One that was given nothing in this session is not told.
    let stranger = Receiver::start(Manner::Answer(200));
    app(&w.server, &stranger.url("/"), &json!({}));
    let browser = w.browser();
    let tokens: Vec<_> = apps.iter().map(|app| app.tokens(&browser, "openid")).collect();
    // Twice in one session is still one application.
    apps[0].tokens(&browser, "openid");
    sign_out(&w, &browser);
    let start = Instant::now();
    for ((receiver, app), tokens) in receivers.iter().zip(&apps).zip(&tokens) {
        let got = first(receiver, "the logout token");
        assert_eq!(got.path, "/logout?x=1");
        assert_eq!(got.content_type, "application/x-www-form-urlencoded");
        let mut seen = HashSet::new();
        check_as_section_2_6(&w, app, &got.token, &claims(tokens.id()), &mut seen);
        assert!(!app.is_active(tokens.access()));
        app.refresh(tokens.refresh()).refused(400, "invalid_grant");
        // It opens nothing: neither an access token nor a hint of an ID token.
        assert_eq!(app.userinfo(&got.token).status, 401);
        assert!(!app.is_active(&got.token));
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    support::wait_until(Instant::now() + Duration::from_secs(3));
    assert!(receivers.iter().all(|receiver| receiver.received().len() == 1), "each exactly once");
    assert!(stranger.received().is_empty());
}

#[test]
fn s95_s115_slow_failing_dead_and_lying_receivers_delay_nobody_and_are_tried_again() {
    let w = world();
    let trap = Receiver::start(Manner::Answer(200));
    let good = Receiver::start(Manner::Answer(204));
    let slow = Receiver::start(Manner::After(Duration::from_secs(30)));
    let failing = Receiver::start(Manner::Answer(500));
    let refusing = Receiver::start(Manner::Answer(400));
    let lying = Receiver::start(Manner::Redirect(trap.url("/caught")));
    let endless = Receiver::start(Manner::Endless);
    let dead = format!("http://127.0.0.1:{}/", free_port());
    let browser = w.browser();
    for uri in [&slow, &failing, &refusing, &lying, &endless].map(|receiver| receiver.url("/")).iter().chain([&dead]) {
        app(&w.server, uri, &json!({})).tokens(&browser, "openid");
    }
    app(&w.server, &good.url("/"), &json!({})).tokens(&browser, "openid");
    let took = sign_out(&w, &browser);
    let start = Instant::now();
    assert!(took < Duration::from_secs(2), "{took:?}");
    first(&good, "the good receiver");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // The first new try comes within two seconds, under the same jti.
    for receiver in [&failing, &refusing, &lying] {
        let tries = wait_for("a second try", || Some(receiver.received()).filter(|tries| tries.len() >= 2));
        assert!(tries[1].at - tries[0].at < Duration::from_millis(2_500), "{:?}", tries[1].at - tries[0].at);
        assert_eq!(claims(&tries[0].token)["jti"], claims(&tries[1].token)["jti"], "s115");
    }
    let tries = wait_for("a second try of the slow one", || Some(slow.received()).filter(|tries| tries.len() >= 2));
    assert!(tries[1].at - tries[0].at > Duration::from_secs(4), "it was waited for");
    assert!(trap.received().is_empty(), "no redirect is followed");
    assert_eq!(endless.received().len(), 1, "200 is enough");
    wait_for("the endless one to be let go", || (endless.open() == 0).then_some(()));
    assert_eq!(good.received().len(), 1);
    let list: Value = serde_json::from_str(&w.server.cli_ok(&["logout-delivery", "list", "--json"], "")).unwrap();
    let errors = list.to_string();
    assert_eq!(list.as_array().unwrap().len(), 5, "{errors}");
    for why in ["status 500", "status 400", "status 302"] {
        assert!(errors.contains(why), "{why}: {errors}");
    }
    // One that is well again gets it, and is told no more.
    failing.behave(Manner::Answer(200));
    w.server.cli_ok(&["logout-delivery", "retry", "--all"], "");
    let count = failing.received().len();
    wait_for("the repaired receiver", || (failing.received().len() > count).then_some(()));
    wait_for("the list to say so", || {
        let list = w.server.cli_ok(&["logout-delivery", "list"], "");
        (!list.contains("status 500")).then_some(())
    });
}

#[test]
fn s95_s115_a_slow_receiver_delays_nobody_behind_the_same_host() {
    let w = world();
    let gateway = Receiver::start(Manner::AfterAt("/slow", Duration::from_secs(30)));
    let at = |path: &str| gateway.received().iter().filter(|received| received.path == path).count();
    let (slow, good) = (gateway.url("/slow"), gateway.url("/good"));
    let (slow, good) = (app(&w.server, &slow, &json!({})), app(&w.server, &good, &json!({})));
    // A heap of what is due at the slow one first, of which a few are always under way or rest.
    for _ in 0..6 {
        let browser = w.browser();
        slow.tokens(&browser, "openid");
        sign_out(&w, &browser);
    }
    wait_for("the slow one to have begun", || (at("/slow") > 0).then_some(()));
    for count in 1..4 {
        let browser = w.browser();
        slow.tokens(&browser, "openid");
        good.tokens(&browser, "openid");
        sign_out(&w, &browser);
        let start = Instant::now();
        wait_for("the good one", || (at("/good") == count).then_some(()));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        std::thread::sleep(Duration::from_secs(3));
    }
    assert!(at("/slow") >= 2, "and the slow one is tried on");
}

#[test]
fn s114_who_signs_out_at_one_of_three_applications_is_out_at_the_others_within_a_second() {
    let w = world();
    let receivers: Vec<_> = (0..3).map(|_| Receiver::start(Manner::Answer(200))).collect();
    let apps: Vec<_> = receivers.iter().map(|receiver| app(&w.server, &receiver.url("/"), &json!({}))).collect();
    let browser = w.browser();
    let tokens: Vec<_> = apps.iter().map(|app| app.tokens(&browser, "openid")).collect();
    let query = support::form(&[("id_token_hint", tokens[0].id())]);
    browser.open(w.server.url(&format!("/logout?{query}"))).is("logout-done");
    let answered = Instant::now();
    let mut seen = HashSet::new();
    for n in [1, 2] {
        let got = first(&receivers[n], "the logout token");
        let took = got.at.saturating_duration_since(answered);
        assert!(took < Duration::from_secs(1), "told after {took:?}");
        check_as_section_2_6(&w, &apps[n], &got.token, &claims(tokens[n].id()), &mut seen);
    }
    support::wait_until(answered + Duration::from_secs(3));
    assert!(receivers.iter().all(|receiver| receiver.received().len() == 1), "each exactly once");
}

#[test]
fn s95_a_receiver_behind_https_is_told_where_the_operator_trusts_its_certificate_and_nowhere_else() {
    let (trusted, other) = (Certificate::new(), Certificate::new());
    let good = Receiver::start_tls(Manner::Answer(200), &trusted);
    let stranger = Receiver::start_tls(Manner::Answer(200), &other);
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &trusted.pem).unwrap();
    // Fenced as in production, but for these hosts and ports.
    let allow = format!("localhost:{0},127.0.0.1:{0},localhost:{1}", good.port, stranger.port);
    let w = World::new(&[
        ("COUNTERSIGN_OUTBOUND__ALLOW", &allow),
        ("COUNTERSIGN_OUTBOUND__CA_FILE", ca_file.to_str().unwrap()),
    ]);
    let browser = w.browser();
    // The second has a certificate that is trusted, for another name than it is called by.
    let uris = [good.tls_url("/right"), format!("https://127.0.0.1:{}/other-name", good.port), stranger.tls_url("/")];
    let apps = uris.each_ref().map(|uri| app(&w.server, uri, &json!({})));
    for app in &apps {
        app.tokens(&browser, "openid");
    }
    sign_out(&w, &browser);
    assert_eq!(first(&good, "the trusted receiver").path, "/right");
    let open = wait_for("second tries at the others", || {
        let list = w.server.cli_ok(&["logout-delivery", "list", "--json"], "");
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        (list.len() == 2 && list.iter().all(|one| one["attempts"].as_i64() >= Some(2))).then_some(list)
    });
    for one in open {
        assert!([&apps[1].id, &apps[2].id].iter().any(|id| one["client_id"] == id.as_str()), "{one}");
        assert!(one["last_error"].as_str().unwrap().contains("certificate"), "{one}");
    }
    assert!(stranger.received().is_empty());
    assert_eq!(good.received().len(), 1, "by its own name alone");
}

#[test]
fn s115_what_no_try_of_a_day_has_delivered_is_given_up_loudly_and_its_owner_is_told() {
    let clock = FalseClock::new();
    let operator = format!("127.0.0.1:{}", free_port());
    let environment = clock.environment();
    let mut env: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.extend([ALLOWED, ("COUNTERSIGN_METRICS__LISTEN", &operator)]);
    let w = World::new(&env);
    let receiver = Receiver::start(Manner::Answer(500));
    let shop = app(&w.server, &receiver.url("/"), &json!({"client_name": "Shop <&>"}));
    let browser = w.browser();
    shop.tokens(&browser, "openid");
    let listed = || {
        let list: Vec<Value> =
            serde_json::from_str(&w.server.cli_ok(&["logout-delivery", "list", "--json"], "")).unwrap();
        list.into_iter().next().unwrap()
    };
    let untold = || {
        let page = browser.open(w.server.url("/account/sessions"));
        let page = if page.has("login-page") { browser.sign_in_as(&page, "ada", support::PASSWORD) } else { page };
        page.is("sessions-page").answer.body.clone()
    };
    sign_out(&w, &browser);
    let tries = wait_for("three tries", || Some(receiver.received()).filter(|tries| tries.len() >= 3));
    assert!(tries[1].at - tries[0].at < Duration::from_secs(2), "{:?}", tries[1].at - tries[0].at);
    assert!(tries[2].at - tries[1].at > tries[1].at - tries[0].at, "further and further apart");
    // A day less a minute later it is still tried.
    let count = receiver.received().len();
    clock.set("+86340s");
    wait_for("a try at the end of the day", || (receiver.received().len() > count).then_some(()));
    assert!(listed()["state"].as_str().unwrap().starts_with("waits"), "{}", listed());
    assert!(!untold().contains("sessions-untold"));
    clock.set("+86500s");
    wait_for("the end of trying", || listed()["state"].as_str().unwrap().starts_with("given up").then_some(()));
    let log = w.server.log();
    let said = log.lines().find(|line| line.contains("could not be delivered for a day")).unwrap();
    assert!(said.contains("ERROR") && said.contains(&shop.id) && said.contains("status 500"), "{said}");
    let metrics = get(format!("http://{operator}/metrics")).body;
    assert!(metrics.contains("countersign_logout_deliveries_total{outcome=\"given_up\"} 1"), "{metrics}");
    let page = untold();
    assert!(page.contains("id=\"sessions-untold\"") && page.contains("Shop &#60;&#38;&#62;"), "{page}");
    assert!(page.contains("could not be told that you were signed out on"), "{page}");
    // Nobody else is told of it.
    w.server.user("eve");
    let stranger = w.browser();
    let login = stranger.open(w.server.url("/account/sessions"));
    let page = stranger.sign_in_as(&login, "eve", support::PASSWORD);
    assert!(!page.is("sessions-page").answer.body.contains("sessions-untold"));
    // Well again, it is told by the operator's hand, and the account has nothing to say any more.
    receiver.behave(Manner::Answer(200));
    let count = receiver.received().len();
    w.server.cli_ok(&["logout-delivery", "retry", "--client", &shop.id], "");
    wait_for("the last try", || (receiver.received().len() > count).then_some(()));
    wait_for("the account to know", || (!untold().contains("sessions-untold")).then_some(()));
    let names: HashSet<String> = receiver.received().iter().map(|got| claims(&got.token)["jti"].to_string()).collect();
    assert_eq!(names.len(), 1, "one jti from the first try to the last");
}

#[test]
fn s115_a_server_killed_in_the_middle_of_deliveries_loses_none() {
    let w = world();
    let receivers: Vec<_> = (0..6).map(|_| Receiver::start(Manner::After(Duration::from_secs(1)))).collect();
    let browser = w.browser();
    for receiver in &receivers {
        app(&w.server, &receiver.url("/"), &json!({})).tokens(&browser, "openid");
    }
    sign_out(&w, &browser);
    w.server.kill();
    let before: Vec<_> = receivers.iter().map(Receiver::received).collect();
    for receiver in &receivers {
        receiver.behave(Manner::Answer(200));
    }
    w.server.start();
    let deadline = Instant::now() + Duration::from_secs(30);
    while w.server.cli_ok(&["logout-delivery", "list", "--json"], "").trim() != "[]" {
        assert!(Instant::now() < deadline, "deliveries are still open");
        support::wait_until(Instant::now() + Duration::from_millis(100));
    }
    for (receiver, before) in receivers.iter().zip(before) {
        let all = receiver.received();
        assert!(!all.is_empty(), "at least once");
        let names: HashSet<String> = all.iter().map(|got| claims(&got.token)["jti"].to_string()).collect();
        assert_eq!(names.len(), 1, "s115 the same jti on each try; {} came before the kill", before.len());
    }
}

#[test]
fn s76_every_way_in_which_a_session_ends_tells_its_applications() {
    let w = world();
    w.server.user("eve");
    let receiver = Receiver::start(Manner::Answer(200));
    let told = app(&w.server, &receiver.url("/"), &json!({}));
    let mut count = 0;
    let mut expect = |what: &str| {
        count += 1;
        wait_for(what, || (receiver.received().len() >= count).then_some(()));
    };
    let signed_in = || {
        let browser = w.browser();
        let tokens = told.tokens(&browser, "openid");
        (claims(tokens.id())["sid"].as_str().unwrap().to_owned(), browser)
    };
    let (sid, _) = signed_in();
    let done = w.server.cli_ok(&["revoke", "--session", &sid, "--wait"], "");
    assert!(done.contains("All applications have been told"), "{done}");
    expect("revoke --session");
    signed_in();
    w.server.cli_ok(&["revoke", "--user", "ada", "--wait"], "");
    expect("revoke --user");
    signed_in();
    w.server.cli_ok(&["revoke", "--all", "--wait"], "");
    expect("revoke --all");
    signed_in();
    w.server.cli_ok(&["user", "set-password", "ada", "--password-stdin"], &format!("{}\n", support::PASSWORD));
    expect("a new password");
    let (_, browser) = signed_in();
    let page = browser.open(told.request().with("prompt", "select_account").url());
    let page = browser.press(&page, "account-other", &[]);
    browser.sign_in_as(&page, "eve", support::PASSWORD);
    expect("another person in the same browser");
    signed_in();
    w.server.cli_ok(&["user", "disable", "ada"], "");
    expect("user disable");
}

#[test]
fn s95_a_logout_uri_behind_the_fence_is_never_connected_to() {
    let w = World::new(&[]);
    let receiver = Receiver::start(Manner::Answer(200));
    let browser = w.browser();
    app(&w.server, &receiver.url("/"), &json!({})).tokens(&browser, "openid");
    app(&w.server, "https://localhost/metadata", &json!({})).tokens(&browser, "openid");
    sign_out(&w, &browser);
    wait_for("the refusals", || {
        let list = w.server.cli_ok(&["logout-delivery", "list"], "");
        (list.contains("not allowed") && list.contains("no address that may be connected to")).then_some(())
    });
    assert!(receiver.received().is_empty());
}

#[test]
fn logout_metadata_is_checked_at_registration_and_announced_in_discovery() {
    let w = support::world();
    let discovery = w.get("/.well-known/openid-configuration").ok();
    assert_eq!(discovery["backchannel_logout_supported"], true);
    assert_eq!(discovery["backchannel_logout_session_supported"], true);
    for bad in [
        "http://rp.example/logout",
        "https://rp.example/l#x",
        "/logout",
        "ftp://rp.example/",
        "https://u:p@rp.example/",
    ] {
        let metadata = json!({"redirect_uris": ["https://rp.example/cb"], "backchannel_logout_uri": bad});
        let output = w.server.cli(&["client", "create", "-"], &metadata.to_string());
        assert!(!output.status.success(), "{bad}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("backchannel_logout_uri"), "{bad}");
    }
}
