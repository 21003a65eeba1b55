//! `/register`, where the operator lets people make their own accounts.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::domain::link::LinkKind;
use crate::flow::Context;
use crate::flow::registration::{self, Asking, Confirming, Opened, Pending};
use crate::flow::session::Browser;
use crate::protocol::error::OAuthError;

use super::answer::{PageOptions, error_page, forged, not_found, page, see_other};
use super::authorize::with_browser_cookie;
use super::links;
use super::mail_pages::{MessagePage, RegisterConfirmPage, RegisterPage};
use super::request::{PageForm, browser, is_own_form};

const REGISTER: &str = "register";

fn options(https: bool, refused: bool) -> PageOptions<'static> {
    PageOptions { status: refused.then_some(StatusCode::UNPROCESSABLE_ENTITY), https, ..PageOptions::default() }
}

/// What a person typed, and what was wrong with it.
#[derive(Default)]
struct Typed<'a> {
    username: &'a str,
    email: &'a str,
    /// The field, and the sentence.
    error: Option<(&'static str, &'a str)>,
}

fn show(ctx: &Context, browser: &Browser, typed: &Typed<'_>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let Typed { username, email, error } = *typed;
    let least = ctx.config.password.min_length;
    let wrong = error.map(|(field, _)| field).unwrap_or_default();
    let body =
        RegisterPage { csrf: &browser.csrf(REGISTER), username, email, least, wrong, error: error.map(|(_, why)| why) };
    with_browser_cookie(page(&body, &options(https, error.is_some())), browser, https)
}

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    if !ctx.config.registration.enabled {
        return not_found().await;
    }
    match browser(&request, &ctx) {
        Ok(browser) => show(&ctx, &browser, &Typed::default()),
        Err(error) => error_page(&error, ctx.config.issuer.is_https()),
    }
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    if !ctx.config.registration.enabled {
        return not_found().await;
    }
    let outcome = async {
        let browser = browser(&request, &ctx)?;
        if !is_own_form(&request, &ctx, &browser, &form, REGISTER) {
            return Ok(forged(https));
        }
        let field = |name| form.get(name).unwrap_or_default();
        let (username, email, now) = (field("username"), field("email"), ctx.now());
        let again = |field, why: &str| show(&ctx, &browser, &Typed { username, email, error: Some((field, why)) });
        Ok(match registration::ask(&ctx, username, email, field("password").into(), &browser, now).await? {
            Asking::Sent => see_other("/register/sent", https),
            Asking::Username(why) => again("username", why),
            Asking::Email(why) => again("email", &why),
            Asking::Password(why) => again("password", &why.to_string()),
            Asking::Wait(until) => links::wait(until, now, https),
        })
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

/// The same whatever was typed.
pub async fn sent(ctx: web::Data<Context>) -> HttpResponse {
    let body = MessagePage {
        id: "register-sent-page",
        title: "Look at your mail",
        lead: "A message is on its way to the address that you gave. Open its link to go on.",
        more: Some("It comes within a few minutes; the link works for 24 hours. Look among the unwanted mail too."),
        link: Some(("/", "Back to sign-in")),
    };
    page(&body, &options(ctx.config.issuer.is_https(), false))
}

fn show_confirm(
    ctx: &Context,
    browser: &Browser,
    secret: &str,
    pending: &Pending,
    error: Option<&str>,
) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let body = RegisterConfirmPage {
        csrf: &browser.csrf(&links::purpose(LinkKind::Register, secret)),
        account_name: pending.username(),
        email: pending.email(),
        ask_password: !pending.is_own,
        error,
    };
    with_browser_cookie(page(&body, &options(https, error.is_some())), browser, https)
}

/// A link's account, or the answer where there is none.
async fn pending(ctx: &Context, secret: &str, browser: &Browser) -> Result<Result<Pending, HttpResponse>, OAuthError> {
    let (https, now) = (ctx.config.issuer.is_https(), ctx.now());
    Ok(match registration::open(ctx, secret, browser, now).await? {
        Opened::Open(pending) if ctx.config.registration.enabled => Ok(*pending),
        Opened::Open(_) | Opened::Gone => Err(links::forget(links::gone(LinkKind::Register, https), https)),
        Opened::Wait(until) => Err(links::wait(until, now, https)),
    })
}

pub async fn open(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    let secret = match links::brought(&request, &ctx, LinkKind::Register) {
        Ok(secret) => secret,
        Err(response) => return *response,
    };
    let outcome = async {
        let browser = browser(&request, &ctx)?;
        Ok(match pending(&ctx, &secret, &browser).await? {
            Ok(pending) => show_confirm(&ctx, &browser, &secret, &pending, None),
            Err(response) => response,
        })
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, ctx.config.issuer.is_https()))
}

pub async fn confirm(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let secret = match links::posted(&request, &ctx, LinkKind::Register) {
        Ok(secret) => secret,
        Err(response) => return *response,
    };
    let outcome = async {
        let browser = browser(&request, &ctx)?;
        if !is_own_form(&request, &ctx, &browser, &form, &links::purpose(LinkKind::Register, &secret)) {
            return Ok(forged(https));
        }
        let waiting = match pending(&ctx, &secret, &browser).await? {
            Ok(waiting) => waiting,
            Err(response) => return Ok(response),
        };
        let now = ctx.now();
        Ok(match registration::confirm(&ctx, waiting, form.get("password"), &browser, now).await? {
            Confirming::Done => links::forget(see_other("/register/done", https), https),
            Confirming::WrongPassword => match pending(&ctx, &secret, &browser).await? {
                Ok(waiting) => show_confirm(
                    &ctx,
                    &browser,
                    &secret,
                    &waiting,
                    Some("That is not the password you chose. Please try again."),
                ),
                Err(response) => response,
            },
            Confirming::Taken => links::forget(see_other("/register/taken", https), https),
            Confirming::Gone => links::forget(links::gone(LinkKind::Register, https), https),
            Confirming::Wait(until) => links::wait(until, now, https),
        })
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

pub async fn done(ctx: web::Data<Context>) -> HttpResponse {
    let body = MessagePage {
        id: "registered-page",
        title: "Your account is ready",
        lead: "Your address is confirmed. Sign in with the name and password that you chose.",
        more: Some("If you came from an app, you can also go back to it and sign in there."),
        link: Some(("/", "Sign in")),
    };
    page(&body, &options(ctx.config.issuer.is_https(), false))
}

pub async fn taken(ctx: web::Data<Context>) -> HttpResponse {
    let body = MessagePage {
        id: "register-taken-page",
        title: "Somebody was faster",
        lead: "The name or the address was taken while your message waited. Please start again with another name.",
        more: None,
        link: Some(("/register", "Start again")),
    };
    page(&body, &options(ctx.config.issuer.is_https(), true))
}
