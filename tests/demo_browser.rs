//! A person with a real browser: Chromium, through WebDriver, at the demo application.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::net::TcpListener;
use std::time::Duration;

use fantoccini::{Client, Locator};
use serde_json::json;
use support::chromium::{Chromium, run};
use support::{App, TestServer, wait_for};

/// The demo user's name and password, as a newcomer reads them in the terminal.
fn printed_demo_user(server: &TestServer) -> (String, String) {
    wait_for("the printed demo user", || {
        let log = server.log();
        let line = log.lines().find(|line| line.trim_start().starts_with("user name  demo"))?;
        let password = line.split_whitespace().last()?;
        Some(("demo".to_owned(), password.to_owned()))
    })
}

#[test]
fn a_newcomer_signs_in_at_the_demo_refreshes_revokes_and_signs_out() {
    let server = TestServer::running(&[("COUNTERSIGN_DEVELOPMENT", "true")]);
    let (user, password) = printed_demo_user(&server);
    run(demo(&server, &user, &password));
}

async fn demo(server: &TestServer, user: &str, password: &str) {
    let chromium = Chromium::start(360).await;
    let window = &chromium.window;

    window.goto(&server.url("/demo")).await.unwrap();
    chromium.see("demo-page").await;
    chromium.click("demo-sign-in").await;
    chromium.see("login-page").await;
    assert!(window.current_url().await.unwrap().path().starts_with("/flow/"));

    chromium.write("username", user).await;
    chromium.write("password", "a wrong password").await;
    chromium.click("login-submit").await;
    chromium.see("login-error").await;
    chromium.write("username", user).await;
    chromium.write("password", password).await;
    chromium.click("login-submit").await;

    chromium.allow_and_see("demo-tokens").await;
    let page = window.source().await.unwrap();
    assert!(page.contains("at+jwt") && page.contains(&server.issuer) && page.contains("auth_time"), "{page}");

    let scrolls = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(window.execute(scrolls, vec![]).await.unwrap(), json!(false), "nothing is cut off at 360 px");

    let raw = "#demo-tokens .token .raw";
    let before = chromium.changed(raw, "").await;
    chromium.click("demo-refresh").await;
    chromium.changed(raw, &before).await;
    chromium.click("demo-userinfo").await;
    let info = chromium.see("userinfo").await;
    assert!(info.text().await.unwrap().contains("sub"));
    let said = "[role=status], [role=alert]";
    let before = chromium.changed(said, "").await;
    chromium.click("demo-revoke").await;
    assert!(chromium.changed(said, &before).await.contains("revoked"));

    window.goto(&server.url("/")).await.unwrap();
    chromium.see("home-page").await;
    window.goto(&server.url("/demo")).await.unwrap();
    chromium.see("demo-page").await;
    chromium.click("demo-sign-in").await;
    chromium.allow_and_see("demo-tokens").await;
    chromium.click("demo-sign-out").await;
    let wait = window.wait().at_most(Duration::from_secs(10));
    let end = wait.for_element(Locator::Css("#logout-confirm, #logout-done, #demo-page")).await.unwrap();
    if end.attr("id").await.unwrap().as_deref() == Some("logout-confirm") {
        end.click().await.unwrap();
        wait_gone(window, "#logout-confirm").await;
    }
    window.goto(&server.url("/")).await.unwrap();
    chromium.see("login-page").await;
}

async fn wait_gone(window: &Client, selector: &str) {
    for _ in 0..200 {
        if window.find(Locator::Css(selector)).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{selector} stays");
}

#[test]
fn form_post_reaches_the_client_and_cancel_too() {
    let w = support::world();
    // The client is a page of this test, on loopback.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://127.0.0.1:{}/callback", listener.local_addr().unwrap().port());
    let metadata = json!({"redirect_uris": [uri], "skip_consent": true, "application_type": "native"});
    let app = w.server.client(&metadata);
    std::thread::spawn(move || serve_a_client(&listener));
    run(form_post_and_cancel(&app));
}

async fn form_post_and_cancel(app: &App) {
    let chromium = Chromium::start(1280).await;
    let window = &chromium.window;

    let request = app.request().with("response_mode", "form_post");
    window.goto(&request.url()).await.unwrap();
    chromium.write("username", "ada").await;
    chromium.write("password", support::PASSWORD).await;
    chromium.click("login-submit").await;
    let got = chromium.allow_and_see("got").await.text().await.unwrap();
    assert!(got.starts_with("POST /callback") && got.contains("code=cs_ac_") && got.contains("state="), "{got}");

    window.goto(&app.request().with("prompt", "login").url()).await.unwrap();
    chromium.click("login-cancel").await;
    let got = chromium.see("got").await.text().await.unwrap();
    assert!(got.starts_with("GET /callback?") && got.contains("error=access_denied"), "{got}");
}

/// Answers each request with a page that repeats it.
fn serve_a_client(listener: &TcpListener) {
    use std::io::{Read as _, Write as _};
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        // Until the body is as long as was said, or the browser says no more.
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            request.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            if body.len() >= length.map_or(0, |length| length.trim().parse().unwrap()) {
                break;
            }
        }
        let text = String::from_utf8_lossy(&request).replace('&', "&amp;").replace('<', "&lt;");
        let page = format!("<!doctype html><pre id=got>{text}</pre>");
        let length = page.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        // A browser that turned away wants no answer.
        let _ = stream.write_all((head + &page).as_bytes());
    }
}
