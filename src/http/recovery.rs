//! `/password/forgot` and `/password/reset`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::domain::link::LinkKind;
use crate::flow::Context;
use crate::flow::recovery::{self, Opened, Reset};
use crate::flow::session::Browser;
use crate::protocol::error::OAuthError;

use super::answer::{PageOptions, error_page, forged, not_found, page, see_other};
use super::authorize::with_browser_cookie;
use super::links;
use super::mail_pages::{ForgotPage, MessagePage, ResetPage};
use super::request::{PageForm, browser, is_own_form};

const FORGOT: &str = "forgot";

pub async fn forgot(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    if ctx.config.mail.is_none() {
        return not_found().await;
    }
    match browser(&request, &ctx) {
        Ok(browser) => show_forgot(&ctx, &browser, "", None),
        Err(error) => error_page(&error, ctx.config.issuer.is_https()),
    }
}

fn show_forgot(ctx: &Context, browser: &Browser, typed: &str, error: Option<&str>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let body = ForgotPage { csrf: &browser.csrf(FORGOT), typed, error };
    with_browser_cookie(page(&body, &options(https, error.is_some())), browser, https)
}

/// A form that is shown again because of what was typed is 422.
fn options(https: bool, refused: bool) -> PageOptions<'static> {
    PageOptions { status: refused.then_some(StatusCode::UNPROCESSABLE_ENTITY), https, ..PageOptions::default() }
}

pub async fn ask(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    if ctx.config.mail.is_none() {
        return not_found().await;
    }
    let outcome = async {
        let browser = browser(&request, &ctx)?;
        if !is_own_form(&request, &ctx, &browser, &form, FORGOT) {
            return Ok(forged(https));
        }
        let typed = form.get("email").unwrap_or_default();
        if typed.trim().is_empty() {
            return Ok(show_forgot(&ctx, &browser, typed, Some("Enter your e-mail address or user name.")));
        }
        let now = ctx.now();
        Ok(match recovery::forgot(&ctx, typed, &browser, now).await? {
            Some(until) => links::wait(until, now, https),
            None => see_other("/password/forgot/sent", https),
        })
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

/// The same whatever was typed.
pub async fn sent(ctx: web::Data<Context>) -> HttpResponse {
    let body = MessagePage {
        id: "forgot-sent-page",
        title: "Look at your mail",
        lead: "If there is such an account and it has an e-mail address, a link to choose a new password is on its way there.",
        more: Some(
            "It comes within a few minutes; its link works for 15 minutes. Look among the unwanted mail too. An account gets three such mails at once, then one an hour.",
        ),
        link: Some(("/", "Back to sign-in")),
    };
    page(&body, &options(ctx.config.issuer.is_https(), false))
}

pub async fn open(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let secret = match links::brought(&request, &ctx, LinkKind::ResetPassword) {
        Ok(secret) => secret,
        Err(response) => return *response,
    };
    let outcome = async {
        let browser = browser(&request, &ctx)?;
        let now = ctx.now();
        Ok(match recovery::open(&ctx, &secret, &browser, now).await? {
            Opened::For(user) => show_reset(&ctx, &browser, &secret, &user.username, None),
            Opened::Gone => links::forget(links::gone(LinkKind::ResetPassword, https), https),
            Opened::Wait(until) => links::wait(until, now, https),
        })
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

fn show_reset(ctx: &Context, browser: &Browser, secret: &str, username: &str, error: Option<&str>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let least = ctx.config.password.min_length;
    let csrf = browser.csrf(&links::purpose(LinkKind::ResetPassword, secret));
    let body = ResetPage { csrf: &csrf, account_name: username, least, error };
    with_browser_cookie(page(&body, &options(https, error.is_some())), browser, https)
}

pub async fn reset(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let secret = match links::posted(&request, &ctx, LinkKind::ResetPassword) {
        Ok(secret) => secret,
        Err(response) => return *response,
    };
    let outcome = async {
        let browser = browser(&request, &ctx)?;
        if !is_own_form(&request, &ctx, &browser, &form, &links::purpose(LinkKind::ResetPassword, &secret)) {
            return Ok(forged(https));
        }
        let (now, new_password) = (ctx.now(), form.get("new_password").unwrap_or_default());
        Ok(match recovery::reset(&ctx, &secret, new_password.into(), &browser, now).await? {
            Reset::Done => links::forget(see_other("/password/reset/done", https), https),
            Reset::Refused { user, why } => show_reset(&ctx, &browser, &secret, &user.username, Some(&why.to_string())),
            Reset::Gone => links::forget(links::gone(LinkKind::ResetPassword, https), https),
            Reset::Wait(until) => links::wait(until, now, https),
        })
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

pub async fn done(ctx: web::Data<Context>) -> HttpResponse {
    let body = MessagePage {
        id: "reset-done-page",
        title: "Your password is changed",
        lead: "You are signed out everywhere. Sign in with the new password.",
        more: Some("If you came from an app, you can also go back to it and sign in there."),
        link: Some(("/", "Sign in")),
    };
    page(&body, &options(ctx.config.issuer.is_https(), false))
}
