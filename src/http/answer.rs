//! Writing answers: JSON, redirects, pages, errors. Every one of them says how it may be cached.

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, PRAGMA, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use actix_web::{HttpResponse, HttpResponseBuilder};
use askama::Template;
use serde::Serialize;
use serde_json::json;

use crate::clock::UnixTime;
use crate::crypto::random;
use crate::logging::request_id;
use crate::protocol::error::{ErrorCode, OAuthError};
use crate::protocol::redirect_uri::origin_of;

use super::pages::{ErrorPage, Link};

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// JSON that is nobody else's (RFC 6749 section 5.1): `no-store`.
pub fn private_json(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    match serde_json::to_vec(body) {
        Ok(body) => HttpResponse::build(status)
            .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")))
            .insert_header((CACHE_CONTROL, NO_STORE))
            .insert_header((PRAGMA, HeaderValue::from_static("no-cache")))
            .insert_header((X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
            .body(body),
        Err(error) => {
            tracing::error!(%error, "writing JSON failed");
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// The JSON form of an error, RFC 6749 section 5.2. Here its cause is logged, once.
pub fn json_error(error: &OAuthError) -> HttpResponse {
    json_error_with_status(error, StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::BAD_REQUEST))
}

pub fn json_error_with_status(error: &OAuthError, status: StatusCode) -> HttpResponse {
    log(error);
    let mut description = plain(&error.description);
    if let Some(id) = quotable(status) {
        description = format!("{description} Request {id}.");
    }
    let mut response = private_json(status, &json!({"error": error.code.as_str(), "error_description": description}));
    let headers = response.headers_mut();
    match error.code {
        ErrorCode::InvalidClient => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Countersign\""));
        }
        ErrorCode::TemporarilyUnavailable => {
            headers.insert(RETRY_AFTER, retry_soon());
        }
        _ => {}
    }
    response
}

/// One to four seconds, by chance: those whom a full queue sends away together do not come back together.
fn retry_soon() -> HeaderValue {
    HeaderValue::from(1 + random::<1>().map_or(0, |[byte]| u16::from(byte % 4)))
}

/// The challenge form of an error, RFC 6750 section 3; a bare challenge where no token was presented.
pub fn bearer_error(error: Option<&OAuthError>) -> HttpResponse {
    let Some(error) = error else {
        return HttpResponse::Unauthorized()
            .insert_header((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"Countersign\"")))
            .insert_header((CACHE_CONTROL, NO_STORE))
            .finish();
    };
    let mut response = json_error(error);
    if response.status().is_client_error() {
        let (code, description) = (error.code.as_str(), plain(&error.description));
        let scope = if error.code == ErrorCode::InsufficientScope { ", scope=\"openid\"" } else { "" };
        let challenge =
            format!("Bearer realm=\"Countersign\", error=\"{code}\", error_description=\"{description}\"{scope}");
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
    }
    response
}

/// What somebody may quote to the operator, where the failure is ours: it stands in the log beside the cause.
fn quotable(status: StatusCode) -> Option<String> {
    status.is_server_error().then(request_id).flatten()
}

/// The characters that RFC 6749 section 5.2 allows in a description; what a stranger sent may hold others.
fn plain(description: &str) -> String {
    description.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect()
}

fn log(error: &OAuthError) {
    let cause = error.source.as_deref().map(|cause| cause as &dyn std::error::Error);
    if error.code == ErrorCode::TemporarilyUnavailable {
        tracing::warn!(error = error.code.as_str(), cause, "{}", error.description);
    } else if error.code.status() >= 500 {
        tracing::error!(error = error.code.as_str(), cause, "{}", error.description);
    } else {
        tracing::debug!(error = error.code.as_str(), cause, "{}", plain(&error.description));
    }
}

/// Lets browser code of this origin read the answer; never with credentials.
pub fn allow_origin(mut response: HttpResponse, origin: Option<&str>) -> HttpResponse {
    allow_origin_in(response.headers_mut(), origin);
    response
}

pub fn allow_origin_in(headers: &mut HeaderMap, origin: Option<&str>) {
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    if let Some(Ok(origin)) = origin.map(HeaderValue::from_str) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let readable = HeaderValue::from_static("WWW-Authenticate, Retry-After");
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, readable);
    }
}

/// 303: a browser follows it by GET, so nothing that was posted travels on (RFC 9700 section 4.12).
pub fn see_other(location: &str, https: bool) -> HttpResponse {
    let Ok(location) = HeaderValue::from_str(location) else {
        tracing::error!("an address to redirect to is not a header value");
        return HttpResponse::InternalServerError().finish();
    };
    let mut response = HttpResponse::SeeOther()
        .insert_header((LOCATION, location))
        .insert_header((CACHE_CONTROL, NO_STORE))
        .insert_header((REFERRER_POLICY, HeaderValue::from_static("no-referrer")))
        .finish();
    only_https(&mut response, https);
    response
}

/// Tells browsers to come back by https alone (RFC 6797), where that is how they came.
fn only_https(response: &mut HttpResponse, https: bool) {
    if https {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
}

/// Adds `Set-Cookie` lines.
pub fn with_cookies(mut response: HttpResponse, cookies: impl IntoIterator<Item = String>) -> HttpResponse {
    for cookie in cookies {
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
    response
}

/// How a page goes out, beyond its text.
#[derive(Default)]
pub struct PageOptions<'a> {
    pub status: Option<StatusCode>,
    /// Where a form of the page may end up by redirect: Chromium holds each hop against `form-action`.
    pub form_target: Option<&'a str>,
    /// Whether the page brings our own script.
    pub script: bool,
    /// The addresses of the frames that the page shows.
    pub frames: &'a [String],
    pub https: bool,
}

/// A page under a strict policy: no inline code, nothing from elsewhere, in nobody's frame.
pub fn page(template: &impl Template, options: &PageOptions<'_>) -> HttpResponse {
    let html = match template.render() {
        Ok(html) => html,
        Err(error) => {
            tracing::error!(%error, "rendering a page failed");
            return HttpResponse::InternalServerError().finish();
        }
    };
    let mut response = secured(HttpResponse::build(options.status.unwrap_or(StatusCode::OK)), options)
        .insert_header((CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")))
        .insert_header((CACHE_CONTROL, NO_STORE))
        .body(html);
    only_https(&mut response, options.https);
    response
}

fn secured(mut builder: HttpResponseBuilder, options: &PageOptions<'_>) -> HttpResponseBuilder {
    let target = options.form_target.and_then(form_source).map(|source| format!(" {source}")).unwrap_or_default();
    let script = if options.script { "script-src 'self'; " } else { "" };
    let mut origins: Vec<String> =
        options.frames.iter().filter_map(|address| origin_of(address)).filter(|origin| is_source(origin)).collect();
    origins.sort_unstable();
    origins.dedup();
    let frames = if origins.is_empty() { String::new() } else { format!("frame-src {}; ", origins.join(" ")) };
    let policy = format!(
        "default-src 'none'; {script}{frames}style-src 'self'; img-src 'self'; form-action 'self'{target}; \
         base-uri 'none'; frame-ancestors 'none'"
    );
    builder
        .insert_header((CONTENT_SECURITY_POLICY, policy))
        .insert_header((X_FRAME_OPTIONS, HeaderValue::from_static("DENY")))
        .insert_header((X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .insert_header((REFERRER_POLICY, HeaderValue::from_static("no-referrer")));
    builder
}

/// Whether this is one source of a policy and no more: hosts may hold what separates directives.
fn is_source(source: &str) -> bool {
    !source.contains([';', ',', ' ', '\'', '*'])
}

/// The source expressions for a registered redirect URI: its origin, or the scheme of a native app. Chromium holds every
/// hop after a form against them, the application's own redirects too, and stops without a word at one that is not
/// listed; so an https application may go on within https, and one under development on this machine.
fn form_source(uri: &str) -> Option<String> {
    let source = origin_of(uri)
        .or_else(|| uri.split_once(':').map(|(scheme, _)| format!("{scheme}:")))
        .filter(|source| is_source(source))?;
    Some(match source.as_str() {
        // The grammar of host sources has no IPv6 addresses.
        address if address.starts_with("http://[") => "http:".to_owned(),
        https if https.starts_with("https://") => format!("{https} https:"),
        http if http.starts_with("http://") => format!("{http} http://localhost:* http://127.0.0.1:*"),
        _ => source,
    })
}

/// Our own error page: what happened, why, and what to do next.
pub fn error_page(error: &OAuthError, https: bool) -> HttpResponse {
    log(error);
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let (title, what, next) = match error.code {
        ErrorCode::TemporarilyUnavailable => (
            "Just a moment",
            "The sign-in service is very busy right now.",
            "Wait a few seconds and load this page again. Nothing was lost. If it keeps happening, tell the people who run this service.",
        ),
        ErrorCode::ServerError => (
            "Something went wrong",
            "The sign-in service could not finish this step.",
            "Try again. If it keeps happening, tell the people who run this service.",
        ),
        _ => (
            "This request cannot be completed",
            "The app sent you here with a request that is not right, so we stopped before anything was shared.",
            "Go back to the app and try again. If it keeps happening, tell the people who run that app.",
        ),
    };
    // The marks around names are for developers who read JSON.
    let why = error.description.replace('`', "");
    let next = match quotable(status) {
        Some(id) => format!("{next} They will ask for this number: {id}."),
        None => next.to_owned(),
    };
    let next = next.as_str();
    let page_body = ErrorPage { title, what, why: Some(&why), next, code: Some(error.code.as_str()), link: None };
    let mut response = page(&page_body, &PageOptions { status: Some(status), https, ..PageOptions::default() });
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, retry_soon());
    }
    response
}

/// The page for a sign-in that has run out, was finished, or belongs to another browser.
pub fn flow_gone(https: bool) -> HttpResponse {
    let body = ErrorPage {
        title: "This sign-in has ended",
        what: "It was finished already, took longer than half an hour, was started in another browser, or this browser keeps no cookies for this site.",
        why: None,
        next: "Make sure that cookies are allowed for this site, then go back to the app and sign in again.",
        code: None,
        link: Some(Link { href: "/".to_owned(), label: "Go to your account".to_owned() }),
    };
    page(&body, &PageOptions { status: Some(StatusCode::BAD_REQUEST), https, ..PageOptions::default() })
}

/// The page for a form that did not come from our own page in this browser.
pub fn forged(https: bool) -> HttpResponse {
    let body = ErrorPage {
        title: "Please try again",
        what: "This form was not sent from our own page in this browser, so nothing was done.",
        why: Some(
            "This protects you from other sites that act in your name. It also happens when cookies are blocked or were cleared.",
        ),
        next: "Go back, load the page again, and repeat what you wanted to do.",
        code: None,
        link: Some(Link { href: "/".to_owned(), label: "Go to your account".to_owned() }),
    };
    page(&body, &PageOptions { status: Some(StatusCode::FORBIDDEN), https, ..PageOptions::default() })
}

/// How long until then, in words.
pub fn wait_words(until: UnixTime, now: UnixTime) -> (String, u64) {
    let seconds = until.since(now).as_millis().div_ceil(1000).max(1);
    let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
    let words = match seconds {
        1 => "in a second".to_owned(),
        2..=90 => format!("in {seconds} seconds"),
        _ => format!("in {} minutes", seconds.div_ceil(60)),
    };
    (words, seconds)
}

/// A length of time in whole days where it has any, in words.
pub fn span_words(span: std::time::Duration) -> String {
    let hours = span.as_secs().div_ceil(3600);
    match (hours / 24, hours) {
        (1, _) => "a day".to_owned(),
        (0, 1) => "an hour".to_owned(),
        (0, hours) => format!("{hours} hours"),
        (days, _) => format!("{days} days"),
    }
}

/// What has GET has HEAD.
pub fn method_not_allowed(allowed: &'static str) -> HttpResponse {
    let allowed = allowed.replacen("GET", "GET, HEAD", 1);
    let error = OAuthError::invalid_request("This method is not allowed here.");
    let mut response = json_error_with_status(&error, StatusCode::METHOD_NOT_ALLOWED);
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

pub async fn not_found() -> HttpResponse {
    let body = ErrorPage {
        title: "There is nothing here",
        what: "No page lives at this address.",
        why: None,
        next: "Check the address, or start from your account.",
        code: None,
        link: Some(Link { href: "/".to_owned(), label: "Go to your account".to_owned() }),
    };
    page(&body, &PageOptions { status: Some(StatusCode::NOT_FOUND), ..PageOptions::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_descriptions_lose_what_headers_and_json_must_not_carry() {
        assert_eq!(plain("a\"b\\c\r\nd<e>ü"), "abcd<e>");
    }

    #[test]
    fn s116_a_frame_adds_its_origin_to_the_policy_and_no_directive() {
        let frames = ["https://a.example/out", "https://x.example;script-src/out", "https://y.example/out"];
        let frames = frames.map(str::to_owned);
        let options = PageOptions { frames: &frames, ..PageOptions::default() };
        let response = secured(HttpResponse::build(StatusCode::OK), &options).finish();
        let policy = response.headers().get(CONTENT_SECURITY_POLICY).unwrap().to_str().unwrap();
        assert!(policy.contains("frame-src https://a.example https://y.example; "), "{policy}");
        assert!(!policy.contains("script-src"), "{policy}");
    }

    #[test]
    fn a_form_may_end_at_the_clients_origin_or_scheme() {
        assert_eq!(form_source("https://app.example/cb?x=;").as_deref(), Some("https://app.example https:"));
        let loopback = "http://127.0.0.1:5000 http://localhost:* http://127.0.0.1:*";
        assert_eq!(form_source("http://127.0.0.1:5000/cb").as_deref(), Some(loopback));
        assert_eq!(form_source("http://[::1]:5000/cb").as_deref(), Some("http:"));
        assert_eq!(form_source("com.example.app:/cb").as_deref(), Some("com.example.app:"));
    }

    #[test]
    fn waits_are_told_in_words() {
        let now = UnixTime::from_seconds(100);
        assert_eq!(wait_words(UnixTime::from_seconds(101), now).0, "in a second");
        assert_eq!(wait_words(UnixTime::from_millis(131_500), now), ("in 32 seconds".to_owned(), 32));
        assert_eq!(wait_words(UnixTime::from_seconds(400), now).0, "in 5 minutes");
        assert_eq!(span_words(std::time::Duration::from_hours(30 * 24)), "30 days");
        assert_eq!(span_words(std::time::Duration::from_hours(24)), "a day");
        assert_eq!(span_words(std::time::Duration::from_mins(90)), "2 hours");
    }
}
