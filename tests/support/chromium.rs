//! A real browser: Chromium, through WebDriver.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{HTTP, wait_for};

/// A chromedriver of our own, and one window of Chromium with an empty profile.
pub struct Chromium {
    driver: Child,
    session: String,
    pub window: Client,
    _profile: TempDir,
}

impl Chromium {
    pub async fn start(width: u32) -> Self {
        let port = super::server::free_port();
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
    pub async fn see(&self, id: &str) -> Element {
        let wait = self.window.wait().at_most(Duration::from_secs(10)).every(Duration::from_millis(50));
        match wait.for_element(Locator::Id(id)).await {
            Ok(element) => element,
            Err(e) => panic!("no {id}: {e}: {}", self.window.source().await.unwrap_or_default()),
        }
    }

    /// The element with this id, with a consent page allowed on the way where there is one.
    pub async fn allow_and_see(&self, id: &str) -> Element {
        let wait = self.window.wait().at_most(Duration::from_secs(10));
        wait.for_element(Locator::Css(&format!("#consent-allow, #{id}"))).await.unwrap();
        if let Ok(allow) = self.window.find(Locator::Id("consent-allow")).await {
            allow.click().await.unwrap();
        }
        self.see(id).await
    }

    pub async fn click(&self, id: &str) {
        self.see(id).await.click().await.unwrap();
    }

    /// Clicks what leads to another page, and waits for that page.
    pub async fn press(&self, id: &str) {
        let mark = "document.documentElement.setAttribute('data-left', '')";
        self.window.execute(mark, vec![]).await.unwrap();
        self.click(id).await;
        let wait = self.window.wait().at_most(Duration::from_secs(10)).every(Duration::from_millis(20));
        wait.for_element(Locator::Css("html:not([data-left]) body")).await.unwrap();
    }

    pub async fn write(&self, id: &str, text: &str) {
        let input = self.see(id).await;
        input.clear().await.unwrap();
        input.send_keys(text).await.unwrap();
    }

    /// What the page says, as a person reads it.
    pub async fn text(&self) -> String {
        self.window.find(Locator::Css("body")).await.unwrap().text().await.unwrap()
    }

    /// Shows pages as to somebody with a window this wide who prefers this scheme, `light` or `dark`.
    pub async fn look(&self, width: u32, scheme: &str) {
        let metrics = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics).await;
        // Without motion a colour is at once what it will be.
        let media = json!({"features": [
            {"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.devtools("Emulation.setEmulatedMedia", &media).await;
    }

    /// Has our pages come without their scripts, so that those stay which would go on by themselves.
    pub async fn without_scripts(&self) {
        self.devtools("Network.enable", &json!({})).await;
        self.devtools("Network.setBlockedURLs", &json!({"urls": ["*.js"]})).await;
    }

    /// The whole page as a picture (PNG).
    pub async fn picture(&self) -> Vec<u8> {
        // As wide as the window: without the bar that scrolls it, which a picture of all of it does not need.
        let size = "return {x: 0, y: 0, width: innerWidth, height: document.documentElement.scrollHeight, scale: 1}";
        let clip = self.window.execute(size, vec![]).await.unwrap();
        let whole = json!({"captureBeyondViewport": true, "clip": clip});
        let shot = self.devtools("Page.captureScreenshot", &whole).await;
        STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    async fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let url = format!("{}/goog/cdp/execute", self.session);
        let body = json!({"cmd": command, "params": parameters}).to_string();
        let answer = tokio::task::spawn_blocking(move || HTTP.post(url).body(body).send().unwrap().text().unwrap());
        let answer: Value = serde_json::from_str(&answer.await.unwrap()).unwrap();
        assert!(answer["value"].get("error").is_none(), "{command}: {answer}");
        answer["value"].clone()
    }

    /// The text of an element that differs from `old`, once it does.
    pub async fn changed(&self, selector: &str, old: &str) -> String {
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
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}
