//! The signed-in home, and signing out there.

use actix_web::http::header::HOST;
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret as _;

use crate::domain::flow::Destination;
use crate::flow::Context;
use crate::flow::authorize::start_flow;
use crate::flow::session::{current, end};
use crate::protocol::error::OAuthError;

use super::answer::{PageOptions, error_page, forged, page, see_other, with_cookies};
use super::authorize::with_browser_cookie;
use super::pages::{HomePage, Link, LogoutDonePage};
use super::request::{CookieNames, PageForm, browser, is_own_form};

/// The address of a form, opened like a page.
pub async fn back(ctx: web::Data<Context>) -> HttpResponse {
    see_other("/", ctx.config.issuer.is_https())
}

/// What the form token of signing out is bound to.
pub const SIGN_OUT: &str = "sign-out";

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
    let Some(signed_in) = current(ctx, &browser, now).await? else {
        let flow = start_flow(ctx, Destination::Home, &browser, now).await?;
        let response = see_other(&format!("/flow/{}", flow.expose_secret()), https);
        return Ok(with_browser_cookie(response, &browser, https));
    };
    let link = |href: &str, label: &str| Link { href: href.to_owned(), label: label.to_owned() };
    let demo = ctx.config.development.then(|| link("/demo", "Try the demo application"));
    let body = HomePage {
        csrf: &browser.csrf(SIGN_OUT),
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
        if !is_own_form(&request, &ctx, &browser, &form, SIGN_OUT) {
            return Ok(forged(https));
        }
        end(&ctx, &browser, ctx.now()).await?;
        Ok(signed_out(https))
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

/// The page after signing out where there is no way back; the browser drops its session cookie.
pub fn signed_out(https: bool) -> HttpResponse {
    let names = CookieNames::new(https);
    let response = page(&LogoutDonePage { link: None }, &PageOptions { https, ..PageOptions::default() });
    with_cookies(response, [names.clear(names.session)])
}
