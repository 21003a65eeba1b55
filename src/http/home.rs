//! The signed-in home, and signing out there.

use actix_web::http::header::HOST;
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret as _;

use crate::domain::flow::Destination;
use crate::domain::session::SignedIn;
use crate::flow::Context;
use crate::flow::assurance::sufficient;
use crate::flow::authorize::start_flow;
use crate::flow::logout::{LogoutRequest, end};
use crate::flow::session::{Browser, current};
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;

use super::answer::{PageOptions, error_page, forged, page, see_other};
use super::authorize::with_browser_cookie;
use super::logout::bid_farewell;
use super::pages::{HomePage, Link};
use super::request::{PageForm, browser, is_own_form, sent_from};

/// The address of a form, opened like a page.
pub async fn back(ctx: web::Data<Context>) -> HttpResponse {
    see_other("/", ctx.config.issuer.is_https())
}

/// What the form token of signing out is bound to: the session shown. Who was shown one person's page signs out no other.
pub fn sign_out_purpose(signed_in: &SignedIn) -> String {
    format!("sign-out\n{}", signed_in.session.id)
}

/// Whether a form may sign this browser out. Where nobody is signed in any more there is nothing to protect.
pub async fn may_sign_out(
    request: &HttpRequest,
    ctx: &Context,
    browser: &Browser,
    form: &Params,
) -> Result<bool, OAuthError> {
    Ok(match current(ctx, browser, ctx.now()).await? {
        Some(signed_in) => is_own_form(request, ctx, browser, form, &sign_out_purpose(&signed_in)),
        None => sent_from(request, &ctx.config.issuer.url().origin().ascii_serialization()),
    })
}

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    answer(&request, &ctx).await.unwrap_or_else(|error| error_page(&error, ctx.config.issuer.is_https()))
}

async fn answer(request: &HttpRequest, ctx: &Context) -> Result<HttpResponse, OAuthError> {
    let https = ctx.config.issuer.is_https();
    // http://127.0.0.1 is not http://localhost to a browser: it would keep two sets of cookies.
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if ctx.config.development && host.is_some_and(|host| host != ctx.config.issuer.url().authority()) {
        return Ok(see_other(&ctx.config.issuer.at("/"), https));
    }
    let browser = browser(request, ctx)?;
    let now = ctx.now();
    let Some(signed_in) = sufficient(ctx, &browser, now).await? else {
        let flow = start_flow(ctx, Destination::Home, &browser, now).await?;
        let response = see_other(&format!("/flow/{}", flow.expose_secret()), https);
        return Ok(with_browser_cookie(response, &browser, https));
    };
    let link = |href: &str, label: &str| Link { href: href.to_owned(), label: label.to_owned() };
    let demo = ctx.config.development.then(|| link("/demo", "Try the demo app"));
    let body = HomePage {
        csrf: &browser.csrf(&sign_out_purpose(&signed_in)),
        account_name: &signed_in.user.label(),
        account_email: signed_in.user.email.as_deref(),
        is_admin: signed_in.user.is_admin,
        links: [link("/account", "Look after your account")].into_iter().chain(demo).collect(),
    };
    Ok(with_browser_cookie(page(&body, &PageOptions { https, ..PageOptions::default() }), &browser, https))
}

pub async fn sign_out(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let outcome = async {
        let browser = browser(&request, &ctx)?;
        if !may_sign_out(&request, &ctx, &browser, &form).await? {
            return Ok(forged(https));
        }
        Ok(bid_farewell(&ctx, end(&ctx, &LogoutRequest::default(), &browser, ctx.now()).await?, &browser))
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}
