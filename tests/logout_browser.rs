//! Signing out as a person sees it: Chromium, two applications on loopback, their frames and their question whether the
//! sign-in still stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use support::chromium::{Chromium, run};
use support::{App, TestServer, claims};
use url::Url;

/// An application on loopback: it writes down each request that reaches it and answers with a page. At `/check` that is
/// one that frames the server's `check_session_iframe` and asks it as OpenID Connect Session Management says.
struct Application {
    origin: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Application {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    let Ok(read @ 1..) = stream.read(&mut buffer) else { break };
                    request.extend_from_slice(&buffer[..read]);
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let page = if target.starts_with("/check?") { CHECK } else { "<!doctype html><p id=got>here</p>" };
                seen.lock().unwrap().push(target);
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nSet-Cookie: signed_in=; Max-Age=0\r\n";
                let length = page.len();
                let _ = stream
                    .write_all(format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{page}").as_bytes());
            }
        });
        Self { origin, requests }
    }

    fn register(&self, server: &TestServer, name: &str) -> App {
        server.client(&json!({
            "client_name": name, "redirect_uris": [format!("{}/callback", self.origin)], "skip_consent": true,
            "post_logout_redirect_uris": [format!("{}/bye", self.origin)],
            "frontchannel_logout_uri": format!("{}/signed-out?app=1", self.origin),
            "frontchannel_logout_session_required": true,
        }))
    }

    /// The requests whose path is this, as addresses.
    fn seen(&self, path: &str) -> Vec<Url> {
        let requests = self.requests.lock().unwrap();
        let urls = requests.iter().map(|target| Url::parse(&format!("{}{target}", self.origin)).unwrap());
        urls.filter(|url| url.path() == path).collect()
    }
}

/// Asks once the frame is there, and writes down what it hears. What is asked stands in the address.
const CHECK: &str = "<!doctype html><p id=got></p><script>\
    const asked = new URLSearchParams(location.search);\
    const frame = document.createElement('iframe');\
    const op = new URL(asked.get('frame')).origin;\
    frame.src = asked.get('frame');\
    addEventListener('message', ({data, origin}) => {\
      if (origin === op) document.getElementById('got').textContent = data;\
    });\
    frame.onload = () => frame.contentWindow.postMessage(asked.get('message'), op);\
    document.body.append(frame);\
    </script>";

/// Signs in at an application, in a window that is signed in or not, and gives the parameters that it was called back with.
async fn sign_in(
    chromium: &Chromium,
    app: &App,
    application: &Application,
) -> std::collections::HashMap<String, String> {
    let before = application.seen("/callback").len();
    chromium.window.goto(&app.request().url()).await.unwrap();
    if chromium.window.find(fantoccini::Locator::Id("login-form")).await.is_ok() {
        chromium.write("username", "ada").await;
        chromium.write("password", support::PASSWORD).await;
        chromium.click("login-submit").await;
    }
    chromium.see("got").await;
    let calls = application.seen("/callback");
    assert_eq!(calls.len(), before + 1);
    calls.last().unwrap().query_pairs().into_owned().collect()
}

/// What the application's page hears when it asks about its `session_state`.
async fn ask(chromium: &Chromium, application: &Application, server: &TestServer, message: &str) -> String {
    let frame = server.url("/check-session");
    let query = support::form(&[("frame", frame.as_str()), ("message", message)]);
    chromium.window.goto(&format!("{}/check?{query}", application.origin)).await.unwrap();
    chromium.changed("#got", "").await
}

async fn id_token(app: &App, code: &str) -> String {
    let (app, code) = (app.clone(), code.to_owned());
    let answer = tokio::task::spawn_blocking(move || app.redeem(&code).ok()).await.unwrap();
    answer["id_token"].as_str().unwrap().to_owned()
}

/// Two applications that are registered.
type Two = [(Application, App); 2];

fn two(server: &TestServer) -> Two {
    ["First", "Second"].map(|name| {
        let application = Application::start();
        let app = application.register(server, name);
        (application, app)
    })
}

#[test]
fn s16_s116_frames_of_both_applications_load_with_iss_and_sid_and_the_way_back_comes_after() {
    let server = TestServer::prepare(&[]);
    server.user("ada");
    server.start();
    run(frames(&server, two(&server)));
}

async fn frames(server: &TestServer, [(one, first), (two, second)]: Two) {
    let chromium = Chromium::start(360).await;
    let code = sign_in(&chromium, &first, &one).await["code"].clone();
    let hint = id_token(&first, &code).await;
    let code = sign_in(&chromium, &second, &two).await["code"].clone();
    id_token(&second, &code).await;
    let sid = claims(&hint)["sid"].as_str().unwrap().to_owned();

    // A bare request asks, and staying changes nothing.
    chromium.window.goto(&server.url("/logout")).await.unwrap();
    chromium.see("logout-page").await;
    chromium.press("logout-cancel").await;
    sign_in(&chromium, &first, &one).await;
    assert!(one.seen("/signed-out").is_empty() && two.seen("/signed-out").is_empty());

    // Asked for by the first with its hint: both frames load, then the browser goes on by itself.
    let bye = format!("{}/bye", one.origin);
    let parameters = [("id_token_hint", hint.as_str()), ("post_logout_redirect_uri", &bye), ("state", "s")];
    chromium.window.goto(&server.url(&format!("/logout?{}", support::form(&parameters)))).await.unwrap();
    chromium.see("got").await;
    assert_eq!(chromium.window.current_url().await.unwrap().as_str(), format!("{bye}?state=s"));
    for application in [&one, &two] {
        let frames = application.seen("/signed-out");
        assert_eq!(frames.len(), 1, "{frames:?}");
        let pairs: Vec<(String, String)> = frames[0].query_pairs().into_owned().collect();
        let expected = [("app", "1"), ("iss", &server.issuer), ("sid", &sid)];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    chromium.window.goto(&first.request().with("prompt", "none").url()).await.unwrap();
    chromium.see("got").await;
    assert!(one.seen("/callback").last().unwrap().query().unwrap().contains("error=login_required"));
}

#[test]
fn a_page_of_an_application_learns_whether_the_sign_in_still_stands() {
    let server = TestServer::prepare(&[("COUNTERSIGN_SESSION__MANAGEMENT", "true")]);
    server.user("ada");
    server.start();
    run(session_state(&server, two(&server)));
}

async fn session_state(server: &TestServer, [(one, first), (two, second)]: Two) {
    let chromium = Chromium::start(1280).await;
    let state = sign_in(&chromium, &first, &one).await["session_state"].clone();
    let message = format!("{} {state}", first.id);
    assert_eq!(ask(&chromium, &one, server, &message).await, "unchanged");
    assert_eq!(ask(&chromium, &two, server, &message).await, "changed", "another origin's page proves nothing by it");
    for broken in ["", "x", &first.id, &state, &format!("{message} more"), &format!("{} nodot", first.id)] {
        assert_eq!(ask(&chromium, &one, server, broken).await, "error", "{broken:?}");
    }
    let of_second = sign_in(&chromium, &second, &two).await["session_state"].clone();
    assert_eq!(ask(&chromium, &two, server, &format!("{} {of_second}", second.id)).await, "unchanged");
    assert_eq!(ask(&chromium, &one, server, &message).await, "unchanged");

    chromium.window.goto(&server.url("/logout")).await.unwrap();
    chromium.press("logout-confirm").await;
    chromium.see("logout-done").await;
    assert_eq!(ask(&chromium, &one, server, &message).await, "changed");
    let renewed = sign_in(&chromium, &first, &one).await["session_state"].clone();
    assert_eq!(ask(&chromium, &one, server, &format!("{} {renewed}", first.id)).await, "unchanged");
    assert_eq!(ask(&chromium, &one, server, &message).await, "changed", "another sign-in is another state");

    // Nobody but the pages of registered applications may frame it.
    let stranger = Application::start();
    let frame = server.url("/check-session");
    let query = support::form(&[("frame", frame.as_str()), ("message", message.as_str())]);
    chromium.window.goto(&format!("{}/check?{query}", stranger.origin)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let got = chromium.window.find(fantoccini::Locator::Id("got")).await.unwrap().text().await.unwrap();
    assert_eq!(got, "", "the browser refuses the frame");
}
