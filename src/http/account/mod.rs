//! The account, at `/account`: what people see and do themselves. Every page is for the person signed in and never for one
//! named by the request; every form is bound to their session; every change answers 303.

mod activity;
mod applications;
mod data;
mod delete;
mod email;
mod pages;
mod password;
mod profile;
mod sessions;

use actix_web::http::StatusCode;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use secrecy::ExposeSecret as _;

use crate::clock::UnixTime;
use crate::config::MfaRequired;
use crate::domain::flow::Destination;
use crate::domain::session::SignedIn;
use crate::domain::zone::Zone;
use crate::flow::Context;
use crate::flow::assurance::sufficient;
use crate::flow::authorize::start_flow;
use crate::flow::session::Browser;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;

use super::answer::{PageOptions, error_page, forged, method_not_allowed, page, see_other};
use super::authorize::with_browser_cookie;
use super::home::sign_out_purpose;
use super::recent::recent;
use super::request::{browser, is_own_form};
use pages::{AccountPage, Moment};

/// The pages of the account, each under one address for GET and POST.
pub fn routes(config: &mut ServiceConfig) {
    let get_only = || web::to(|| async { method_not_allowed("GET") });
    let get_and_post = || web::to(|| async { method_not_allowed("GET, POST") });
    config
        .service(web::resource("/account").route(web::get().to(get)).default_service(get_only()))
        .service(
            web::resource(profile::PATH)
                .route(web::get().to(profile::get))
                .route(web::post().to(profile::post))
                .default_service(get_and_post()),
        )
        .service(
            web::resource(password::PATH)
                .route(web::get().to(password::get))
                .route(web::post().to(password::post))
                .default_service(get_and_post()),
        )
        .service(
            web::resource(sessions::PATH)
                .route(web::get().to(sessions::get))
                .route(web::post().to(sessions::post))
                .default_service(get_and_post()),
        )
        .service(
            web::resource(applications::PATH)
                .route(web::get().to(applications::get))
                .route(web::post().to(applications::post))
                .default_service(get_and_post()),
        )
        .service(web::resource(activity::PATH).route(web::get().to(activity::get)).default_service(get_only()))
        .service(
            web::resource(data::PATH)
                .route(web::get().to(data::get))
                .route(web::post().to(data::post))
                .default_service(get_and_post()),
        )
        .service(
            web::resource(email::PATH)
                .route(web::get().to(email::get))
                .route(web::post().to(email::post))
                .default_service(get_and_post()),
        )
        .service(
            web::resource(delete::CONFIRM)
                .route(web::get().to(delete::open))
                .route(web::post().to(delete::confirm))
                .default_service(get_and_post()),
        )
        .service(
            web::resource(delete::PATH)
                .route(web::get().to(delete::get))
                .route(web::post().to(delete::post))
                .default_service(get_and_post()),
        );
}

/// Somebody signed in who came to a page of their account.
struct Visit {
    browser: Browser,
    signed_in: SignedIn,
}

impl Visit {
    /// The token of the forms of one page, good in this session alone.
    fn csrf(&self, path: &str) -> String {
        self.browser.csrf(&self.purpose(path))
    }

    fn purpose(&self, path: &str) -> String {
        format!("{path}\n{}", self.signed_in.session.id)
    }

    /// Whether a form comes from our own page in this session.
    fn is_own_form(&self, request: &HttpRequest, ctx: &Context, path: &str, form: &Params) -> bool {
        is_own_form(request, ctx, &self.browser, form, &self.purpose(path))
    }

    fn zone(&self) -> Zone {
        Zone::of(&self.signed_in.user)
    }
}

/// Whoever is signed in; anybody else is sent to sign in, and back to the page.
async fn visit(request: &HttpRequest, ctx: &Context, path: &'static str) -> Result<Visit, HttpResponse> {
    let https = ctx.config.issuer.is_https();
    let failed = |error: OAuthError| error_page(&error, https);
    let (browser, now) = (browser(request, ctx).map_err(failed)?, ctx.now());
    if let Some(signed_in) = sufficient(ctx, &browser, now).await.map_err(|error| failed(error.into()))? {
        return Ok(Visit { browser, signed_in });
    }
    let flow = start_flow(ctx, Destination::Account { page: path.to_owned() }, &browser, now).await.map_err(failed)?;
    let to_flow = see_other(&format!("/flow/{}", flow.expose_secret()), https);
    Err(with_browser_cookie(to_flow, &browser, https))
}

/// Whoever has just proven who they are, with all that they have to prove it with; anybody else is sent to do so first.
async fn recent_visit(request: &HttpRequest, ctx: &Context, path: &'static str) -> Result<Visit, HttpResponse> {
    recent(request, ctx, path).await.map(|(browser, signed_in)| Visit { browser, signed_in })
}

/// The same two for the form of a page, which must come from that page in this session.
async fn visit_by_form(
    request: &HttpRequest,
    ctx: &Context,
    path: &'static str,
    form: &Params,
) -> Result<Visit, HttpResponse> {
    let visit = visit(request, ctx, path).await?;
    let own = visit.is_own_form(request, ctx, path, form);
    if own { Ok(visit) } else { Err(forged(ctx.config.issuer.is_https())) }
}

async fn recent_visit_by_form(
    request: &HttpRequest,
    ctx: &Context,
    path: &'static str,
    form: &Params,
) -> Result<Visit, HttpResponse> {
    let visit = recent_visit(request, ctx, path).await?;
    let own = visit.is_own_form(request, ctx, path, form);
    if own { Ok(visit) } else { Err(forged(ctx.config.issuer.is_https())) }
}

/// A page of the account.
fn show(ctx: &Context, visit: &Visit, body: &impl Template, status: Option<StatusCode>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    with_browser_cookie(page(body, &PageOptions { status, https, ..PageOptions::default() }), &visit.browser, https)
}

fn failed(ctx: &Context) -> impl Fn(OAuthError) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    move |error| error_page(&error, https)
}

/// Back to a page after a change, which it tells of by this word.
fn done(ctx: &Context, path: &str, word: &str) -> HttpResponse {
    see_other(&format!("{path}?{word}"), ctx.config.issuer.is_https())
}

/// What a page tells of a change just made: one of its own sentences, chosen by a word in the address.
fn notice(request: &HttpRequest, sentences: &[(&str, &'static str)]) -> Option<&'static str> {
    sentences.iter().find(|(word, _)| *word == request.query_string()).map(|(_, sentence)| *sentence)
}

fn moment(zone: &Zone, at: UnixTime) -> Moment {
    Moment { iso: at.to_string(), words: zone.words(at) }
}

async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    let visit = match visit(&request, &ctx, "/account").await {
        Ok(visit) => visit,
        Err(response) => return response,
    };
    let user = &visit.signed_in.user;
    let body = AccountPage {
        csrf: &visit.browser.csrf(&sign_out_purpose(&visit.signed_in)),
        notice: notice(&request, &[("password-changed", "Your password is changed.")]),
        account_name: &user.label(),
        account_email: user.email.as_deref(),
        is_admin: user.is_admin,
        second_step: ctx.config.mfa.required != MfaRequired::Never,
    };
    show(&ctx, &visit, &body, None)
}
