//! A foreign client library, Authlib (Python), goes the whole way: discovery, code with PKCE, ID token, `UserInfo`,
//! refresh, revocation. The person's part is played by our browser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{App, World, world};

/// The Python that has Authlib: `scripts/test` makes it and names it.
fn python() -> PathBuf {
    let made = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/venv/bin/python");
    let python = std::env::var_os("TEST_PYTHON").map_or_else(|| PathBuf::from(made), PathBuf::from);
    assert!(
        python.exists(),
        "{} is missing: run scripts/test, which makes it, or set TEST_PYTHON to a Python with tests/requirements.txt",
        python.display()
    );
    python
}

fn the_whole_way(w: &World, app: &App) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/authlib_client.py");
    let mut client = Command::new(python())
        .args([script, &app.issuer, &app.id, app.secret.as_deref().unwrap_or(""), &app.redirect_uri])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let url = lines.next().expect("the authorization URL").unwrap();
    let page = w.browser().through(url);
    assert!(page.foreign, "{page:?}");
    writeln!(client.stdin.take().unwrap(), "{}", page.url).unwrap();
    let report: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(client.wait().unwrap().success(), "{report:?}");
    let report: Value = serde_json::from_str(report.last().expect("a report")).unwrap();
    assert_eq!(report["email"], "ada@example.com");
    for step in ["id_token", "userinfo", "refresh", "revocation"] {
        assert_eq!(report[step], true, "{step}: {report}");
    }
}

#[test]
fn authlib_goes_the_whole_way_as_a_confidential_client() {
    let w = world();
    the_whole_way(&w, &w.web);
}

#[test]
fn authlib_goes_the_whole_way_as_a_public_client() {
    let w = world();
    the_whole_way(&w, &w.spa);
}
