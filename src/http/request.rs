//! Reading requests: form bodies within bounds, cookies, the peer's address, and whether a form came from our own page.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, AUTHORIZATION, CONTENT_LENGTH,
    CONTENT_TYPE, COOKIE, HeaderName, HeaderValue, ORIGIN, USER_AGENT, VARY,
};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use ipnet::IpNet;
use secrecy::ExposeSecret as _;

use crate::crypto::opaque::same_text;
use crate::domain::activity::Origin;
use crate::flow::Context;
use crate::flow::session::{Browser, SessionCookie};
use crate::protocol::client_auth::parse_basic;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;

use super::answer::{allow_origin, allow_origin_in, error_page, json_error_with_status};

/// In bytes. No request of ours is larger.
const MAX_BODY: usize = 64 * 1024;
/// A body that takes longer is not coming.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The parameters of a form body.
pub struct Form(pub Params);

/// A form that a browser sends: what is wrong with it is said on a page.
pub struct BrowserForm(pub Params);

impl FromRequest for BrowserForm {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let form = Form::from_request(request, payload);
        Box::pin(async move { form.await.map(|Form(params)| Self(params)).map_err(on_a_page) })
    }
}

fn on_a_page(BodyError { status, error }: BodyError) -> actix_web::Error {
    let mut page = error_page(&error, false);
    *page.status_mut() = status;
    actix_web::error::InternalError::from_response("a form that was not taken", page).into()
}

/// The same of one of our pages, none of which has a field twice.
pub struct PageForm(pub Params);

impl FromRequest for PageForm {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let form = Form::from_request(request, payload);
        Box::pin(async move {
            let once = |Form(params): Form| match params.refuse_repeated() {
                Ok(()) => Ok(Self(params)),
                Err(error) => Err(BodyError { status: StatusCode::BAD_REQUEST, error }),
            };
            form.await.and_then(once).map_err(on_a_page)
        })
    }
}

/// A body that was not taken.
#[derive(Debug)]
pub struct BodyError {
    status: StatusCode,
    error: OAuthError,
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for BodyError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        json_error_with_status(&self.error, self.status)
    }
}

impl FromRequest for Form {
    type Error = BodyError;
    type Future = LocalBoxFuture<'static, Result<Self, BodyError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let is_form = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            let media_type = value.split(';').next().unwrap_or_default().trim();
            media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
        let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let mut payload = payload.take();
        Box::pin(async move {
            if length.is_some_and(|length| length > MAX_BODY) {
                return Err(too_large());
            }
            let body =
                tokio::time::timeout(BODY_TIMEOUT, read(&mut payload)).await.map_err(|_elapsed| BodyError {
                    status: StatusCode::REQUEST_TIMEOUT,
                    error: OAuthError::invalid_request("The body took too long to arrive."),
                })??;
            let bad = |error| BodyError { status: StatusCode::BAD_REQUEST, error };
            if !is_form {
                return Err(bad(OAuthError::invalid_request("The body must be application/x-www-form-urlencoded.")));
            }
            Params::parse(&body).map(Form).map_err(bad)
        })
    }
}

fn too_large() -> BodyError {
    BodyError {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        error: OAuthError::invalid_request("The body is larger than 64 KiB."),
    }
}

async fn read(payload: &mut Payload) -> Result<Bytes, BodyError> {
    let broken = |_error| BodyError {
        status: StatusCode::BAD_REQUEST,
        error: OAuthError::invalid_request("The body broke off."),
    };
    let Some(first) = payload.next().await.transpose().map_err(broken)? else { return Ok(Bytes::new()) };
    let Some(second) = payload.next().await.transpose().map_err(broken)? else {
        return if first.len() > MAX_BODY { Err(too_large()) } else { Ok(first) };
    };
    let mut body = BytesMut::from(first.as_ref());
    body.extend_from_slice(&second);
    while let Some(chunk) = payload.next().await.transpose().map_err(broken)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            return Err(too_large());
        }
    }
    if body.len() > MAX_BODY { Err(too_large()) } else { Ok(body.freeze()) }
}

/// The one `Authorization` header, as text.
///
/// # Errors
/// `invalid_request` when there is more than one or it is not text.
pub fn authorization(request: &HttpRequest) -> Result<Option<&str>, OAuthError> {
    let mut all = request.headers().get_all(AUTHORIZATION);
    let first = all.next();
    if all.next().is_some() {
        return Err(OAuthError::invalid_request("There is more than one Authorization header."));
    }
    let text = first.map(|value| {
        value.to_str().map_err(|_not_text| OAuthError::invalid_client("The Authorization header is not text."))
    });
    text.transpose()
}

/// The origin of the page whose code sent this request, when its answer may be read there: an origin of the redirect
/// URIs of the client that the request names, or of some client while it names none. `null` is nobody's origin.
pub fn readable_by<'a>(request: &'a HttpRequest, ctx: &Context, client_id: Option<&str>) -> Option<&'a str> {
    let origin = request.headers().get(ORIGIN)?.to_str().ok()?;
    let registry = ctx.registry.load();
    let known = match client_id.and_then(|id| registry.client(id)) {
        Some(client) => client.origins.iter().any(|own| own == origin),
        None => registry.knows_origin(origin),
    };
    known.then_some(origin)
}

/// The client that a request claims to be from; believed only for choosing who may read the answer.
pub fn claimed_client(authorization: Option<&str>, params: &Params) -> Option<String> {
    let basic = authorization.and_then(|header| parse_basic(header).ok()).map(|(id, _)| id);
    basic.or_else(|| params.get("client_id").map(str::to_owned))
}

/// Around the addresses that browser applications call. What is refused before there is a client to know the origins of (a
/// body that was not taken, another method) may be read by those of all clients, as the preflight was.
pub async fn readable(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let mut response = next.call(request).await?;
    if !response.headers().contains_key(VARY) {
        let ctx = response.request().app_data::<web::Data<Context>>();
        let origin = ctx.and_then(|ctx| readable_by(response.request(), ctx, None)).map(str::to_owned);
        allow_origin_in(response.headers_mut(), origin.as_deref());
    }
    Ok(response)
}

/// The preflight of a browser application's request (Fetch standard, RFC 10017): for registered origins, never with
/// credentials.
pub fn preflight(request: &HttpRequest, ctx: &Context, methods: &'static str) -> HttpResponse {
    let origin = readable_by(request, ctx, None);
    let mut response = HttpResponse::NoContent();
    if origin.is_some() {
        response
            .insert_header((ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods)))
            .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type")))
            .insert_header((ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")));
    }
    allow_origin(response.finish(), origin)
}

/// Names of our cookies. Over https they carry the prefix that makes browsers hold them to this host alone.
pub struct CookieNames {
    pub session: &'static str,
    pub state: &'static str,
    pub browser: &'static str,
    pub known: &'static str,
    pub step: &'static str,
    pub trust: &'static str,
    pub demo: &'static str,
    /// The link of a mail that was opened.
    pub link: &'static str,
    https: bool,
}

impl CookieNames {
    #[must_use]
    pub const fn new(https: bool) -> Self {
        if https {
            Self {
                session: "__Host-cs_session",
                state: "__Host-cs_state",
                browser: "__Host-cs_browser",
                known: "__Host-cs_known",
                step: "__Host-cs_step",
                trust: "__Host-cs_trust",
                demo: "__Host-cs_demo",
                link: "__Host-cs_link",
                https,
            }
        } else {
            Self {
                session: "cs_session",
                state: "cs_state",
                browser: "cs_browser",
                known: "cs_known",
                step: "cs_step",
                trust: "cs_trust",
                demo: "cs_demo",
                link: "cs_link",
                https,
            }
        }
    }

    /// A `Set-Cookie` line: for this host, unreadable to scripts, not sent along with other sites' posts. Without an age
    /// it goes when the browser closes.
    #[must_use]
    pub fn set(&self, name: &str, value: &str, age: Option<Duration>) -> String {
        let secure = if self.https { "; Secure" } else { "" };
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{}", max_age(age))
    }

    /// A cookie that scripts of this origin read, in a frame of another site too: it holds no secret. Without TLS browsers
    /// take no `SameSite=None`; there, frames of the same host on another port still see it.
    #[must_use]
    pub fn set_readable(&self, name: &str, value: &str, age: Option<Duration>) -> String {
        let reach = if self.https { "SameSite=None; Secure" } else { "SameSite=Lax" };
        format!("{name}={value}; Path=/; {reach}{}", max_age(age))
    }

    #[must_use]
    pub fn clear(&self, name: &str) -> String {
        self.set(name, "", Some(Duration::ZERO))
    }
}

fn max_age(age: Option<Duration>) -> String {
    age.map(|age| format!("; Max-Age={}", age.as_secs())).unwrap_or_default()
}

/// The lines that give a browser its session. The state lives as long: without it the session would seem to have changed.
pub fn session_cookies(cookie: &SessionCookie, https: bool) -> impl Iterator<Item = String> {
    let names = CookieNames::new(https);
    let session = names.set(names.session, cookie.value.expose_secret(), cookie.max_age);
    let state = cookie.state.as_ref().map(|state| names.set_readable(names.state, state, cookie.max_age));
    [session].into_iter().chain(state)
}

/// The lines that take it away. The state stays, as that of nobody: a frame that sees none could not tell the sign-out from
/// a browser that hides cookies from it.
pub fn no_session_cookies(ctx: &Context) -> impl Iterator<Item = String> {
    let names = CookieNames::new(ctx.config.issuer.is_https());
    let state = ctx.config.session.management.then(|| names.set_readable(names.state, "-", None));
    [names.clear(names.session)].into_iter().chain(state)
}

/// The address that a request comes from.
pub fn address(request: &HttpRequest, ctx: &Context) -> String {
    let address = client_address(request, &ctx.config.trusted_proxies).map(|address| address.to_canonical());
    address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}

/// A cookie's value. Sent twice under one name, somebody else put one of them there: neither counts. What others of this
/// domain set beside it is passed over byte by byte, text or not.
pub fn cookie<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let lines = request.headers().get_all(COOKIE).map(HeaderValue::as_bytes);
    let pairs = lines.flat_map(|line| line.split(|&b| b == b';')).map(<[u8]>::trim_ascii);
    let mut values = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let value = values.next().filter(|_| values.next().is_none())?;
    std::str::from_utf8(value).ok()
}

/// What this browser brought.
///
/// # Errors
/// When the system has no randomness to give.
pub fn browser(request: &HttpRequest, ctx: &Context) -> Result<Browser, OAuthError> {
    let names = CookieNames::new(ctx.config.issuer.is_https());
    let known = cookie(request, names.known).map(str::to_owned);
    let address = client_address(request, &ctx.config.trusted_proxies).map(|address| address.to_canonical());
    let (browser, session) = (cookie(request, names.browser), cookie(request, names.session));
    let origin = Origin {
        address: address.map_or_else(|| "unknown".to_owned(), |address| address.to_string()),
        user_agent: user_agent(request),
    };
    let found = Browser::new(browser, session, known, network(address), origin)?;
    Ok(found.with_second_step(cookie(request, names.step), cookie(request, names.trust)))
}

/// What a browser says it is: shown to people, so bounded and without control characters.
fn user_agent(request: &HttpRequest) -> String {
    let text = request.headers().get(USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(256).collect()
}

/// Where a form that another site posted goes on to: the same as a GET, which browsers send our cookies along with, as they
/// do not with the post (`SameSite`). Without this the person would seem to be signed in nowhere.
pub fn again_with_cookies(request: &HttpRequest, ctx: &Context, params: &Params) -> Option<String> {
    let site = request.headers().get("sec-fetch-site")?.to_str().ok()?;
    let names = CookieNames::new(ctx.config.issuer.is_https());
    let ours = [names.session, names.browser].iter().any(|name| cookie(request, name).is_some());
    let foreign = matches!(site, "cross-site" | "same-site") && !ours;
    foreign.then(|| format!("{}?{}", request.path(), params.encode()))
}

/// Whether the browser says that a form came from a page of this origin, as far as it says anything. A browser that
/// tells the site gives `null` as the origin, for our pages forbid it to tell more.
pub fn sent_from(request: &HttpRequest, origin: &str) -> bool {
    let header = |name: &HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let sent = header(&ORIGIN);
    match header(&HeaderName::from_static("sec-fetch-site")) {
        Some("same-origin") => sent.is_none_or(|sent| sent == origin || sent == "null"),
        Some("none") | None => sent.is_none_or(|sent| sent == origin),
        Some(_) => false,
    }
}

/// Whether a form was sent from our own page in this browser: the browser says so where it can, and the form token
/// proves it.
pub fn is_own_form(request: &HttpRequest, ctx: &Context, browser: &Browser, form: &Params, purpose: &str) -> bool {
    sent_from(request, &ctx.config.issuer.url().origin().ascii_serialization())
        && form.get("csrf").is_some_and(|token| same_text(token, &browser.csrf(purpose)))
}

/// Whether this is the address of a proxy whose word counts.
pub fn is_trusted_proxy(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address.to_canonical()))
}

/// The address a request came from: the peer, or, when the peer is one of our proxies, the right-most address in what
/// the proxies say that is not itself one of them. Nobody else's word counts, so it ends at the first that is no address.
fn client_address(request: &HttpRequest, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut nearest = request.peer_addr()?.ip();
    for hop in forwarded_for(request).into_iter().rev() {
        if !is_trusted_proxy(nearest, trusted) {
            break;
        }
        let Some(hop) = hop else { break };
        nearest = hop;
    }
    Some(nearest)
}

/// The addresses of `X-Forwarded-For` or, without it, `Forwarded` (RFC 7239 section 5.2), in the order they stand. In this
/// order, because the usual proxies write the first and let a stranger's second through.
fn forwarded_for(request: &HttpRequest) -> Vec<Option<IpAddr>> {
    let lines = |name: &'static str| {
        request
            .headers()
            .get_all(name)
            .flat_map(|line| line.to_str().unwrap_or_default().split(','))
            .collect::<Vec<_>>()
    };
    let hops = lines("x-forwarded-for");
    if !hops.is_empty() {
        return hops.into_iter().map(parse_hop).collect();
    }
    let hop = |element: &str| {
        element.split(';').filter_map(|pair| pair.trim().split_once('=')).find_map(|(name, value)| {
            name.eq_ignore_ascii_case("for").then(|| parse_hop(value.trim_matches('"'))).flatten()
        })
    };
    lines("forwarded").into_iter().map(hop).collect()
}

fn parse_hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    text.parse()
        .ok()
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

/// What guesses are counted against: an IPv4 address, or the /64 that one household or server has in IPv6.
fn network(address: Option<IpAddr>) -> String {
    match address.map(|address| address.to_canonical()) {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn s97_forwarded_addresses_count_only_from_a_listed_proxy_and_from_the_right() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let from = |peer: &str, name: &'static str, value: &str| {
            let request =
                TestRequest::default().peer_addr(peer.parse().unwrap()).insert_header((name, value)).to_http_request();
            client_address(&request, &trusted).unwrap().to_string()
        };
        assert_eq!(from("192.0.2.1:5", "x-forwarded-for", "198.51.100.7"), "192.0.2.1");
        assert_eq!(from("10.0.0.1:5", "x-forwarded-for", "198.51.100.7"), "198.51.100.7");
        assert_eq!(from("10.0.0.1:5", "x-forwarded-for", "1.1.1.1, 198.51.100.7, 10.0.0.9"), "198.51.100.7");
        assert_eq!(from("10.0.0.1:5", "forwarded", "for=1.1.1.1, for=\"[2001:db8::1]:80\";proto=https"), "2001:db8::1");
        assert_eq!(from("10.0.0.1:5", "x-forwarded-for", "nonsense"), "10.0.0.1");
        assert_eq!(from("10.0.0.1:5", "x-forwarded-for", "198.51.100.7, nonsense"), "10.0.0.1");
        let both = TestRequest::default()
            .peer_addr("10.0.0.1:5".parse().unwrap())
            .insert_header(("forwarded", "for=1.1.1.1"))
            .insert_header(("x-forwarded-for", "198.51.100.7"))
            .to_http_request();
        assert_eq!(client_address(&both, &trusted).unwrap().to_string(), "198.51.100.7");
    }

    #[test]
    fn guesses_are_counted_by_address_or_household() {
        assert_eq!(network("192.0.2.1".parse().ok()), "192.0.2.1");
        assert_eq!(network("::ffff:192.0.2.1".parse().ok()), "192.0.2.1");
        assert_eq!(network("2001:db8:1:2:3:4:5:6".parse().ok()), "2001:db8:1:2::/64");
    }

    #[test]
    fn s75_cookies_are_held_to_this_host_and_a_doubled_one_does_not_count() {
        let cookie_line = CookieNames::new(true).set("__Host-cs_session", "x", None);
        assert_eq!(cookie_line, "__Host-cs_session=x; Path=/; HttpOnly; SameSite=Lax; Secure");
        let line = HeaderValue::from_bytes(b"x=Jos\xe9; a=1; b=2; a=3; bb=4").unwrap();
        let request = TestRequest::default().insert_header(("cookie", line)).to_http_request();
        assert_eq!(cookie(&request, "b"), Some("2"));
        assert_eq!(cookie(&request, "a"), None);
    }
}
