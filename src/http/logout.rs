//! `GET` and `POST /logout`, the end-session endpoint of OpenID Connect RP-Initiated Logout 1.0, and the page after it.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret as _;

use crate::flow::Context;
use crate::flow::logout::{self, Application, Farewell, Outcome, parse, sign_out};
use crate::flow::session::Browser;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;
use crate::store::Delivery;

use super::answer::{PageOptions, error_page, forged, page, see_other, with_cookies};
use super::authorize::with_browser_cookie;
use super::home::{may_sign_out, sign_out_purpose};
use super::pages::{ErrorPage, Link, LogoutApplication, LogoutDonePage, LogoutPage};
use super::request::{BrowserForm, PageForm, again_with_cookies, browser, no_session_cookies};

/// The parameters that the confirmation carries along; they are checked anew when it comes back.
const CARRIED: [&str; 5] = ["id_token_hint", "client_id", "post_logout_redirect_uri", "state", "logout_hint"];

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match Params::parse(request.query_string().as_bytes()) {
        Ok(params) => answer(&request, &ctx, &params, false).await,
        Err(error) => error_page(&error, ctx.config.issuer.is_https()),
    }
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, BrowserForm(params): BrowserForm) -> HttpResponse {
    match again_with_cookies(&request, &ctx, &params) {
        Some(location) => see_other(&location, ctx.config.issuer.is_https()),
        None => answer(&request, &ctx, &params, false).await,
    }
}

/// The person's word, from our own page.
pub async fn confirm(request: HttpRequest, ctx: web::Data<Context>, PageForm(params): PageForm) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let own = async { may_sign_out(&request, &ctx, &browser(&request, &ctx)?, &params).await };
    match own.await {
        Ok(false) => forged(https),
        Ok(true) if params.get("decision") != Some("logout") => see_other("/", https),
        Ok(true) => answer(&request, &ctx, &params, true).await,
        Err(error) => error_page(&error, https),
    }
}

async fn answer(request: &HttpRequest, ctx: &Context, params: &Params, confirmed: bool) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let outcome = async {
        let checked = parse(ctx, params)?;
        let browser = browser(request, ctx)?;
        Ok(match sign_out(ctx, &checked, &browser, confirmed, ctx.now()).await? {
            Outcome::SignedOut(farewell) => bid_farewell(ctx, farewell, &browser),
            Outcome::Confirm { signed_in, other_account } => {
                let carried =
                    CARRIED.iter().filter_map(|name| Some(((*name).to_owned(), params.get(name)?.to_owned())));
                let body = LogoutPage {
                    action: "/logout/confirm",
                    csrf: &browser.csrf(&sign_out_purpose(&signed_in)),
                    account_name: &signed_in.user.label(),
                    client_name: checked.client.as_ref().map(|client| client.name()),
                    other_account,
                    fields: carried.collect(),
                };
                let options = PageOptions { form_target: checked.back.as_deref(), https, ..PageOptions::default() };
                with_browser_cookie(page(&body, &options), &browser, https)
            }
        })
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

/// Sends a browser on that has been signed out; it drops its session cookie.
pub fn bid_farewell(ctx: &Context, farewell: Farewell, browser: &Browser) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let response = match farewell {
        Farewell::Page(id) => {
            with_browser_cookie(see_other(&format!("/signed-out/{}", id.expose_secret()), https), browser, https)
        }
        Farewell::Back(location) => see_other(&location, https),
        Farewell::Done => {
            let body = LogoutDonePage { back: None, applications: Vec::new(), frames: &[], again: None };
            page(&body, &PageOptions { https, ..PageOptions::default() })
        }
    };
    with_cookies(response, no_session_cookies(ctx))
}

/// What became of a sign-out: at which applications, and which of them could not be told yet.
pub async fn signed_out(request: HttpRequest, ctx: web::Data<Context>, id: web::Path<String>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let found = async { logout::signed_out(&ctx, &id, &browser(&request, &ctx)?, ctx.now()).await };
    let found = match found.await {
        Ok(Some(found)) => found,
        Ok(None) => return gone(https),
        Err(error) => return error_page(&error, https),
    };
    let frames: Vec<String> = found.applications.iter().filter_map(|application| application.frame.clone()).collect();
    let waiting = found
        .applications
        .iter()
        .any(|application| matches!(application.delivery, Some(Delivery::Queued | Delivery::Failing)));
    let back = found.back.map(|(href, name)| Link { href, label: format!("Go back to {name}") });
    let body = LogoutDonePage {
        again: waiting.then(|| format!("/signed-out/{id}")),
        applications: found.applications.into_iter().map(in_words).collect(),
        frames: &frames,
        back,
    };
    let script = body.back.is_some() && !frames.is_empty();
    page(&body, &PageOptions { https, script, frames: &frames, ..PageOptions::default() })
}

fn in_words(application: Application) -> LogoutApplication {
    let state = match (application.delivery, application.frame) {
        (Some(Delivery::Done), _) => "Signed out there too.",
        (_, Some(_)) => "Asked to sign you out, through this page.",
        (Some(Delivery::Queued), None) => "Being told right now.",
        (Some(Delivery::Failing), None) => "Could not be told yet. We keep trying.",
        (Some(Delivery::GivenUp), None) => "Could not be told. Please sign out there yourself.",
        (None, None) => "Cannot be told. Please sign out there yourself, or close it.",
    };
    LogoutApplication { name: application.name, state }
}

fn gone(https: bool) -> HttpResponse {
    let body = ErrorPage {
        title: "This page is no longer there",
        what: "It told of a sign-out in this browser half an hour ago or earlier, or of one in another browser.",
        why: None,
        next: "Your account shows whether you are signed in.",
        code: None,
        link: Some(Link { href: "/".to_owned(), label: "Go to your account".to_owned() }),
    };
    page(&body, &PageOptions { status: Some(StatusCode::NOT_FOUND), https, ..PageOptions::default() })
}
