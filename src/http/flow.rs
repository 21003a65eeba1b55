//! The pages of a sign-in, `/flow/{id}`. GET shows whatever comes next; each POST records one fact and goes back there, or
//! straight to the client where nothing is left to do.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret as _;

use crate::crypto::opaque::{FlowId, SessionSecret, same_text};
use crate::domain::client::Client;
use crate::domain::flow::{Destination, Progress};
use crate::domain::grant::Consent;
use crate::domain::resource::Resource;
use crate::flow::Context;
use crate::flow::interaction::{Arrival, Situation, Step, arrive, choose_account, refuse, situation};
use crate::flow::session::Browser;
use crate::flow::{consent as consent_flow, login};
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;
use crate::protocol::redirect_uri::origin_of;
use crate::protocol::scope::{OFFLINE_ACCESS, OIDC_SCOPES};

use super::answer::{
    PageOptions, error_page, flow_gone, forged, page, see_other, span_words, wait_words, with_cookies,
};
use super::authorize::{respond, with_browser_cookie};
use super::pages::{ConsentPage, ConsentResource, LoginPage, ReauthPage, SelectPage};
use super::request::{CookieNames, PageForm, browser, is_own_form, session_cookies};
use super::second_step;

/// How long a browser stays known to an account that signed in in it.
pub const KNOWN_FOR: std::time::Duration = std::time::Duration::from_hours(4320);

/// A request for a flow of this browser, as far as it has come.
pub(super) struct Visit {
    pub id: String,
    pub browser: Browser,
    pub situation: Situation,
}

impl Visit {
    /// What a form token is for: the flow, and on a page that shows an account also that account's session. A page that
    /// showed one person is not answered in the name of another who signed in meanwhile.
    pub fn purpose(&self) -> String {
        if let (Step::SecondFactor | Step::Enrol, Some(person)) = (&self.situation.step, self.situation.person()) {
            return format!("{}\n{}", self.id, person.id);
        }
        match (&self.situation.step, &self.situation.signed_in) {
            (Step::Consent(_) | Step::SelectAccount | Step::Reauthenticate, Some(signed_in)) => {
                format!("{}\n{}", self.id, signed_in.session.id)
            }
            _ => self.id.clone(),
        }
    }

    /// Where a form of this flow may end up; see [`PageOptions::form_target`].
    pub fn form_target(&self) -> Option<&str> {
        match &self.situation.flow.destination {
            Destination::Client(destination) => Some(&destination.request.target.redirect_uri),
            Destination::Home | Destination::Account { .. } => None,
        }
    }

    /// Whether a form is from the page that comes next now.
    pub fn is_of_this_step(&self, form: &Params) -> bool {
        form.get("csrf").is_some_and(|token| same_text(token, &self.browser.csrf(&self.purpose())))
    }
}

/// What a sign-in page says beside its form.
#[derive(Default)]
pub(super) struct Notice<'a> {
    pub username: &'a str,
    pub error: Option<&'a str>,
    pub wait: Option<&'a str>,
    pub status: Option<StatusCode>,
    pub keep: bool,
    /// What a new app was called.
    pub device: &'a str,
}

/// Finds the flow; a missing one is answered by a page.
pub(super) async fn visit(request: &HttpRequest, ctx: &Context, id: String) -> Result<Visit, HttpResponse> {
    let https = ctx.config.issuer.is_https();
    let failed = |error: OAuthError| error_page(&error, https);
    let browser = browser(request, ctx).map_err(failed)?;
    let Some(flow) = FlowId::parse(&id) else { return Err(flow_gone(https)) };
    let situation = situation(ctx, flow.digest(), &browser, ctx.now()).await.map_err(failed)?;
    situation.map(|situation| Visit { id, browser, situation }).ok_or_else(|| flow_gone(https))
}

/// The same for a form, which must come from our own page.
pub(super) async fn posted(
    request: &HttpRequest,
    ctx: &Context,
    id: String,
    form: &Params,
) -> Result<Visit, HttpResponse> {
    let visit = visit(request, ctx, id).await?;
    // A page from before a step that has been done since is still our own; it then leads to where the flow is.
    let person = visit.situation.person().map(|person| format!("{}\n{}", visit.id, person.id));
    let session = visit.situation.signed_in.as_ref().map(|signed_in| format!("{}\n{}", visit.id, signed_in.session.id));
    // Or the step was proven by somebody who is not there any more: too late, signed out, shut.
    let Progress { password, session_id, .. } = &visit.situation.flow.progress;
    let half = password.as_ref().map(|proof| format!("{}\n{}", visit.id, proof.user_id));
    let proven = session_id.as_ref().map(|session| format!("{}\n{session}", visit.id));
    let own = [Some(visit.id.clone()), person, session, half, proven];
    if own.iter().flatten().any(|purpose| is_own_form(request, ctx, &visit.browser, form, purpose)) {
        Ok(visit)
    } else {
        Err(forged(ctx.config.issuer.is_https()))
    }
}

pub(super) fn back_to(ctx: &Context, visit: &Visit) -> HttpResponse {
    see_other(&format!("/flow/{}", visit.id), ctx.config.issuer.is_https())
}

/// Where a fact that was just recorded leads.
async fn onward(ctx: &Context, visit: &mut Visit) -> HttpResponse {
    match situation(ctx, visit.situation.id, &visit.browser, ctx.now()).await {
        Ok(Some(situation)) if matches!(situation.step, Step::Issue | Step::Refuse(_)) => {
            visit.situation = situation;
            show(ctx, visit, &Notice::default()).await
        }
        Ok(_) => back_to(ctx, visit),
        Err(error) => error_page(&error, ctx.config.issuer.is_https()),
    }
}

/// The same for whoever has just signed in, with the cookies of that.
pub(super) async fn enter(ctx: &Context, mut visit: Visit, entry: login::Entry) -> HttpResponse {
    let lines = given(ctx, &visit, &entry);
    if let Some(answer) = entry.answer {
        return with_cookies(send_off(ctx, &visit, &Arrival::Client(answer)), lines);
    }
    visit.browser.session = SessionSecret::parse(entry.cookie.value.expose_secret()).map(|secret| secret.digest());
    with_cookies(onward(ctx, &mut visit).await, lines)
}

pub async fn get(request: HttpRequest, ctx: web::Data<Context>, id: web::Path<String>) -> HttpResponse {
    match visit(&request, &ctx, id.into_inner()).await {
        Ok(visit) => show(&ctx, &visit, &Notice::default()).await,
        Err(response) => response,
    }
}

/// The address of a form, opened like a page (a reload, an old tab): the flow goes on where it is.
pub async fn back(ctx: web::Data<Context>, id: web::Path<String>) -> HttpResponse {
    match FlowId::parse(&id) {
        Some(_) => see_other(&format!("/flow/{id}"), ctx.config.issuer.is_https()),
        None => flow_gone(ctx.config.issuer.is_https()),
    }
}

/// Shows the page that comes next, or sends the browser on when there is none.
pub(super) async fn show(ctx: &Context, visit: &Visit, notice: &Notice<'_>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let Situation { flow, client, signed_in, step, .. } = &visit.situation;
    let target = visit.form_target();
    let request = match &flow.destination {
        Destination::Client(destination) => Some(&destination.request),
        Destination::Home | Destination::Account { .. } => None,
    };
    let options = PageOptions { form_target: target, https, status: notice.status, ..PageOptions::default() };
    let csrf = visit.browser.csrf(&visit.purpose());
    let client_name = client.as_ref().map(|client| client.name());
    match (step, signed_in) {
        (Step::SignIn, _) => {
            let hint = request.and_then(|request| request.login_hint.as_deref()).unwrap_or_default();
            let username = if notice.username.is_empty() { hint } else { notice.username };
            let Notice { error, wait, .. } = *notice;
            let keep_for = Some(ctx.config.session.keep).filter(|span| !span.is_zero()).map(span_words);
            let keep = notice.keep;
            let body = LoginPage {
                flow_id: &visit.id,
                csrf: &csrf,
                client_name,
                username,
                keep,
                keep_for,
                can_reset: ctx.config.mail.is_some(),
                can_register: ctx.config.registration.enabled,
                error,
                wait,
            };
            page(&body, &options)
        }
        (Step::Reauthenticate, Some(signed_in)) => {
            // The name that is typed: password managers go by it.
            let account_name = signed_in.user.username.as_str();
            let Notice { error, wait, .. } = *notice;
            let other_account = true;
            let body =
                ReauthPage { flow_id: &visit.id, csrf: &csrf, client_name, account_name, other_account, error, wait };
            page(&body, &options)
        }
        (Step::SecondFactor, _) => second_step::code_page(ctx, visit, notice, &options),
        (Step::Enrol, _) => second_step::enrol_page(ctx, visit, notice, &options).await,
        (Step::SelectAccount, Some(signed_in)) => {
            let (account_name, account_email) = (&signed_in.user.label(), signed_in.user.email.as_deref());
            page(&SelectPage { flow_id: &visit.id, csrf: &csrf, client_name, account_name, account_email }, &options)
        }
        (Step::Consent(asked), Some(signed_in)) => {
            let Some(client) = client else { return flow_gone(https) };
            let host = target
                .and_then(origin_of)
                .and_then(|origin| url::Url::parse(&origin).ok()?.host_str().map(str::to_owned));
            let body = ConsentPage {
                flow_id: &visit.id,
                csrf: &csrf,
                client_name: client.name(),
                client_host: host.as_deref(),
                client_uri: client.metadata.client_uri.as_deref(),
                policy_uri: client.metadata.policy_uri.as_deref(),
                tos_uri: client.metadata.tos_uri.as_deref(),
                account_name: &signed_in.user.label(),
                scopes: in_plain_words(ctx, asked),
                resources: resources(ctx, client, asked),
                offline_access: asked.scope.contains(OFFLINE_ACCESS),
            };
            page(&body, &options)
        }
        _ => match arrive(ctx, &visit.situation, ctx.now()).await {
            Ok(Some(arrival)) => send_off(ctx, visit, &arrival),
            Ok(None) => flow_gone(https),
            Err(error) => error_page(&error, https),
        },
    }
}

fn send_off(ctx: &Context, visit: &Visit, arrival: &Arrival) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    match arrival {
        Arrival::Again => back_to(ctx, visit),
        Arrival::Home => see_other("/", https),
        Arrival::Account(page) => see_other(page, https),
        Arrival::Client(response) => respond(response, https),
    }
}

/// What each scope, and each claim asked for by itself, means to a person. Scopes of a resource stand with the resource.
pub fn in_plain_words(ctx: &Context, asked: &Consent) -> Vec<String> {
    let registry = ctx.registry.load();
    let words = |scope: &str| match scope {
        "openid" => Some("Know who you are".to_owned()),
        "profile" => Some("See your name and profile".to_owned()),
        "email" => Some("See your e-mail address".to_owned()),
        "address" => Some("See your postal address".to_owned()),
        "phone" => Some("See your phone number".to_owned()),
        OFFLINE_ACCESS => None,
        owned if registry.knows_scope(owned) => None,
        other => Some(format!("Use “{other}”")),
    };
    // The known ones first, in the order in which a person cares about them.
    let known = OIDC_SCOPES.into_iter().filter(|scope| asked.scope.contains(scope));
    let scopes = known.chain(asked.scope.iter().filter(|scope| !OIDC_SCOPES.contains(scope))).filter_map(words);
    scopes.chain(asked.claims.iter().map(|claim| format!("See your {}", claim.replace('_', " ")))).collect()
}

/// The APIs that are asked for, each with the scopes that mean something there; where none is named, those whose scopes are,
/// as far as the client may have tokens for them. The default audience is one of them only where it has such scopes: a token
/// for it is how `UserInfo` is asked.
pub fn resources(ctx: &Context, client: &Client, asked: &Consent) -> Vec<ConsentResource> {
    let registry = ctx.registry.load();
    let mut resources: Vec<&Resource> = if asked.resources.is_empty() {
        registry.meant_resources(client, &asked.scope).collect()
    } else {
        asked.resources.iter().filter_map(|identifier| registry.resource(identifier)).collect()
    };
    resources.sort_by(|a, b| a.identifier.cmp(&b.identifier));
    resources
        .into_iter()
        .map(|resource| ConsentResource {
            name: resource.name.clone().unwrap_or_else(|| resource.identifier.clone()),
            identifier: resource.identifier.clone(),
            scopes: resource.scope.iter().filter(|scope| asked.scope.contains(scope)).map(str::to_owned).collect(),
        })
        .filter(|api: &ConsentResource| !api.scopes.is_empty() || api.identifier != ctx.config.access_token.audience)
        .collect()
}

pub async fn sign_in(
    request: HttpRequest,
    ctx: web::Data<Context>,
    id: web::Path<String>,
    PageForm(form): PageForm,
) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    // Before the database is asked for anything: a crowd that is turned away takes nothing from whoever asks for tokens.
    if let Err(full) = ctx.hasher.check_room() {
        ctx.metrics.sign_in("failed");
        return error_page(&full.into(), https);
    }
    let visit = match posted(&request, &ctx, id.into_inner(), &form).await {
        Ok(visit) => visit,
        Err(response) => return response,
    };
    let now = ctx.now();
    let username = form.get("username");
    let password = form.get("password").unwrap_or_default().into();
    let keep = form.get("keep") == Some("yes");
    let outcome = login::sign_in(&ctx, &visit.situation, &visit.browser, username, password, keep, now).await;
    ctx.metrics.sign_in(outcome.as_ref().map_or("failed", login::Outcome::as_str));
    match outcome {
        Ok(login::Outcome::Elsewhere) => back_to(&ctx, &visit),
        Ok(login::Outcome::SignedIn(entry)) => enter(&ctx, visit, entry).await,
        Ok(login::Outcome::Half(secret)) => {
            let names = CookieNames::new(https);
            with_cookies(back_to(&ctx, &visit), [names.set(names.step, secret.expose_secret(), None)])
        }
        Ok(login::Outcome::Wrong) => {
            let error = if matches!(visit.situation.step, Step::Reauthenticate) {
                "That password is not right. Please try again."
            } else {
                "The user name or password is not right. Please try again."
            };
            show(
                &ctx,
                &visit,
                &Notice { username: username.unwrap_or_default(), error: Some(error), keep, ..Notice::default() },
            )
            .await
        }
        Ok(login::Outcome::Wait(until)) => {
            let (words, seconds) = wait_words(until, now);
            let status = Some(StatusCode::TOO_MANY_REQUESTS);
            let username = username.unwrap_or_default();
            let notice = Notice { username, wait: Some(&words), status, keep, ..Notice::default() };
            let mut response = show(&ctx, &visit, &notice).await;
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            response
        }
        Err(error) => error_page(&error, https),
    }
}

/// The cookies of a sign-in. What proved its first step has done its work.
pub(super) fn given(ctx: &Context, visit: &Visit, entry: &login::Entry) -> Vec<String> {
    let names = CookieNames::new(ctx.config.issuer.is_https());
    let known_for = Some(KNOWN_FOR);
    let mut lines: Vec<String> = session_cookies(&entry.cookie, ctx.config.issuer.is_https()).collect();
    lines.extend(entry.known.as_ref().map(|known| names.set(names.known, known, known_for)));
    let trust_for = Some(ctx.config.mfa.trust_browser);
    lines.extend(entry.trust.as_ref().map(|trust| names.set(names.trust, trust.expose_secret(), trust_for)));
    lines.extend(visit.browser.step.map(|_| names.clear(names.step)));
    lines
}

pub async fn account(
    request: HttpRequest,
    ctx: web::Data<Context>,
    id: web::Path<String>,
    PageForm(form): PageForm,
) -> HttpResponse {
    let visit = match posted(&request, &ctx, id.into_inner(), &form).await {
        Ok(visit) => visit,
        Err(response) => return response,
    };
    if !visit.is_of_this_step(&form) {
        return back_to(&ctx, &visit);
    }
    let other = match form.get("account") {
        Some("other") => true,
        Some("continue") => false,
        _ => return back_to(&ctx, &visit),
    };
    match choose_account(&ctx, &visit.situation, other).await {
        Ok(()) => back_to(&ctx, &visit),
        Err(error) => error_page(&error.into(), ctx.config.issuer.is_https()),
    }
}

pub async fn consent(
    request: HttpRequest,
    ctx: web::Data<Context>,
    id: web::Path<String>,
    PageForm(form): PageForm,
) -> HttpResponse {
    let mut visit = match posted(&request, &ctx, id.into_inner(), &form).await {
        Ok(visit) => visit,
        Err(response) => return response,
    };
    match form.get("decision") {
        // At any time, like cancelling; what is allowed is what this page showed.
        Some("deny") => cancelled(&ctx, &visit, "The person did not allow it.").await,
        Some("allow") if visit.is_of_this_step(&form) => {
            match consent_flow::allow(&ctx, &visit.situation, &visit.browser, ctx.now()).await {
                Ok(()) => onward(&ctx, &mut visit).await,
                Err(error) => error_page(&error, ctx.config.issuer.is_https()),
            }
        }
        _ => back_to(&ctx, &visit),
    }
}

pub async fn cancel(
    request: HttpRequest,
    ctx: web::Data<Context>,
    id: web::Path<String>,
    PageForm(form): PageForm,
) -> HttpResponse {
    match posted(&request, &ctx, id.into_inner(), &form).await {
        Ok(visit) => cancelled(&ctx, &visit, "The person cancelled the sign-in.").await,
        Err(response) => response,
    }
}

async fn cancelled(ctx: &Context, visit: &Visit, why: &'static str) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    match refuse(ctx, &visit.situation, &OAuthError::access_denied(why)).await {
        Ok(Some(arrival)) => with_browser_cookie(send_off(ctx, visit, &arrival), &visit.browser, https),
        Ok(None) => flow_gone(https),
        Err(error) => error_page(&error, https),
    }
}
