//! The command line: beside a running server, and before one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{PASSWORD, TestServer, World, claims, wait_for, wait_until, word, world};

/// Standard error of a command that must fail, and must say nothing on standard output.
#[track_caller]
fn fails(server: &TestServer, args: &[&str], stdin: &str) -> String {
    let output = server.cli(args, stdin);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!output.status.success(), "{args:?}: {stdout}{stderr}");
    assert!(stdout.is_empty(), "{args:?}: {stdout}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    assert!(!stderr.trim().is_empty(), "{args:?} fails without a word");
    stderr
}

#[test]
fn client_create_answers_by_rfc_7591_and_the_server_sees_it_within_a_second() {
    let w = world();
    let metadata = json!({
        "client_name": "Beside", "redirect_uris": ["https://beside.example/callback"], "contacts": ["a@example.com"],
    });
    let file = w.server.home().join("client.json");
    fs::write(&file, metadata.to_string()).unwrap();
    for (source, stdin) in [("-", metadata.to_string()), (file.to_str().unwrap(), String::new())] {
        let created = w.server.cli_ok(&["client", "create", source], &stdin);
        let done = Instant::now();
        let created: Value = serde_json::from_str(&created).unwrap();
        assert!(created["client_secret"].as_str().unwrap().starts_with("cs_cs_"), "{created}");
        assert!(created["client_id_issued_at"].is_u64(), "{created}");
        assert_eq!(created["client_secret_expires_at"], 0);
        for (name, value) in [
            ("client_name", json!("Beside")),
            ("contacts", json!(["a@example.com"])),
            ("grant_types", json!(["authorization_code"])),
            ("response_types", json!(["code"])),
            ("token_endpoint_auth_method", json!("client_secret_basic")),
            ("id_token_signed_response_alg", json!("RS256")),
        ] {
            assert_eq!(created[name], value, "{name}: {created}");
        }
        let app = support::App::new(&w.server.issuer, created);
        wait_for("the server to see the client", || w.server.knows(&app).then_some(()));
        assert!(done.elapsed() < Duration::from_secs(1), "{:?}", done.elapsed());
    }
}

#[test]
fn client_list_show_and_delete() {
    let w = world();
    let name = word();
    let app = w.server.client(&json!({"client_name": name, "redirect_uris": ["https://shown.example/callback"]}));
    let list = w.server.cli_ok(&["client", "list"], "");
    assert!(list.contains(&app.id) && list.contains(&name), "{list}");
    let shown = w.server.cli_ok(&["client", "show", &app.id], "");
    assert!(shown.contains("https://shown.example/callback"), "{shown}");
    assert!(!shown.contains(app.secret.as_deref().unwrap()));
    w.server.cli_ok(&["client", "delete", &app.id], "");
    wait_for("the client to go", || (!w.server.knows(&app)).then_some(()));
    assert!(!w.server.cli_ok(&["client", "list"], "").contains(&app.id));
    for command in ["show", "delete", "rotate-secret"] {
        let complaint = fails(&w.server, &["client", command, &app.id], "");
        assert!(complaint.contains(&app.id), "{complaint}");
    }
}

#[test]
fn client_update_changes_what_is_registered_and_keeps_the_secret() {
    let w = world();
    let app = w.server.client(&json!({
        "client_name": word(), "grant_types": ["client_credentials"], "redirect_uris": [], "scope": "jobs",
    }));
    let mut shown: Value = serde_json::from_str(&w.server.cli_ok(&["client", "show", &app.id], "")).unwrap();
    shown["client_name"] = "After".into();
    shown["scope"] = "jobs reports".into();
    let updated = w.server.cli_ok(&["client", "update", &app.id, "-"], &shown.to_string());
    let updated: Value = serde_json::from_str(&updated).unwrap();
    assert_eq!(updated, shown);
    let again: Value = serde_json::from_str(&w.server.cli_ok(&["client", "show", &app.id], "")).unwrap();
    assert_eq!(again, shown);
    // The secret is the same, and the server sees the rest.
    wait_for("the new scope", || {
        let answer = app.post("/token", &[("grant_type", "client_credentials"), ("scope", "reports")]);
        (answer.status == 200).then_some(())
    });

    // So may be what `client create` answered: the secret in it is neither changed nor complained of.
    let answer = json!({
        "client_id": app.id, "client_id_issued_at": 1, "client_secret": "another", "client_secret_expires_at": 0,
        "grant_types": ["client_credentials"], "redirect_uris": [], "scope": "jobs reports",
    });
    let output = w.server.cli(&["client", "update", &app.id, "-"], &answer.to_string());
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !complaint.contains("client_secret"), "{complaint}");
    app.post("/token", &[("grant_type", "client_credentials")]).ok();

    // All of it is replaced.
    let callback = json!({"redirect_uris": ["https://after.example/callback"]});
    let updated = w.server.cli_ok(&["client", "update", &app.id, "-"], &callback.to_string());
    assert!(!updated.contains("After") && updated.contains("authorization_code"), "{updated}");
    wait_for("the old grant type to go", || {
        let answer = app.post("/token", &[("grant_type", "client_credentials")]);
        (answer.status == 400 && answer.json()["error"] == "unauthorized_client").then_some(())
    });

    for (metadata, named) in [
        (json!({"redirect_uris": ["https://x.example/"], "client_id": "another"}), "client_id"),
        (json!({"redirect_uris": ["https://x.example/"], "token_endpoint_auth_method": "none"}), "has a secret"),
        (json!({"redirect_uris": ["http://x.example/"]}), "http://x.example/"),
    ] {
        let complaint = fails(&w.server, &["client", "update", &app.id, "-"], &metadata.to_string());
        assert!(complaint.contains(named), "{complaint}");
    }
    assert!(fails(&w.server, &["client", "update", "nobody", "-"], "{}").contains("nobody"));
}

#[test]
fn s1_no_code_goes_to_an_address_that_was_taken_away_meanwhile() {
    let w = world();
    let (old, new) = ("https://old.example/callback", "https://new.example/callback");
    let app = w.server.client(&json!({"redirect_uris": [old], "skip_consent": true}));
    wait_for("the server to see the client", || w.server.knows(&app).then_some(()));
    let (kept, browser) = (w.browser(), w.browser());
    assert!(kept.through(app.request().url()).url.as_str().starts_with(old));
    let page = browser.open(app.request().url());
    w.server.cli_ok(
        &["client", "update", &app.id, "-"],
        &json!({"redirect_uris": [new], "skip_consent": true}).to_string(),
    );
    wait_for("the change", || kept.open(app.request().url()).has("error-page").then_some(()));
    let after = browser.sign_in_as(&page, "ada", PASSWORD);
    assert!(!after.url.as_str().starts_with(old), "{}", after.url);
}

#[test]
fn client_create_says_what_is_wrong() {
    let w = world();
    for (metadata, named) in [
        ("{", ""),
        ("[]", ""),
        ("", ""),
        (r#"{"redirect_uris": []}"#, "redirect_uris"),
        (r#"{"redirect_uris": ["http://x.example/"]}"#, "http://x.example/"),
        (r#"{"redirect_uris": ["https://x.example/"], "grant_types": ["implicit"]}"#, "implicit"),
        (r#"{"redirect_uris": ["https://x.example/"], "token_endpoint_auth_method": "private_key_jwt"}"#, "jwks"),
        (r#"{"redirect_uris": ["https://x.example/"], "subject_type": "pairwise"}"#, "subject_type"),
        (r#"{"redirect_uris": ["https:///x.example/"]}"#, "https:///x.example/"),
        (r#"{"redirect_uris": ["https://x.example/?state=1"]}"#, "state"),
        (
            r#"{"redirect_uris": ["https://x.example/"], "token_endpoint_auth_method": "private_key_jwt",
                "jwks": {"keys": [{"kty": "EC", "crv": "P-256", "x": "AQ", "y": "Ag"}]}}"#,
            "`jwks` holds no key",
        ),
        (r#"{"redirect_uris": ["https://x.example/"], "require_pkce": "no"}"#, "`require_pkce` must be true or false"),
        (r#"{"redirect_uris": ["https://x.example/"], "client_name": "Shop\u202eknaB"}"#, "client_name"),
        (r#"{"redirect_uris": ["https://x.example/"], "post_logout_redirect_uris": ["x.example:/"]}"#, "native"),
    ] {
        let complaint = fails(&w.server, &["client", "create", "-"], metadata);
        assert!(complaint.contains(named), "{metadata}: {complaint}");
    }
    fails(&w.server, &["client", "create", "no-such-file.json"], "");
}

#[test]
fn a_client_that_demands_what_nobody_can_show_is_warned_of() {
    let metadata = r#"{"client_name": "Strict", "redirect_uris": ["https://x.example/"], "require_mfa": true}"#;
    for (required, warned) in [("never", true), ("optional", false)] {
        let server = TestServer::prepare(&[("COUNTERSIGN_MFA__REQUIRED", required)]);
        let output = server.cli(&["client", "create", "-"], metadata);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        assert_eq!(told.contains("warning: `require_mfa`"), warned, "{told}");
    }
    assert!(TestServer::prepare(&[]).cli_ok(&["client", "create", "--help"], "").contains("require_mfa"));
}

#[test]
fn users_are_created_shown_and_disabled() {
    let w = world();
    let name = word();
    w.server.user(&name);
    let list = w.server.cli_ok(&["user", "list"], "");
    assert!(list.contains(&name), "{list}");
    let shown = w.server.cli_ok(&["user", "show", &name], "");
    assert!(shown.contains(&format!("{name}@example.com")), "{shown}");
    assert!(!shown.contains(PASSWORD) && !shown.contains("$argon2"), "{shown}");
    let browser = w.browser();
    browser.through_as(w.web.request().url(), &name).code();
    w.server.cli_ok(&["user", "disable", &name], "");
    assert!(w.server.cli_ok(&["user", "show", &name], "").contains("disabled"));

    let create = |name: &str, password: &str| {
        let email = format!("{name}@example.com");
        fails(&w.server, &["user", "create", name, "--email", &email, "--password-stdin"], password)
    };
    assert!(create(&name, PASSWORD).contains(&name), "a name is used once");
    assert!(create("short", "fourteen chars").contains("15"), "the least length is named");
    assert!(!create("short", "fourteen chars").contains("fourteen chars"), "a password is not repeated");
    create("empty", "");
    fails(&w.server, &["user", "show", "nobody"], "");
    fails(&w.server, &["user", "disable", "nobody"], "");
}

#[test]
fn owners_are_told_by_mail_of_what_the_operator_does_to_their_account() {
    let server = TestServer::running(&[support::TO_DIRECTORY]);
    for name in ["ada", "bob"] {
        server.user(name);
    }
    let browser = support::Browser::new(&server);
    browser.sign_in_as(&browser.open(server.url("/")), "ada", PASSWORD).is("home-page");
    support::phone::enrol(&server, &browser);
    assert!(server.mail_to("ada@example.com", 1).text.contains("A second step was added"));
    let told = |address: &str, number: usize, words: &str| {
        let mail = server.mail_to(address, number);
        assert!(mail.text.contains(words) && mail.text.contains("By: the people who run"), "{words}: {}", mail.text);
        assert!(!mail.text.contains("Browser:"), "{}", mail.text);
    };
    server.cli_ok(&["user", "set-password", "ada", "--password-stdin"], "a different horse ate the battery\n");
    told("ada@example.com", 2, "The password of your account was changed");
    server.cli_ok(&["user", "reset-mfa", "ada"], "");
    told("ada@example.com", 3, "Every authenticator and recovery code was removed");
    // Nothing changes, so nothing is told.
    server.cli_ok(&["user", "reset-mfa", "ada"], "");
    server.cli_ok(&["user", "set-email", "ada", "ada@example.com", "--verified"], "");
    server.cli_ok(&["user", "set-email", "ada", "new@example.com"], "");
    told("ada@example.com", 4, "The e-mail address of your account is now new@example.com");
    // A link for a new password would go to whoever has the new address.
    let advice = server.mail_to("ada@example.com", 4).text;
    assert!(advice.contains("tell the people who run") && !advice.contains("/password/forgot"), "{advice}");
    server.cli_ok(&["user", "set-email", "ada", "--remove"], "");
    told("new@example.com", 1, "has no e-mail address any more");
    server.cli_ok(&["user", "set-password", "ada", "--password-stdin"], &format!("{PASSWORD}\n"));

    server.cli_ok(&["user", "disable", "bob"], "");
    told("bob@example.com", 1, "Nobody can sign in to your account");
    server.cli_ok(&["user", "disable", "bob"], "");
    server.cli_ok(&["user", "enable", "bob"], "");
    server.cli_ok(&["user", "delete", "bob", "--yes"], "");
    told("bob@example.com", 2, "Your account and all that belonged to it were deleted");
    assert_eq!(server.mails().len(), 7, "{:?}", server.mails());
}

#[test]
fn a_user_is_deleted_by_name_with_all_that_they_have_running() {
    let w = World::new(&[]);
    let browser = w.browser();
    let held = w.web.tokens(&browser, "openid offline_access");
    let refused = fails(&w.server, &["user", "delete", "ada"], "aad\n");
    assert!(refused.contains("would delete user ada") && refused.contains("1 session and 1 grant"), "{refused}");
    assert!(refused.contains("nothing has been changed") && w.web.is_active(held.access()), "{refused}");
    fails(&w.server, &["user", "delete", "ada"], "");
    let sub = claims(held.id())["sub"].as_str().unwrap().to_owned();
    let done = w.server.cli_ok(&["user", "delete", "Ada"], "ada\n");
    assert!(done.contains("Deleted user ada; 1 session and 1 grant"), "{done}");
    assert!(!w.web.is_active(held.access()));
    w.web.refresh(held.refresh()).refused(400, "invalid_grant");
    assert_eq!(browser.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
    fails(&w.server, &["user", "show", "ada"], "");
    assert!(fails(&w.server, &["user", "delete", "ada", "--yes"], "").contains("there is no user ada"));
    // Another one of that name is another person.
    w.server.user("ada");
    assert!(!w.server.cli_ok(&["user", "show", "ada"], "").contains(&sub));
    w.server.cli_ok(&["user", "create", "root", "--admin", "--password-stdin"], PASSWORD);
    assert!(fails(&w.server, &["user", "delete", "root", "--yes"], "").contains("last administrator"));
    w.server.cli_ok(&["user", "rm", "ada", "--yes"], "");
}

#[test]
fn s71_long_passwords_and_other_alphabets_are_taken_whole() {
    let w = world();
    let name = word();
    let email = format!("{name}@example.com");
    // 127 characters; the last one counts. Composed and decomposed forms are one (NFKC).
    let letters = (0..126).map(|n| char::from_u32(0x4e00 + n * 37 % 6000).unwrap());
    let password = format!("{}\u{e4}", letters.collect::<String>());
    w.server.cli_ok(&["user", "create", &name, "--email", &email, "--password-stdin"], &format!("{password}\n"));
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    let cut: String = password.chars().take(126).collect();
    let page = browser.sign_in_as(&page, &name, &cut);
    let decomposed = password.replace('\u{e4}', "a\u{308}");
    browser.sign_in_as(&page, &name, &decomposed).code();
}

#[test]
fn resources_are_created_listed_shown_and_deleted() {
    let w = world();
    let identifier = format!("https://{}.example/", word());
    w.server.resource(&identifier, "read write", &[]);
    assert!(w.server.cli_ok(&["resource", "list"], "").contains(&identifier));
    let shown = w.server.cli_ok(&["resource", "show", &identifier], "");
    assert!(shown.contains("read") && shown.contains("write"), "{shown}");
    w.server.cli_ok(&["resource", "delete", &identifier], "");
    assert!(!w.server.cli_ok(&["resource", "list"], "").contains(&identifier));
    fails(&w.server, &["resource", "show", &identifier], "");
    // Two APIs may have one scope; that is said.
    let (one, other) = (format!("{identifier}one"), format!("{identifier}other"));
    let (shared, own) = (word(), word());
    assert_eq!(w.server.cli(&["resource", "create", &one, "--scope", &shared], "").stderr, b"");
    let output = w.server.cli(&["resource", "create", &other, "--scope", &format!("{shared} {own}")], "");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.starts_with("warning: ") && told.contains(&one), "{told}");
    assert!(told.contains(&shared) && !told.contains(&own), "{told}");
    for bad in ["relative", "https://x.example/#fragment", ""] {
        fails(&w.server, &["resource", "create", bad, "--scope", "read"], "");
    }
}

#[test]
fn s90_a_new_key_is_published_before_it_signs() {
    let w = world();
    let kids = || -> BTreeSet<String> {
        let jwks = w.jwks();
        jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    };
    let before = kids();
    let list = w.server.cli_ok(&["key", "list"], "");
    assert!(before.iter().all(|kid| list.contains(kid)), "{list}");
    let old = w.web.tokens(&w.browser(), "openid");
    w.server.cli_ok(&["key", "rotate"], "");
    wait_for("the new keys", || (kids().len() > before.len()).then_some(()));
    assert!(kids().is_superset(&before), "the old ones stay");
    let new = w.web.tokens(&w.browser(), "openid");
    for token in [old.id(), old.access(), new.id(), new.access()] {
        support::verify(token, &w.jwks());
        assert!(before.contains(support::header(token)["kid"].as_str().unwrap()), "an hour ahead by default");
    }
    w.web.userinfo(old.access()).ok();
}

#[test]
fn s90_without_a_time_ahead_the_new_key_signs_at_once() {
    let w = support::World::new(&[("COUNTERSIGN_SIGNING_KEY__PUBLISH_AHEAD", "0s")]);
    let browser = w.browser();
    let old = w.web.tokens(&browser, "openid");
    let kid = |token: &str| support::header(token)["kid"].clone();
    w.server.cli_ok(&["key", "rotate"], "");
    let new = wait_for("a token by the new key", || {
        let tokens = w.web.tokens(&browser, "openid");
        (kid(tokens.id()) != kid(old.id()) && kid(tokens.access()) != kid(old.access())).then_some(tokens)
    });
    for token in [old.id(), old.access(), new.id(), new.access()] {
        support::verify(token, &w.jwks());
    }
    w.web.userinfo(old.access()).ok();
    w.server.restart();
    w.web.userinfo(old.access()).ok();
}

#[test]
fn a_second_server_on_one_database_refuses() {
    let w = world();
    let mut command = w.server.command(&["serve"]);
    command.env("COUNTERSIGN_LISTEN", format!("127.0.0.1:{}", support::server::free_port()));
    let output = support::server::run(command, "");
    assert!(!output.status.success(), "{output:?}");
    assert!(!String::from_utf8(output.stderr).unwrap().trim().is_empty());
    assert_eq!(w.get("/health/ready").status, 200);
}

#[test]
fn configuration_errors_name_the_place_and_each_has_a_line() {
    let server = TestServer::prepare(&[]);
    let file = server.home().join("odd.toml");
    let check = |toml: &str| {
        fs::write(&file, toml).unwrap();
        fails(&server, &["config", "check", "--config", file.to_str().unwrap()], "")
    };
    for (toml, named) in [
        ("isuer = \"https://id.example\"", "isuer"),
        ("[access_token]\nlifetime = 600", "access_token.lifetime"),
        ("[access_token]\nlifetime = \"soon\"", "access_token.lifetime"),
        ("[refresh_token]\nreuse_leeway = \"1h\"", "refresh_token.reuse_leeway"),
        ("[password]\nmin_length = 4", "password.min_length"),
        ("[password]\nmemory = 8", "password.memory"),
        ("log.level = \"loud\"", "log.level"),
        ("database_url = \"mysql://x\"", "database_url"),
        ("[tls]\ncertificate = \"x.pem\"", "tls.key"),
        ("not toml", "odd.toml"),
    ] {
        let complaint = check(toml);
        assert!(complaint.contains(named) && complaint.contains("odd.toml"), "{toml}: {complaint}");
    }
    let both = check("isuer = \"x\"\n[access_token]\nlifetime = \"soon\"");
    let lines: Vec<_> = both.lines().filter(|line| line.contains("isuer") || line.contains("lifetime")).collect();
    assert_eq!(lines.len(), 2, "one line per problem: {both}");
    fails(&server, &["config", "check", "--config", "no-such-file.toml"], "");

    fs::write(&file, "[access_token]\nlifetime = \"5m\"\n").unwrap();
    server.cli_ok(&["config", "check", "--config", file.to_str().unwrap()], "");
}

#[test]
fn the_environment_is_checked_as_well_and_nothing_starts_half_configured() {
    for (key, value) in [
        ("COUNTERSIGN_ISUER", "https://id.example"),
        ("COUNTERSIGN_ACCESS_TOKEN__LIFETIME", "soon"),
        ("COUNTERSIGN_ISSUER", "http://id.example"),
        ("COUNTERSIGN_ISSUER", "https://id.example/path"),
        ("COUNTERSIGN_ISSUER", "https://id.example?x"),
        ("COUNTERSIGN_LISTEN", "nowhere"),
        ("COUNTERSIGN_TRUSTED_PROXIES", "10.0.0.0/99"),
        ("COUNTERSIGN_KEY_ENCRYPTION_KEY", "c2hvcnQ="),
    ] {
        let server = TestServer::prepare(&[(key, value)]);
        for args in [&["config", "check"][..], &["serve"], &[]] {
            let complaint = fails(&server, args, "");
            assert!(complaint.contains(key), "{args:?} {key}={value}: {complaint}");
        }
        assert!(!server.data_dir().exists(), "nothing was made: {key}={value}");
    }
}

#[test]
fn help_reads_like_a_manual() {
    let server = TestServer::prepare(&[]);
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["config", "check", "--help"],
        &["user", "create", "--help"],
        &["user", "set-claims", "--help"],
        &["client", "create", "--help"],
        &["resource", "create", "--help"],
        &["key", "rotate", "--help"],
        &["db", "migrate", "--help"],
    ] {
        let help = server.cli_ok(args, "");
        assert!(help.contains("Usage:") && help.len() > 200, "{args:?}: {help}");
    }
    fails(&server, &["nonsense"], "");
    server.cli_ok(&["db", "migrate"], "");
    server.cli_ok(&["db", "migrate"], "");
}

#[test]
fn s93_private_keys_rest_encrypted_and_need_their_key() {
    let server = TestServer::running(&[]);
    server.stop();
    let mut key_files = 0;
    for file in fs::read_dir(server.data_dir()).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        for private in [&b"PRIVATE KEY"[..], b"\"d\":"] {
            assert!(!bytes.windows(private.len()).any(|window| window == private), "{}", path.display());
        }
        if path.extension().is_some_and(|extension| extension == "key") {
            key_files += 1;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
            fs::remove_file(&path).unwrap();
        }
    }
    assert_eq!(key_files, 1);
    let complaint = fails(&server, &["serve"], "");
    assert!(complaint.contains("key"), "{complaint}");
}

#[test]
fn sigterm_ends_the_server_in_peace_and_the_data_stay() {
    let w = support::World::new(&[]);
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid");
    w.server.restart();
    browser.open(w.web.request().url()).code();
    w.web.refresh(tokens.refresh()).ok();
}

#[test]
fn s91_a_compromised_key_is_out_at_once_with_what_it_signed() {
    let w = World::new(&[]);
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid offline_access");
    let before = w.jwks();
    assert!(w.web.is_active(tokens.access()));
    w.server.cli_ok(&["key", "rotate", "--compromised"], "");
    wait_for("the token's end", || (!w.web.is_active(tokens.access())).then_some(()));
    let after = w.jwks().to_string();
    for key in before["keys"].as_array().unwrap() {
        assert!(!after.contains(key["kid"].as_str().unwrap()), "{after}");
    }
    assert_eq!(w.web.userinfo(tokens.access()).status, 401);
    assert!(w.web.is_active(&w.web.refresh(tokens.refresh()).text("access_token")));
}

#[test]
fn a_key_rotated_at_once_overtakes_one_that_still_waits() {
    let w = World::new(&[]);
    w.server.cli_ok(&["key", "rotate", "--algorithm", "ES256"], "");
    w.server.cli_ok(&["key", "rotate", "--algorithm", "ES256", "--now"], "");
    let list = w.server.cli_ok(&["key", "list"], "");
    assert!(!list.contains("coming"), "{list}");
    assert_eq!(list.lines().filter(|line| line.contains("ES256") && line.contains("signing")).count(), 1, "{list}");
}

#[test]
fn a_consent_taken_back_ends_its_grants_and_is_asked_for_again() {
    let w = World::new(&[]);
    let browser = w.browser();
    let app = w.server.client(&json!({
        "client_name": "Allowed", "redirect_uris": ["https://allowed.example/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
    }));
    let tokens = app.tokens(&browser, "openid offline_access");
    w.server.cli_ok(&["user", "revoke-consent", "ada", &app.id], "");
    assert!(!app.is_active(tokens.access()));
    app.refresh(tokens.refresh()).refused(400, "invalid_grant");
    browser.open(app.request().url()).is("consent-page");
    fails(&w.server, &["user", "revoke-consent", "ada", &app.id], "");
}

#[test]
fn only_a_command_that_creates_makes_a_database_and_it_says_so() {
    let server = TestServer::prepare(&[]);
    let database = server.data_dir().join("countersign.db");
    let place = database.to_str().unwrap();
    for args in [&["user", "list"][..], &["client", "show", "x"], &["resource", "rm", "x"], &["key", "rotate"]] {
        let complaint = fails(&server, args, "");
        assert!(complaint.contains(&format!("there is no database at {place};")), "{complaint}");
    }
    assert!(!server.data_dir().exists());
    let create = |name| {
        let args = ["user", "add", name, "--email", "Shared@example.com", "--password-stdin"];
        String::from_utf8(server.cli(&args, PASSWORD).stderr).unwrap()
    };
    assert_eq!(create("ada"), format!("note: made a new database at {place}\n"));
    let warning = create("bob");
    assert!(warning.starts_with("warning: ada has this e-mail address too;"), "{warning}");
    for file in fs::read_dir(server.data_dir()).unwrap().map(Result::unwrap) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    let complaint = fails(&server, &["client", "create", "-"], r#"{"redirect_uri": ["https://x.example/"], "x": 1}"#);
    let lines: Vec<_> = complaint.lines().collect();
    assert_eq!(lines.len(), 3, "{complaint}");
    assert!(lines.iter().any(|line| line.ends_with("did you mean `redirect_uris`?")), "{complaint}");
    assert!(lines[2].starts_with("error: "), "{complaint}");
    // A log of writes would mend it.
    for file in fs::read_dir(server.data_dir()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    fs::write(&database, "this was never a database, whatever the name of the file may say").unwrap();
    assert!(fails(&server, &["user", "list"], "").contains("is not a database"));
}

#[test]
fn s93_the_database_and_its_neighbours_are_their_owners_alone() {
    let w = World::new(&[]);
    w.web.tokens(&w.browser(), "openid");
    let files: Vec<_> = fs::read_dir(w.server.data_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.iter().any(|file| file.to_string_lossy().ends_with(".db-wal")), "{files:?}");
    for file in files {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0, "{}", file.display());
    }
}

#[test]
fn an_account_that_must_wait_is_unlocked_from_the_command_line() {
    let w = World::new(&[]);
    let guess = |password: &str| {
        let browser = w.browser();
        browser.sign_in_as(&browser.open(w.web.request().url()), "ada", password)
    };
    // Enough that the wait is longer than a slow machine takes to come back.
    let waits = (0..1000).any(|_| {
        let page = guess("certainly not the password");
        page.answer.status == 429 && page.answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 1)
    });
    assert!(waits);
    assert_eq!(guess(PASSWORD).answer.status, 429);
    w.server.cli_ok(&["user", "unlock", "ada"], "");
    guess(PASSWORD).code();
}

#[test]
fn a_command_acts_at_the_instant_of_what_was_typed_and_not_of_its_start() {
    let w = World::new(&[]);
    let at = |name: &str, what: &str| -> String {
        let shown: Value = serde_json::from_str(&w.server.cli_ok(&["user", "show", name, "--json"], "")).unwrap();
        shown[what].as_str().unwrap().to_owned()
    };
    let waiting =
        [&["user", "create", "late", "--password-stdin"][..], &["user", "set-password", "ada", "--password-stdin"]]
            .map(|args| w.server.command(args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    // Instants are shown to the second.
    wait_until(Instant::now() + Duration::from_millis(1500));
    w.server.user("meanwhile");
    for mut command in waiting {
        command.stdin.take().unwrap().write_all(b"a different horse ate the battery\n").unwrap();
        assert!(command.wait().unwrap().success());
    }
    let meanwhile = at("meanwhile", "created_at");
    assert!(at("late", "created_at") >= meanwhile && at("ada", "updated_at") >= meanwhile);
}

#[test]
fn what_is_urgent_needs_no_key_that_seals() {
    let server = TestServer::running(&[support::TO_DIRECTORY]);
    server.user("ada");
    let browser = support::Browser::new(&server);
    browser.sign_in_as(&browser.open(server.url("/")), "ada", PASSWORD).is("home-page");
    let key = server.data_dir().join("key-encryption.key");
    fs::rename(&key, server.home().join("elsewhere")).unwrap();
    assert!(server.cli_ok(&["session", "list"], "").contains("ada"));
    server.cli_ok(&["logout-delivery", "list"], "");
    assert!(server.cli_ok(&["revoke", "--user", "ada", "--wait"], "").contains("Ended all that user ada has"));
    browser.open(server.url("/")).is("login-page");
    browser.sign_in_as(&browser.open(server.url("/")), "ada", PASSWORD).is("home-page");
    let disabled = server.cli(&["user", "disable", "ada"], "");
    let told = String::from_utf8(disabled.stderr).unwrap();
    assert!(disabled.status.success() && told.starts_with("note: The owner is not told by mail: "), "{told}");
    assert!(told.contains(key.to_str().unwrap()), "{told}");
    browser.open(server.url("/")).is("login-page");
    // What does need it says so, and nothing makes another one, which would open nothing.
    assert!(fails(&server, &["key", "rotate"], "").contains("is missing"));
    assert!(!key.exists() && server.mails().is_empty());
}
