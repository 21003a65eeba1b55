//! The demo application of development mode. It signs in like any other: it knows its client id and secret and talks to
//! the provider over HTTP, although both live in one process.

mod client;
mod visitors;

use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::http::header::{HOST, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::AuthorizationCode;
use openidconnect::core::CoreAuthPrompt;
use secrecy::SecretString;
use serde_json::Value;
use url::Url;

use crate::clock::{Clock, UnixTime};
use crate::crypto::opaque::{csrf_token, same_text};
use crate::outbound::Outbound;
use crate::protocol::params::Params;

use super::answer::{PageOptions, forged, page, see_other, wait_words, with_cookies};
use super::pages::{DemoPage, DemoToken, DemoTokensPage};
use super::request::{CookieNames, Form, cookie, sent_from};
use client::{ClientError, RelyingParty, Tokens, refused};
use visitors::{Holding, Message, Visitor, Visitors};

/// What the form token of the demo is bound to.
const PURPOSE: &str = "demo";
const RESTARTED: &str = "The server was restarted, and the demo has forgotten its tokens. Sign in again.";

/// The demo application and those who visit it. What it is told lives in memory alone.
pub struct Demo {
    provider: RelyingParty,
    visitors: Mutex<Visitors>,
    origin: String,
    https: bool,
}

impl Demo {
    #[must_use]
    pub fn new(issuer: String, client_id: String, client_secret: SecretString, outbound: Outbound) -> Self {
        let origin = Url::parse(&issuer).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
        let https = issuer.starts_with("https:");
        let provider = RelyingParty::new(issuer, client_id, client_secret, outbound);
        Self { provider, visitors: Mutex::default(), origin, https }
    }

    fn visitors(&self) -> MutexGuard<'_, Visitors> {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> CookieNames {
        CookieNames::new(self.https)
    }

    fn cookie<'a>(&self, request: &'a HttpRequest) -> &'a str {
        cookie(request, self.names().demo).unwrap_or_default()
    }

    fn with<T>(&self, request: &HttpRequest, change: impl FnOnce(&mut Visitor) -> T) -> Option<T> {
        self.visitors().find(self.cookie(request)).map(change)
    }

    fn holds_tokens(&self, request: &HttpRequest) -> bool {
        self.with(request, |visitor| visitor.holding.is_some()).unwrap_or(false)
    }

    fn remember(&self, response: HttpResponse, id: &str) -> HttpResponse {
        let names = self.names();
        with_cookies(response, [names.set(names.demo, id, None)])
    }

    fn options(&self) -> PageOptions<'_> {
        PageOptions { https: self.https, ..PageOptions::default() }
    }

    fn start_page(&self, request: &HttpRequest, message: Option<&Message>) -> HttpResponse {
        let body = DemoPage {
            issuer: &self.provider.issuer,
            client_id: &self.provider.client_id,
            notice: message.and_then(Message::notice),
            error: message.and_then(Message::error),
            has_tokens: self.holds_tokens(request),
        };
        page(&body, &self.options())
    }

    fn failure_page(&self, request: &HttpRequest, error: &ClientError) -> HttpResponse {
        self.start_page(request, Some(&failed(error)))
    }

    /// Where to go instead when the browser calls this machine by another name than the issuer's, under which the sign-in
    /// would come back to a browser without the cookie. A fixed address: nothing of the request is in it.
    fn elsewhere(&self, request: &HttpRequest, path: &'static str) -> Option<HttpResponse> {
        let host = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        let host = host.or_else(|| request.headers().get(HOST).map(HeaderValue::as_bytes))?;
        let scheme = if self.https { "https" } else { "http" };
        let called = Url::parse(&format!("{scheme}://{}", String::from_utf8_lossy(host)));
        let ours = called.is_ok_and(|called| called.origin().ascii_serialization() == self.origin);
        (!ours).then(|| see_other(&format!("{}{path}", self.provider.issuer), false))
    }

    /// The way on for somebody who wants to do something with tokens, and there are none.
    fn without_tokens(&self, request: &HttpRequest) -> HttpResponse {
        let forgotten = !self.cookie(request).is_empty() && self.with(request, |_| ()).is_none();
        if !forgotten {
            return see_other("/demo", false);
        }
        let id = self.visitors().welcome_back(RESTARTED);
        match id {
            Ok(id) => self.remember(see_other("/demo", false), &id),
            Err(error) => self.failure_page(request, &error.into()),
        }
    }

    /// Whether a form was sent from the demo's own page in this browser.
    fn is_own_form(&self, request: &HttpRequest, form: &Params) -> bool {
        sent_from(request, &self.origin)
            && form.get("csrf").is_some_and(|token| same_text(token, &csrf_token(self.cookie(request), PURPOSE)))
    }
}

/// Here the cause is logged, once.
fn failed(error: &ClientError) -> Message {
    if let Some(cause) = std::error::Error::source(error) {
        tracing::warn!(cause, "demo application: {error}");
    } else {
        tracing::debug!("demo application: {error}");
    }
    Message::Error(error.to_string())
}

pub async fn get(request: HttpRequest, demo: web::Data<Demo>) -> HttpResponse {
    if let Some(elsewhere) = demo.elsewhere(&request, "/demo") {
        return elsewhere;
    }
    let message = demo.with(&request, |visitor| visitor.message.take()).flatten();
    demo.start_page(&request, message.as_ref())
}

/// The address of a form, opened like a page.
pub async fn back() -> HttpResponse {
    see_other("/demo", false)
}

pub async fn sign_in(request: HttpRequest, demo: web::Data<Demo>) -> HttpResponse {
    if let Some(elsewhere) = demo.elsewhere(&request, "/demo/sign-in") {
        return elsewhere;
    }
    let begun = async {
        let (address, sign_in) = demo.provider.begin(prompt(request.query_string())).await?;
        let id = demo.visitors().begin(demo.cookie(&request), sign_in)?;
        Ok(demo.remember(see_other(address.as_str(), false), &id))
    };
    begun.await.unwrap_or_else(|error: ClientError| demo.failure_page(&request, &error))
}

/// What the page's links ask for; anything else is passed over.
fn prompt(query: &str) -> Option<CoreAuthPrompt> {
    match Params::parse(query.as_bytes()).ok()?.get("prompt")? {
        "login" => Some(CoreAuthPrompt::Login),
        "select_account" => Some(CoreAuthPrompt::SelectAccount),
        _ => None,
    }
}

pub async fn callback(request: HttpRequest, demo: web::Data<Demo>) -> HttpResponse {
    let signed_in = async {
        let tokens = exchange(&request, &demo).await?;
        let userinfo = demo.provider.userinfo(&tokens).await;
        let name = userinfo.ok().and_then(|claims| Some(claims.preferred_username()?.to_string()));
        let account_name = name.unwrap_or_else(|| tokens.subject.to_string());
        // Another cookie than before: whoever planted that one gets nothing (session fixation).
        let holding = Holding { tokens, account_name, userinfo: None };
        let id = demo.visitors().admit(demo.cookie(&request), holding)?;
        Ok(demo.remember(see_other("/demo/tokens", false), &id))
    };
    signed_in.await.unwrap_or_else(|error: ClientError| {
        if matches!(error, ClientError::Unasked) && demo.holds_tokens(&request) {
            demo.with(&request, |visitor| visitor.message = Some(failed(&error)));
            return see_other("/demo/tokens", false);
        }
        demo.failure_page(&request, &error)
    })
}

/// Judges an authorization response, OpenID Connect Core section 3.1.2.7 and RFC 9207 section 2.4, and spends its code.
async fn exchange(request: &HttpRequest, demo: &Demo) -> Result<Tokens, ClientError> {
    let params = Params::parse(request.query_string().as_bytes());
    let params = params.and_then(|params| params.refuse_repeated().map(|()| params));
    let params = params.map_err(|error| ClientError::Unreadable(error.description.into_owned()))?;
    let state = params.get("state").unwrap_or_default();
    let started = demo.with(request, |visitor| visitor.take_sign_in(state));
    let started = started.flatten().ok_or(ClientError::Unasked)?;
    if params.get("iss") != Some(&demo.provider.issuer) {
        return Err(ClientError::OtherIssuer);
    }
    match params.get("error") {
        Some("access_denied") => return Err(ClientError::Denied),
        Some(code) => return Err(refused(code, params.get("error_description"))),
        None => {}
    }
    let code = params.get("code").ok_or(ClientError::Missing("code"))?;
    demo.provider.exchange(started, AuthorizationCode::new(code.to_owned())).await
}

pub async fn tokens(request: HttpRequest, demo: web::Data<Demo>) -> HttpResponse {
    let held = demo.with(&request, |visitor| Some((visitor.holding.clone()?, visitor.message.take()))).flatten();
    let Some((holding, message)) = held else { return demo.without_tokens(&request) };
    let body = DemoTokensPage {
        csrf: &csrf_token(demo.cookie(&request), PURPOSE),
        account_name: &holding.account_name,
        notice: message.as_ref().and_then(Message::notice),
        error: message.as_ref().and_then(Message::error),
        tokens: shown(&holding.tokens, Clock::system(UnixTime::from_millis(0)).now()),
        can_refresh: holding.tokens.refresh_token.is_some(),
        userinfo: holding.userinfo,
    };
    page(&body, &demo.options())
}

/// Does one thing with what the visitor holds, and shows what became of it.
async fn act(
    request: &HttpRequest,
    demo: &Demo,
    form: &Params,
    action: impl AsyncFnOnce(&RelyingParty, Holding) -> Result<(Holding, &'static str), ClientError>,
) -> HttpResponse {
    if !demo.is_own_form(request, form) {
        return forged(demo.https);
    }
    let held = demo.with(request, |visitor| visitor.holding.clone()).flatten();
    let Some(held) = held else { return demo.without_tokens(request) };
    let outcome = action(&demo.provider, held).await;
    demo.with(request, |visitor| visitor.settle(outcome.map_err(|error| failed(&error))));
    see_other("/demo/tokens", false)
}

pub async fn refresh(request: HttpRequest, demo: web::Data<Demo>, Form(form): Form) -> HttpResponse {
    let action = async |provider: &RelyingParty, held: Holding| {
        let tokens = provider.refresh(held.tokens).await?;
        Ok((Holding { tokens, userinfo: None, ..held }, "Fresh tokens. The refresh token that was used is spent."))
    };
    act(&request, &demo, &form, action).await
}

pub async fn userinfo(request: HttpRequest, demo: web::Data<Demo>, Form(form): Form) -> HttpResponse {
    let action = async |provider: &RelyingParty, held: Holding| {
        let claims = provider.userinfo(&held.tokens).await?;
        let claims =
            serde_json::to_string_pretty(&claims).map_err(|error| ClientError::Unreadable(error.to_string()))?;
        Ok((Holding { userinfo: Some(claims), ..held }, "The provider was asked about you."))
    };
    act(&request, &demo, &form, action).await
}

/// The refresh token first, which ends everything; the access token when that is all there is.
pub async fn revoke(request: HttpRequest, demo: web::Data<Demo>, Form(form): Form) -> HttpResponse {
    let action = async |provider: &RelyingParty, mut held: Holding| {
        held.userinfo = None;
        let Some(token) = held.tokens.refresh_token.take() else {
            provider.revoke(held.tokens.access_token.secret()).await?;
            return Ok((held, "The access token is revoked. Ask UserInfo, and it is refused."));
        };
        provider.revoke(token.secret()).await?;
        Ok((held, "The refresh token is revoked, and the access token with it. Ask UserInfo, and it is refused."))
    };
    act(&request, &demo, &form, action).await
}

pub async fn sign_out(request: HttpRequest, demo: web::Data<Demo>, Form(form): Form) -> HttpResponse {
    if !demo.is_own_form(&request, &form) {
        return forged(demo.https);
    }
    let held = demo.with(&request, |visitor| visitor.holding.take()).flatten();
    let Some(held) = held else { return demo.without_tokens(&request) };
    match demo.provider.end_session(&held.tokens).await {
        Ok((address, state)) => {
            demo.with(&request, |visitor| visitor.sign_out = Some(state));
            see_other(address.as_str(), false)
        }
        Err(error) => demo.failure_page(&request, &error),
    }
}

pub async fn signed_out(request: HttpRequest, demo: web::Data<Demo>) -> HttpResponse {
    let params = Params::parse(request.query_string().as_bytes()).ok();
    let state = params.as_ref().and_then(|params| params.get("state")).unwrap_or_default();
    let asked = demo.with(&request, |visitor| visitor.sign_out.take_if(|own| same_text(own.secret(), state)));
    if asked.flatten().is_none() {
        return see_other("/demo", false);
    }
    demo.visitors().forget(demo.cookie(&request));
    let notice = Message::Notice("You are signed out, here and at the provider.");
    let names = demo.names();
    with_cookies(demo.start_page(&request, Some(&notice)), [names.clear(names.demo)])
}

/// The tokens in the order they are of interest.
fn shown(tokens: &Tokens, now: UnixTime) -> Vec<DemoToken> {
    let mut shown = vec![
        token(
            "access-token",
            "Access token",
            "The app sends it to APIs, which check it by themselves.",
            tokens.access_token.secret(),
            now,
        ),
        token("id-token", "ID token", "Tells the app who signed in, when and how.", &tokens.id_token.to_string(), now),
    ];
    if let Some(refresh_token) = &tokens.refresh_token {
        let purpose = "Gets fresh tokens, once. Only the provider can read it.";
        shown.push(token("refresh-token", "Refresh token", purpose, refresh_token.secret(), now));
    }
    shown
}

fn token(id: &str, name: &str, purpose: &str, raw: &str, now: UnixTime) -> DemoToken {
    let mut parts = raw.split('.').map(decoded);
    let (header, claims) = (parts.next().flatten(), parts.next().flatten());
    DemoToken {
        id: id.to_owned(),
        name: name.to_owned(),
        purpose: purpose.to_owned(),
        expires: claims.as_ref().and_then(|claims| ends(claims, now)),
        header: header.map(|header| format!("{header:#}")),
        claims: claims.map(|claims| format!("{claims:#}")),
        raw: raw.to_owned(),
    }
}

/// One part of a JWT; `None` where a token is opaque.
fn decoded(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn ends(claims: &Value, now: UnixTime) -> Option<String> {
    let at = UnixTime::from_seconds(claims.get("exp")?.as_i64()?);
    let when = if at > now { wait_words(at, now).0 } else { "which has passed".to_owned() };
    let written = at.to_string();
    let (_, time) = written.trim_end_matches('Z').split_once('T')?;
    Some(format!("{time} UTC, {when}"))
}

#[cfg(test)]
mod tests;
