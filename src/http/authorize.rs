//! `GET` and `POST /authorize`, RFC 6749 section 3.1.

use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret as _;

use crate::flow::Context;
use crate::flow::authorize::{AuthorizeError, Outcome, begin};
use crate::flow::session::Browser;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;
use crate::protocol::response_mode::{AuthorizationResponse, ResponseMode};

use super::answer::{PageOptions, error_page, page, see_other, with_cookies};
use super::pages::FormPostPage;
use super::request::{BrowserForm, CookieNames, again_with_cookies, browser};

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match Params::parse(request.query_string().as_bytes()) {
        Ok(params) => answer(&request, &ctx, &params).await,
        Err(error) => error_page(&error, ctx.config.issuer.is_https()),
    }
}

/// The same parameters in a form body (OpenID Connect Core section 3.1.2.1). Sent from another site, it comes without our
/// session cookie (`SameSite`); so it goes on as a GET of our own, which brings it.
pub async fn post(request: HttpRequest, ctx: web::Data<Context>, BrowserForm(params): BrowserForm) -> HttpResponse {
    match again_with_cookies(&request, &ctx, &params) {
        Some(location) => see_other(&location, ctx.config.issuer.is_https()),
        None => answer(&request, &ctx, &params).await,
    }
}

async fn answer(request: &HttpRequest, ctx: &Context, params: &Params) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let outcome = async {
        let browser = browser(request, ctx).map_err(AuthorizeError::Page)?;
        Ok((begin(ctx, params, &browser, ctx.now()).await?, browser))
    };
    match outcome.await {
        Ok((Outcome::Respond(response), _)) => respond(&response, https),
        Ok((Outcome::Interact(flow), browser)) => {
            with_browser_cookie(see_other(&format!("/flow/{}", flow.expose_secret()), https), &browser, https)
        }
        Err(AuthorizeError::Page(error)) => {
            if let Some(client) = params.get("client_id").and_then(|id| ctx.registry.load().client(id).cloned()) {
                tracing::info!(client.id = %client.id, error = error.code.as_str(), "an authorization request was refused: {}", error.description.escape_debug());
            }
            error_page(&error, https)
        }
        Err(AuthorizeError::Redirect(response, error)) => refuse(&response, &error, https),
    }
}

/// A failure of the machinery is told to the person here: their client could not do anything with it but show it.
fn refuse(response: &AuthorizationResponse, error: &OAuthError, https: bool) -> HttpResponse {
    if error.code.status() >= 500 {
        return error_page(error, https);
    }
    tracing::debug!(error = error.code.as_str(), "{}", error.description);
    respond(response, https)
}

/// Sends an authorization response on its way.
pub fn respond(response: &AuthorizationResponse, https: bool) -> HttpResponse {
    let names = CookieNames::new(https);
    let kept = response.browser_state.as_ref();
    let state = kept.map(|state| names.set_readable(names.state, &state.value, state.max_age));
    if response.mode != ResponseMode::FormPost {
        return with_cookies(see_other(&response.location(), https), state);
    }
    let body = FormPostPage {
        action: &response.redirect_uri,
        client_name: "the app",
        fields: response.parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
    };
    let options =
        PageOptions { form_target: Some(&response.redirect_uri), script: true, https, ..PageOptions::default() };
    with_cookies(page(&body, &options), state)
}

/// Tells a browser its secret when it was made just now.
pub fn with_browser_cookie(response: HttpResponse, browser: &Browser, https: bool) -> HttpResponse {
    let names = CookieNames::new(https);
    let line = browser.is_new.then(|| names.set(names.browser, browser.secret.expose_secret(), None));
    with_cookies(response, line)
}
