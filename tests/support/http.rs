//! HTTP as a program speaks it: no cookies, no redirects followed.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use url::{Url, form_urlencoded};

pub static HTTP: LazyLock<Client> = LazyLock::new(|| {
    // A second test of the same process finds the provider installed: that is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap()
});

/// A response, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    /// The value of a header, or "" where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Whether it says to try again within seconds, as everything that is only busy does.
    pub fn comes_back_soon(&self) -> bool {
        self.header("retry-after").parse().is_ok_and(|seconds: u64| (1..=4).contains(&seconds))
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// A member of the JSON body that must be a string.
    pub fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_else(|| panic!("no {member}: {self:?}")).to_owned()
    }

    /// Claims that this is a success with JSON, and gives it.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// Claims that this is an error of RFC 6749 5.2, well formed and not to be stored.
    #[track_caller]
    pub fn refused(&self, status: u16, error: &str) {
        assert_eq!((self.status, self.text("error").as_str()), (status, error), "{self:?}");
        assert!(self.header("content-type").starts_with("application/json"), "{self:?}");
        assert!(self.header("cache-control").contains("no-store"), "{self:?}");
    }

    /// The parameters of the redirect's query.
    #[track_caller]
    pub fn redirect_query(&self) -> BTreeMap<String, String> {
        assert!(matches!(self.status, 302 | 303), "{self:?}");
        query(&Url::parse(self.header("location")).unwrap())
    }
}

pub fn query(url: &Url) -> BTreeMap<String, String> {
    url.query_pairs().into_owned().collect()
}

pub fn form<K: AsRef<str>, V: AsRef<str>>(fields: &[(K, V)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

pub fn try_send(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, body: response.text()? })
}

pub fn send(request: RequestBuilder) -> Answer {
    try_send(request).unwrap()
}

pub fn get(url: impl AsRef<str>) -> Answer {
    send(HTTP.get(url.as_ref()))
}

/// A POST of form fields, to be completed by the caller.
pub fn post<K: AsRef<str>, V: AsRef<str>>(url: impl AsRef<str>, fields: &[(K, V)]) -> RequestBuilder {
    HTTP.post(url.as_ref()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form(fields))
}
