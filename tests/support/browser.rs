//! A browser without a screen: keeps cookies, follows redirects within the issuer, submits the forms it was given.

use std::collections::BTreeMap;
use std::sync::Mutex;

use reqwest::blocking::RequestBuilder;
use reqwest::header::SET_COOKIE;
use url::Url;

use super::http::{Answer, HTTP, post, query, try_send};
use super::{PASSWORD, TestServer};

#[derive(Default)]
struct Jar {
    cookies: BTreeMap<String, String>,
    /// Each `Set-Cookie` line as it came.
    lines: Vec<String>,
}

pub struct Browser {
    origin: String,
    /// Whether each request has a connection of its own, so that a balancer can send it elsewhere.
    hops: bool,
    jar: Mutex<Jar>,
}

/// Where the browser stands: a page of the issuer, or a foreign address that it was sent to and did not open.
#[derive(Debug, Clone)]
pub struct Page {
    pub url: Url,
    pub foreign: bool,
    pub answer: Answer,
}

impl Browser {
    pub fn new(server: &TestServer) -> Self {
        Self { origin: server.issuer.clone(), hops: false, jar: Mutex::default() }
    }

    pub fn hopping(server: &TestServer) -> Self {
        Self { hops: true, ..Self::new(server) }
    }

    /// One request with this browser's cookies, no redirect followed.
    ///
    /// # Errors
    /// When the server goes away meanwhile.
    pub fn try_send(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let cookies = self.cookies();
        let cookies: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = if cookies.is_empty() { request } else { request.header("cookie", cookies.join("; ")) };
        let request = if self.hops { request.header("connection", "close") } else { request };
        let answer = try_send(request)?;
        let mut jar = self.jar.lock().unwrap();
        for line in answer.headers.get_all(SET_COOKIE) {
            let line = line.to_str().unwrap();
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            let attributes = line.to_ascii_lowercase().replace(' ', "");
            if value.is_empty() || attributes.contains(";max-age=0") {
                jar.cookies.remove(name);
            } else {
                jar.cookies.insert(name.to_owned(), value.to_owned());
            }
            jar.lines.push(line.to_owned());
        }
        Ok(answer)
    }

    pub fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).unwrap()
    }

    pub fn cookies(&self) -> BTreeMap<String, String> {
        self.jar.lock().unwrap().cookies.clone()
    }

    pub fn set_cookies(&self, cookies: BTreeMap<String, String>) {
        self.jar.lock().unwrap().cookies = cookies;
    }

    pub fn set_cookie_lines(&self) -> Vec<String> {
        self.jar.lock().unwrap().lines.clone()
    }

    /// # Errors
    /// When the server goes away meanwhile.
    pub fn try_open(&self, url: impl AsRef<str>) -> reqwest::Result<Page> {
        let url = Url::parse(url.as_ref()).unwrap();
        let answer = self.try_send(HTTP.get(url.clone()))?;
        self.try_follow(url, answer)
    }

    pub fn open(&self, url: impl AsRef<str>) -> Page {
        self.try_open(url).unwrap()
    }

    /// Follows redirects from `answer` (which came from `url`) to a page or out of the issuer.
    ///
    /// # Errors
    /// When the server goes away meanwhile.
    pub fn try_follow(&self, mut url: Url, mut answer: Answer) -> reqwest::Result<Page> {
        for _ in 0..10 {
            if !matches!(answer.status, 301..=303 | 307 | 308) {
                return Ok(Page { url, foreign: false, answer });
            }
            url = url.join(answer.header("location")).unwrap();
            if url.origin().ascii_serialization() != self.origin {
                return Ok(Page { url, foreign: true, answer });
            }
            answer = self.try_send(HTTP.get(url.clone()))?;
        }
        panic!("redirects without end at {url}");
    }

    pub fn follow(&self, url: Url, answer: Answer) -> Page {
        self.try_follow(url, answer).unwrap()
    }

    /// Fills `fields` into the form that holds the button and presses the button, as a person does.
    #[track_caller]
    pub fn press(&self, page: &Page, button: &str, fields: &[(&str, &str)]) -> Page {
        let form = page.form_of(button);
        let url = page.url.join(&form.action).unwrap();
        let request = post(url.as_str(), &form.filled(fields));
        let answer = self.send(request.header("origin", &self.origin).header("sec-fetch-site", "same-origin"));
        self.follow(url, answer)
    }

    #[track_caller]
    pub fn sign_in_as(&self, page: &Page, username: &str, password: &str) -> Page {
        page.is("login-page");
        self.press(page, "login-submit", &[("username", username), ("password", password)])
    }

    /// Goes from an authorization URL to the client, signing in as `username` and allowing what is asked.
    #[track_caller]
    pub fn through_as(&self, url: impl AsRef<str>, username: &str) -> Page {
        let mut page = self.open(url);
        if !page.foreign && page.has("login-page") {
            page = self.sign_in_as(&page, username, PASSWORD);
        }
        if !page.foreign && page.has("consent-page") {
            page = self.press(&page, "consent-allow", &[]);
        }
        page
    }

    #[track_caller]
    pub fn through(&self, url: impl AsRef<str>) -> Page {
        self.through_as(url, "ada")
    }
}

impl Page {
    /// Whether an element has this id.
    pub fn has(&self, id: &str) -> bool {
        tags(&self.answer.body).any(|tag| tag.attributes.get("id").is_some_and(|value| value == id))
    }

    /// Claims that this is the page whose container has this id.
    #[track_caller]
    pub fn is(&self, id: &str) -> &Self {
        assert!(!self.foreign && self.has(id), "no {id} at {}: {:?}", self.url, self.answer);
        self
    }

    /// Claims our error page, on the requested URL, status 400 (RFC 6749 4.1.2.1: no redirect).
    #[track_caller]
    pub fn is_error_page(&self) -> &Self {
        assert_eq!(self.answer.status, 400, "{:?}", self.answer);
        self.is("error-page")
    }

    /// The texts of the elements that carry this attribute, such as `id="x"`; they hold no elements of their own.
    pub fn texts(&self, attribute: &str) -> Vec<String> {
        let start = format!("{attribute}>");
        let parts = self.answer.body.split(start.as_str()).skip(1);
        parts.map(|part| unescape(part.split('<').next().unwrap()).trim().to_owned()).collect()
    }

    /// The parameters brought to the client.
    #[track_caller]
    pub fn callback(&self) -> BTreeMap<String, String> {
        assert!(self.foreign, "not sent to the client but at {}: {:?}", self.url, self.answer);
        query(&self.url)
    }

    #[track_caller]
    pub fn code(&self) -> String {
        let callback = self.callback();
        callback.get("code").unwrap_or_else(|| panic!("no code: {callback:?}")).clone()
    }

    /// The code of the error brought to the client.
    #[track_caller]
    pub fn error(&self) -> String {
        let callback = self.callback();
        assert!(!callback.contains_key("code"), "{callback:?}");
        callback.get("error").unwrap_or_else(|| panic!("no error: {callback:?}")).clone()
    }

    /// The form that holds the button, with what the button itself adds to it.
    #[track_caller]
    pub fn form_of(&self, button: &str) -> Form {
        let (mut form, mut forms) = (None::<Form>, Vec::new());
        let mut pressed = None;
        for tag in tags(&self.answer.body) {
            let get = |name: &str| tag.attributes.get(name).cloned().unwrap_or_default();
            match tag.name.as_str() {
                "form" => {
                    assert_eq!(get("method").to_ascii_lowercase(), "post", "{button}");
                    form = Some(Form { id: get("id"), action: get("action"), inputs: Vec::new() });
                }
                "/form" => forms.extend(form.take()),
                "input" | "button" if get("id") == button => {
                    let owner = tag.attributes.get("form").cloned();
                    pressed = Some((owner, forms.len(), get("name"), get("value"), get("formaction")));
                }
                "input" if tag.attributes.contains_key("name") => {
                    // A box that is not ticked is sent by nobody; the test that ticks it fills in its value.
                    let unticked = get("type") == "checkbox" && !tag.attributes.contains_key("checked");
                    if let Some(form) = &mut form {
                        form.inputs.push((get("name"), if unticked { String::new() } else { get("value") }));
                    }
                }
                _ => {}
            }
        }
        let pressed = pressed.unwrap_or_else(|| panic!("no button {button} at {}: {:?}", self.url, self.answer));
        let (owner, position, name, value, action) = pressed;
        let found = match owner {
            Some(id) => forms.into_iter().find(|form| form.id == id),
            None => forms.into_iter().nth(position),
        };
        let mut form = found.unwrap_or_else(|| panic!("{button} is in no form"));
        if !name.is_empty() {
            form.inputs.push((name, value));
        }
        if !action.is_empty() {
            form.action = action;
        }
        form
    }
}

#[derive(Debug, Clone)]
pub struct Form {
    pub id: String,
    pub action: String,
    pub inputs: Vec<(String, String)>,
}

impl Form {
    /// The fields to send; those of `values` must be inputs of the form.
    #[track_caller]
    pub fn filled(&self, values: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut fields = self.inputs.clone();
        for (name, value) in values {
            let field = fields.iter_mut().find(|(other, _)| other == name);
            let (_, field) = field.unwrap_or_else(|| panic!("no input {name}: {self:?}"));
            (*value).clone_into(field);
        }
        fields
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.inputs.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

pub struct Tag {
    pub name: String,
    pub attributes: BTreeMap<String, String>,
}

/// The tags of a page, in order: enough HTML for pages without scripts.
pub fn tags(html: &str) -> impl Iterator<Item = Tag> {
    html.split('<').skip(1).map(|text| {
        let end = text.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(text.len());
        let (name, mut rest) = text.split_at(end);
        let mut attributes = BTreeMap::new();
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
            let end = rest.find(|c: char| c.is_whitespace() || "=>/".contains(c)).unwrap_or(rest.len());
            if end == 0 {
                break;
            }
            let (key, after) = rest.split_at(end);
            let quoted = after.strip_prefix("=\"").and_then(|value| value.split_once('"'));
            let (value, after) = quoted.unwrap_or(("", after));
            attributes.insert(key.to_ascii_lowercase(), unescape(value));
            rest = after;
        }
        Tag { name: name.to_ascii_lowercase(), attributes }
    })
}

pub fn unescape(text: &str) -> String {
    let mut parts = text.split('&');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (entity, rest) = part.split_once(';').unwrap_or(("amp", part));
        out.push(match entity {
            "lt" | "#60" | "#x3c" => '<',
            "gt" | "#62" | "#x3e" => '>',
            "quot" | "#34" | "#x22" => '"',
            "apos" | "#39" | "#x27" => '\'',
            "#47" | "#x2f" => '/',
            _ => '&',
        });
        out.push_str(rest);
    }
    out
}
