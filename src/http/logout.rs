//! `GET` and `POST /logout`, the end-session endpoint of OpenID Connect RP-Initiated Logout 1.0.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::Context;
use crate::flow::logout::{LogoutRequest, Outcome, parse, sign_out};
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;

use super::answer::{PageOptions, error_page, forged, page, see_other, with_cookies};
use super::authorize::with_browser_cookie;
use super::home::{SIGN_OUT, signed_out};
use super::pages::LogoutPage;
use super::request::{CookieNames, PageForm, again_with_cookies, browser, is_own_form};

/// The parameters that the confirmation carries along; they are checked anew when it comes back.
const CARRIED: [&str; 4] = ["id_token_hint", "client_id", "post_logout_redirect_uri", "state"];

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match Params::parse(request.query_string().as_bytes()) {
        Ok(params) => answer(&request, &ctx, &params, false).await,
        Err(error) => error_page(&error, ctx.config.issuer.is_https()),
    }
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(params): PageForm) -> HttpResponse {
    match again_with_cookies(&request, &ctx, &params) {
        Some(location) => see_other(&location, ctx.config.issuer.is_https()),
        None => answer(&request, &ctx, &params, false).await,
    }
}

/// The person's word, from our own page.
pub async fn confirm(request: HttpRequest, ctx: web::Data<Context>, PageForm(params): PageForm) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    match browser(&request, &ctx) {
        Ok(browser) if !is_own_form(&request, &ctx, &browser, &params, SIGN_OUT) => forged(https),
        Ok(_) if params.get("decision") != Some("logout") => see_other("/", https),
        Ok(_) => answer(&request, &ctx, &params, true).await,
        Err(error) => error_page(&error, https),
    }
}

async fn answer(request: &HttpRequest, ctx: &Context, params: &Params, confirmed: bool) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let outcome = async {
        let now = ctx.now();
        let checked = parse(ctx, params)?;
        let browser = browser(request, ctx)?;
        Ok(match sign_out(ctx, &checked, &browser, confirmed, now).await? {
            Outcome::SignedOut => done(&checked, https),
            Outcome::Confirm(signed_in) => {
                let carried =
                    CARRIED.iter().filter_map(|name| Some(((*name).to_owned(), params.get(name)?.to_owned())));
                let body = LogoutPage {
                    action: "/logout/confirm",
                    csrf: &browser.csrf(SIGN_OUT),
                    account_name: &signed_in.user.label(),
                    client_name: checked.client.as_ref().map(|client| client.name()),
                    fields: carried.collect(),
                };
                let form_target = checked.back.as_ref().map(|back| back.location.as_str());
                let options = PageOptions { form_target, https, ..PageOptions::default() };
                with_browser_cookie(page(&body, &options), &browser, https)
            }
        })
    };
    outcome.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

fn done(request: &LogoutRequest, https: bool) -> HttpResponse {
    let names = CookieNames::new(https);
    match &request.back {
        Some(back) => with_cookies(see_other(&back.location, https), [names.clear(names.session)]),
        None => signed_out(https),
    }
}
