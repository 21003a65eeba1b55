//! A person with a real browser: Chromium, through WebDriver, at the demo application.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use support::{App, HTTP, TestServer, wait_for};
use tempfile::TempDir;

/// A chromedriver of our own, and one window of Chromium with an empty profile.
struct Chromium {
    driver: Child,
    session: String,
    window: Client,
    _profile: TempDir,
}

impl Chromium {
    async fn start(width: u32) -> Self {
        let port = support::server::free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(
                "chromedriver is missing: install chromium and chromium-driver (scripts/test does so where it may)",
            );
        let profile = TempDir::with_prefix("countersign-chromium-").unwrap();
        let user_data = format!("--user-data-dir={}", profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &user_data,
        ];
        // A window cannot be as narrow as a phone: its screen is emulated.
        let screen = json!({"deviceMetrics": {"width": width, "height": 800, "pixelRatio": 1, "mobile": false}});
        let capabilities = json!({"goog:chromeOptions": {"args": arguments, "mobileEmulation": screen}});
        wait_for("chromedriver", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        let webdriver = format!("http://127.0.0.1:{port}");
        let window = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&webdriver)
            .await
            .unwrap();
        let session = format!("{webdriver}/session/{}", window.session_id().await.unwrap().unwrap());
        Self { driver, session, window, _profile: profile }
    }

    /// The element with this id, once it is there.
    async fn see(&self, id: &str) -> Element {
        let wait = self.window.wait().at_most(Duration::from_secs(10)).every(Duration::from_millis(50));
        match wait.for_element(Locator::Id(id)).await {
            Ok(element) => element,
            Err(e) => panic!("no {id}: {e}: {}", self.window.source().await.unwrap_or_default()),
        }
    }

    /// The element with this id, with a consent page allowed on the way where there is one.
    async fn allow_and_see(&self, id: &str) -> Element {
        let wait = self.window.wait().at_most(Duration::from_secs(10));
        wait.for_element(Locator::Css(&format!("#consent-allow, #{id}"))).await.unwrap();
        if let Ok(allow) = self.window.find(Locator::Id("consent-allow")).await {
            allow.click().await.unwrap();
        }
        self.see(id).await
    }

    async fn click(&self, id: &str) {
        self.see(id).await.click().await.unwrap();
    }

    async fn write(&self, id: &str, text: &str) {
        let input = self.see(id).await;
        input.clear().await.unwrap();
        input.send_keys(text).await.unwrap();
    }

    /// The text of an element that differs from `old`, once it does.
    async fn changed(&self, selector: &str, old: &str) -> String {
        for _ in 0..200 {
            if let Ok(element) = self.window.find(Locator::Css(selector)).await
                && let Ok(text) = element.prop("textContent").await
                && let Some(text) = text.filter(|text| text != old)
            {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{selector} stays as it was: {}", self.window.source().await.unwrap());
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The end of the session ends the browser; a driver that is only killed leaves it behind.
        let session = self.session.clone();
        let _ = std::thread::spawn(move || HTTP.delete(session).send()).join();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Runs the part of a test that talks to Chromium.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

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
