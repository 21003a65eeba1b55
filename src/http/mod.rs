//! The edge: read a request, call one flow, write the answer. Only this module names actix.

mod account;
mod answer;
mod authorize;
mod check_session;
mod demo;
mod discovery;
mod email_change;
mod flow;
mod health;
mod home;
mod introspect;
mod links;
mod logout;
mod mail_pages;
mod observe;
mod pages;
mod recent;
mod recovery;
mod registration;
mod request;
mod revoke;
mod second_step;
mod security;
mod statics;
mod token;
mod userinfo;

use actix_web::Route;
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::web::{self, ServiceConfig};

use crate::flow::Context;

pub use demo::Demo;
pub use observe::{head_as_get, observe};

/// The answer to any other method than those listed.
macro_rules! refuse {
    ($allowed:literal) => {
        web::to(|| async { answer::method_not_allowed($allowed) })
    };
}

/// The preflight of an address that browser applications call by these methods.
fn called_by_browsers(methods: &'static str) -> Route {
    web::method(Method::OPTIONS)
        .to(move |request, ctx: web::Data<Context>| async move { request::preflight(&request, &ctx, methods) })
}

/// Every address that is served, and by whom. Another method than those listed is 405 with `Allow`; where GET is, HEAD is
/// too ([`head_as_get`]).
pub fn routes(config: &mut ServiceConfig) {
    let document = |path: &str| web::resource(path).route(web::method(Method::OPTIONS).to(discovery::preflight));
    config
        .service(document("/jwks").route(web::get().to(discovery::jwks)).default_service(refuse!("GET, OPTIONS")))
        .service(
            document("/.well-known/openid-configuration")
                .route(web::get().to(discovery::metadata))
                .default_service(refuse!("GET, OPTIONS")),
        )
        .service(
            document("/.well-known/oauth-authorization-server")
                .route(web::get().to(discovery::metadata))
                .default_service(refuse!("GET, OPTIONS")),
        )
        .service(
            web::resource("/token")
                .route(web::post().to(token::post))
                .route(called_by_browsers("POST"))
                .default_service(refuse!("POST, OPTIONS"))
                .wrap(from_fn(request::readable)),
        )
        .service(
            web::resource("/revoke")
                .route(web::post().to(revoke::post))
                .route(called_by_browsers("POST"))
                .default_service(refuse!("POST, OPTIONS"))
                .wrap(from_fn(request::readable)),
        )
        .service(web::resource("/introspect").route(web::post().to(introspect::post)).default_service(refuse!("POST")))
        .service(
            web::resource("/userinfo")
                .route(web::get().to(userinfo::get))
                .route(web::post().to(userinfo::post))
                .route(called_by_browsers("GET, POST"))
                .default_service(refuse!("GET, POST, OPTIONS"))
                .wrap(from_fn(request::readable)),
        )
        .service(
            web::resource("/authorize")
                .route(web::get().to(authorize::get))
                .route(web::post().to(authorize::post))
                .default_service(refuse!("GET, POST")),
        )
        .configure(sign_out_routes)
        .service(flow_scope())
        .configure(security_routes)
        .configure(account::routes)
        .service(web::resource("/").route(web::get().to(home::get)).default_service(refuse!("GET")))
        .configure(mail_routes)
        .service(web::resource("/static/{file}").route(web::get().to(statics::get)).default_service(refuse!("GET")))
        .service(web::resource("/favicon.ico").route(web::get().to(statics::favicon)).default_service(refuse!("GET")))
        .service(web::resource("/health/live").route(web::get().to(health::live)).default_service(refuse!("GET")))
        .service(web::resource("/health/ready").route(web::get().to(health::ready)).default_service(refuse!("GET")))
        .default_service(web::to(answer::not_found));
}

/// What the operator's own listener serves.
pub fn operator_routes(config: &mut ServiceConfig) {
    config
        .service(web::resource("/metrics").route(web::get().to(observe::metrics)).default_service(refuse!("GET")))
        .service(web::resource("/health/live").route(web::get().to(health::live)).default_service(refuse!("GET")))
        .service(web::resource("/health/ready").route(web::get().to(health::ready)).default_service(refuse!("GET")));
}

/// What goes by mail: a forgotten password, an account of one's own, a new address.
fn mail_routes(config: &mut ServiceConfig) {
    let shown = |path: &str| web::resource(path).default_service(refuse!("GET"));
    let form = |path: &str| web::resource(path).default_service(refuse!("GET, POST"));
    config
        .service(form("/password/forgot").route(web::get().to(recovery::forgot)).route(web::post().to(recovery::ask)))
        .service(shown("/password/forgot/sent").route(web::get().to(recovery::sent)))
        .service(form("/password/reset").route(web::get().to(recovery::open)).route(web::post().to(recovery::reset)))
        .service(shown("/password/reset/done").route(web::get().to(recovery::done)))
        .service(form("/register").route(web::get().to(registration::get)).route(web::post().to(registration::post)))
        .service(shown("/register/sent").route(web::get().to(registration::sent)))
        .service(
            form("/register/confirm")
                .route(web::get().to(registration::open))
                .route(web::post().to(registration::confirm)),
        )
        .service(shown("/register/done").route(web::get().to(registration::done)))
        .service(shown("/register/taken").route(web::get().to(registration::taken)))
        .service(
            form("/account/email/confirm")
                .route(web::get().to(email_change::open))
                .route(web::post().to(email_change::confirm)),
        )
        .service(shown("/account/email/confirmed").route(web::get().to(email_change::done)));
}

/// Signing out, and whether somebody is still signed in.
fn sign_out_routes(config: &mut ServiceConfig) {
    config
        .service(
            web::resource("/check-session").route(web::get().to(check_session::get)).default_service(refuse!("GET")),
        )
        .service(
            web::resource("/logout")
                .route(web::get().to(logout::get))
                .route(web::post().to(logout::post))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/logout/confirm")
                .route(web::post().to(logout::confirm))
                .route(web::get().to(home::back))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/signed-out/{id}").route(web::get().to(logout::signed_out)).default_service(refuse!("GET")),
        )
        .service(
            web::resource("/sign-out")
                .route(web::post().to(home::sign_out))
                .route(web::get().to(home::back))
                .default_service(refuse!("GET, POST")),
        );
}

/// The pages of a sign-in.
fn flow_scope() -> actix_web::Scope {
    web::scope("/flow/{id}")
        .service(web::resource("").route(web::get().to(flow::get)).default_service(refuse!("GET")))
        .service(
            web::resource("/sign-in")
                .route(web::post().to(flow::sign_in))
                .route(web::get().to(flow::back))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/code")
                .route(web::post().to(second_step::code))
                .route(web::get().to(flow::back))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/recovery")
                .route(web::post().to(second_step::recovery))
                .route(web::get().to(second_step::recovery_page))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/enrol")
                .route(web::post().to(second_step::enrol))
                .route(web::get().to(flow::back))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/account")
                .route(web::post().to(flow::account))
                .route(web::get().to(flow::back))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/consent")
                .route(web::post().to(flow::consent))
                .route(web::get().to(flow::back))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/cancel")
                .route(web::post().to(flow::cancel))
                .route(web::get().to(flow::back))
                .default_service(refuse!("GET, POST")),
        )
}

/// Second factors, in the account.
fn security_routes(config: &mut ServiceConfig) {
    config
        .service(web::resource("/account/security").route(web::get().to(security::get)).default_service(refuse!("GET")))
        .service(
            web::resource("/account/totp")
                .route(web::get().to(security::totp))
                .route(web::post().to(security::add_totp))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/account/totp/remove")
                .route(web::post().to(security::remove_totp))
                .route(web::get().to(security::back))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/account/recovery-codes")
                .route(web::post().to(security::new_recovery_codes))
                .route(web::get().to(security::back))
                .default_service(refuse!("GET, POST")),
        )
        .service(
            web::resource("/account/trusted-browsers/remove")
                .route(web::post().to(security::distrust))
                .route(web::get().to(security::back))
                .default_service(refuse!("GET, POST")),
        );
}

/// The demo relying party; development mode only.
pub fn demo_routes(config: &mut ServiceConfig) {
    let form = |path: &str| web::resource(path).route(web::get().to(demo::back));
    config
        .service(web::resource("/demo").route(web::get().to(demo::get)))
        .service(web::resource("/demo/sign-in").route(web::get().to(demo::sign_in)))
        .service(web::resource("/demo/callback").route(web::get().to(demo::callback)))
        .service(web::resource("/demo/tokens").route(web::get().to(demo::tokens)))
        .service(form("/demo/refresh").route(web::post().to(demo::refresh)))
        .service(form("/demo/userinfo").route(web::post().to(demo::userinfo)))
        .service(form("/demo/revoke").route(web::post().to(demo::revoke)))
        .service(form("/demo/sign-out").route(web::post().to(demo::sign_out)))
        .service(web::resource("/demo/signed-out").route(web::get().to(demo::signed_out)));
}
