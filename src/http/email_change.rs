//! `/account/email/confirm`: a new address comes into force in a session of the person whose it is.

use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret as _;

use crate::domain::link::LinkKind;
use crate::domain::session::SignedIn;
use crate::flow::Context;
use crate::flow::assurance::sufficient;
use crate::flow::authorize::start_flow;
use crate::flow::email_change::{self, Opened, Pending};
use crate::flow::session::Browser;
use crate::protocol::error::OAuthError;

use super::answer::{PageOptions, error_page, forged, page, see_other};
use super::authorize::with_browser_cookie;
use super::links;
use super::mail_pages::{EmailConfirmPage, MessagePage};
use super::pages::{ErrorPage, Link};
use super::request::{PageForm, browser, is_own_form};

/// A form is answered for the person to whom its page was shown.
fn purpose(signed_in: &SignedIn, secret: &str) -> String {
    format!("{}\n{}", links::purpose(LinkKind::ConfirmEmail, secret), signed_in.session.id)
}

pub fn other_account(https: bool) -> HttpResponse {
    let body = ErrorPage {
        title: "This link is for another account",
        what: "You are signed in to another account than the one that it was asked for.",
        why: None,
        next: "Sign out, sign in to the account that asked, and open the link again.",
        code: None,
        link: Some(Link { href: "/".to_owned(), label: "Go to your account".to_owned() }),
    };
    let status = Some(actix_web::http::StatusCode::FORBIDDEN);
    page(&body, &PageOptions { status, https, ..PageOptions::default() })
}

/// The person and the address, or the answer where one of them is missing.
async fn pending(
    ctx: &Context,
    secret: &str,
    browser: &Browser,
) -> Result<Result<(SignedIn, Pending), HttpResponse>, OAuthError> {
    let (https, now) = (ctx.config.issuer.is_https(), ctx.now());
    let Some(signed_in) = sufficient(ctx, browser, now).await? else {
        // The sign-in comes back to this page; the link waits in its cookie.
        let to = crate::domain::flow::Destination::Account { page: LinkKind::ConfirmEmail.path().to_owned() };
        let flow = start_flow(ctx, to, browser, now).await?;
        let response = see_other(&format!("/flow/{}", flow.expose_secret()), https);
        return Ok(Err(with_browser_cookie(response, browser, https)));
    };
    Ok(match email_change::open(ctx, &signed_in, secret, browser, now).await? {
        Opened::Open(pending) => Ok((signed_in, *pending)),
        Opened::OtherAccount => Err(other_account(https)),
        Opened::Gone => Err(links::forget(links::gone(LinkKind::ConfirmEmail, https), https)),
        Opened::Wait(until) => Err(links::wait(until, now, https)),
    })
}

pub async fn open(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let secret = match links::brought(&request, &ctx, LinkKind::ConfirmEmail) {
        Ok(secret) => secret,
        Err(response) => return *response,
    };
    let outcome = async {
        let browser = browser(&request, &ctx)?;
        Ok(match pending(&ctx, &secret, &browser).await? {
            Ok((signed_in, waiting)) => {
                let csrf = browser.csrf(&purpose(&signed_in, &secret));
                let account_name = &signed_in.user.label();
                let body = EmailConfirmPage { csrf: &csrf, account_name, email: waiting.email() };
                page(&body, &PageOptions { https, ..PageOptions::default() })
            }
            Err(response) => response,
        })
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

pub async fn confirm(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let secret = match links::posted(&request, &ctx, LinkKind::ConfirmEmail) {
        Ok(secret) => secret,
        Err(response) => return *response,
    };
    let outcome = async {
        let browser = browser(&request, &ctx)?;
        let (signed_in, waiting) = match pending(&ctx, &secret, &browser).await? {
            Ok(found) => found,
            Err(response) => return Ok(response),
        };
        if !is_own_form(&request, &ctx, &browser, &form, &purpose(&signed_in, &secret)) {
            return Ok(forged(https));
        }
        let done = email_change::confirm(&ctx, &signed_in, waiting, &browser, ctx.now()).await?;
        let next = if done {
            see_other("/account/email/confirmed", https)
        } else {
            links::gone(LinkKind::ConfirmEmail, https)
        };
        Ok(links::forget(next, https))
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

pub async fn done(ctx: web::Data<Context>) -> HttpResponse {
    let body = MessagePage {
        id: "email-confirmed-page",
        title: "Your address is changed",
        lead: "The new address is confirmed and in force. A note went to the one before.",
        more: None,
        link: Some(("/", "Go to your account")),
    };
    page(&body, &PageOptions { https: ctx.config.issuer.is_https(), ..PageOptions::default() })
}
