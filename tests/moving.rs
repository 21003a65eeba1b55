//! The database moves from one to the other, is copied while the server runs, and comes back: what lived goes on, and what
//! was revoked does not live again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;

use support::postgres::{execute, shared};
use support::{Browser, TestServer, World, get};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn sqlite(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

/// A server on another database, with the same key-encryption key and issuer.
fn elsewhere(w: &World, url: &str) -> TestServer {
    TestServer::node(&w.server.issuer, &[("COUNTERSIGN_DATABASE_URL", url), ("COUNTERSIGN_KEY_ENCRYPTION_KEY", KEY)])
}

#[test]
fn a_move_to_postgresql_and_back_keeps_who_is_signed_in_and_what_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let first = sqlite(&folder.path().join("first.db"));
    let w = World::new(&[("COUNTERSIGN_DATABASE_URL", &first), ("COUNTERSIGN_KEY_ENCRYPTION_KEY", KEY)]);
    let browser = w.browser();
    let living = w.web.tokens(&browser, "openid offline_access");
    let revoked = w.web.tokens(&browser, "openid offline_access");
    w.web.revoke(revoked.refresh());
    let copy = |from: &str, to: &str| w.server.cli(&["db", "copy", "--from", from, "--to", to], "");
    let postgres = shared().empty_database();
    let refused = copy(&first, &postgres);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("another Countersign is serving"), "{told}");
    w.server.stop();

    let mut token = living.refresh().to_owned();
    let mut told_before = String::new();
    let back = sqlite(&folder.path().join("back.db"));
    for (from, to) in [(&first, &postgres), (&postgres, &back)] {
        let output = copy(from, to);
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{err}");
        assert!(out.contains("grants") && out.contains("users") && err.contains("rows so far"), "{out}{err}");
        assert_ne!(out, told_before);
        told_before = out;
        let again = copy(from, to);
        let told = String::from_utf8_lossy(&again.stderr);
        assert!(!again.status.success() && told.contains("is not empty"), "{told}");

        let server = elsewhere(&w, to);
        server.start();
        let web = w.web.at(&server);
        assert!(web.is_active(&token), "a living refresh token lives on");
        token = web.refresh(&token).text("refresh_token");
        web.refresh(revoked.refresh()).refused(400, "invalid_grant");
        assert!(!web.is_active(revoked.access()), "the log came along");
        // The numbers of the log go on where they were.
        let more = web.refresh(&token).text("refresh_token");
        web.revoke(&more);
        assert!(!web.is_active(&token));
        let jwks = get(server.url("/jwks")).body;
        assert!(jwks.contains("\"kid\""), "{jwks}");
        // Signed in as before: no password is asked for.
        let request = web.request();
        let page = Browser::new(&w.server);
        page.set_cookies(browser.cookies());
        let answer = page.send(support::HTTP.get(request.url()));
        assert!(answer.redirect_query().contains_key("code"), "{answer:?}");
        token = web.redeem_with(&answer.redirect_query()["code"], &[]).text("refresh_token");
        server.stop();
    }
}

#[test]
fn a_copy_that_cannot_be_whole_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::prepare(&[]);
    let missing = sqlite(&folder.path().join("missing.db"));
    let to = sqlite(&folder.path().join("to.db"));
    let copy = |from: &str, to: &str| {
        let output = server.cli(&["db", "copy", "--from", from, "--to", to], "");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(copy(&missing, &to).contains("there is no such database"));
    assert!(!folder.path().join("missing.db").exists());
    let newer = shared().database();
    execute(&newer, "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')");
    assert!(copy(&newer, &to).contains("newer Countersign"));
    let older = shared().database();
    execute(&older, "DELETE FROM __diesel_schema_migrations WHERE version LIKE '20261124600001%'");
    assert!(copy(&older, &to).contains("db migrate"));
    assert!(copy("mysql://x", &to).contains("no database we know"));
}

#[test]
fn s51_a_restored_database_lets_nothing_live_that_was_given_before() {
    let folder = tempfile::tempdir().unwrap();
    let w = World::new(&[
        ("COUNTERSIGN_DATABASE_URL", &sqlite(&folder.path().join("live.db"))),
        ("COUNTERSIGN_KEY_ENCRYPTION_KEY", KEY),
    ]);
    let browser = w.browser();
    let kept = w.web.tokens(&browser, "openid offline_access");
    let revoked = w.web.tokens(&browser, "openid offline_access");
    let file = folder.path().join("backup.db");
    let text = file.to_str().unwrap();
    w.server.cli_ok(&["backup", text], "");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap()) & 0o777, 0o600);
    let again = w.server.cli(&["backup", text], "");
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("is there already"));
    w.web.revoke(revoked.refresh());
    let jwks = w.jwks();
    let restore = |server: &TestServer, more: &[&str]| server.cli(&[&["restore", text], more].concat(), "");
    let refused = restore(&w.server, &[]);
    assert!(!refused.status.success(), "not over a database that serves");
    w.server.stop();
    let refused = restore(&w.server, &[]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("is there already"));

    let server = elsewhere(&w, &sqlite(&folder.path().join("restored.db")));
    let output = restore(&server, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.start();
    let web = w.web.at(&server);
    for tokens in [&kept, &revoked] {
        assert!(!web.is_active(tokens.access()) && !web.is_active(tokens.refresh()));
        assert_eq!(web.userinfo(tokens.access()).status, 401);
        web.refresh(tokens.refresh()).refused(400, "invalid_grant");
    }
    let new = get(server.url("/jwks")).ok();
    for key in jwks["keys"].as_array().unwrap() {
        assert!(!new["keys"].as_array().unwrap().iter().any(|other| other["kid"] == key["kid"]), "{key}");
    }
    let answer = browser.send(support::HTTP.get(web.request().url()));
    assert!(answer.header("location").contains("/flow/"), "the session has ended: {answer:?}");
    server.stop();

    let server = elsewhere(&w, &sqlite(&folder.path().join("as_it_was.db")));
    let output = restore(&server, &["--keep-tokens-alive"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("lives again"), "{output:?}");
    server.start();
    let web = w.web.at(&server);
    assert!(web.is_active(kept.refresh()) && web.is_active(revoked.refresh()), "as the operator said in words");
}

#[test]
fn s51_s120_a_backup_that_is_no_good_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let w = World::new(&[
        ("COUNTERSIGN_DATABASE_URL", &sqlite(&folder.path().join("live.db"))),
        ("COUNTERSIGN_KEY_ENCRYPTION_KEY", KEY),
    ]);
    let file = folder.path().join("backup.db");
    w.server.cli_ok(&["backup", file.to_str().unwrap()], "");
    let target = folder.path().join("restored.db");
    let server = elsewhere(&w, &sqlite(&target));
    let refused = |server: &TestServer, file: &Path, why: &str| {
        let output = server.cli(&["restore", file.to_str().unwrap()], "");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(why), "{why}: {told}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains("unfinished")), "{left:?}");
        assert!(!target.exists());
    };
    let newer = folder.path().join("newer.db");
    std::fs::copy(&file, &newer).unwrap();
    execute(&sqlite(&newer), "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')");
    refused(&server, &newer, "newer Countersign");
    let text = folder.path().join("text.db");
    std::fs::write(&text, "no database at all, and longer than a header of a hundred bytes would be".repeat(9))
        .unwrap();
    refused(&server, &text, "is not a backup");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0x5a);
    let damaged = folder.path().join("damaged.db");
    std::fs::write(&damaged, bytes).unwrap();
    refused(&server, &damaged, "damaged");
    let url = sqlite(&target);
    let other_key = [
        ("COUNTERSIGN_DATABASE_URL", url.as_str()),
        ("COUNTERSIGN_KEY_ENCRYPTION_KEY", "BBECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
    ];
    refused(&TestServer::node(&w.server.issuer, &other_key), &file, "key");
}
