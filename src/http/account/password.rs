//! A new password, for whoever has just proven the old one.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::Context;
use crate::flow::account::{PasswordChange, change_password};
use crate::protocol::params::Params;

use super::pages::PasswordPage;
use super::{Visit, done, failed, recent_visit, recent_visit_by_form, show};
use crate::http::answer::{see_other, with_cookies};
use crate::http::flow::KNOWN_FOR;
use crate::http::links;
use crate::http::request::{CookieNames, PageForm, session_cookies};

pub const PATH: &str = "/account/password";

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match recent_visit(&request, &ctx, PATH).await {
        Ok(visit) => form(&ctx, &visit, None, true),
        Err(response) => response,
    }
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(typed): PageForm) -> HttpResponse {
    change(&request, &ctx, &typed).await.unwrap_or_else(|response| response)
}

async fn change(request: &HttpRequest, ctx: &Context, typed: &Params) -> Result<HttpResponse, HttpResponse> {
    let https = ctx.config.issuer.is_https();
    let visit = recent_visit_by_form(request, ctx, PATH, typed).await?;
    let password = typed.get("password").unwrap_or_default();
    let end_others = typed.get("end_others") == Some("yes");
    if typed.get("again") != Some(password) {
        return Ok(form(
            ctx,
            &visit,
            Some("The two are not the same. Please type the new password twice."),
            end_others,
        ));
    }
    let now = ctx.now();
    let changed = change_password(ctx, &visit.signed_in, password.into(), end_others, &visit.browser, now);
    Ok(match changed.await.map_err(failed(ctx))? {
        PasswordChange::Changed(renewed) => {
            let names = CookieNames::new(https);
            let known = names.set(names.known, &renewed.known, Some(KNOWN_FOR));
            let lines = session_cookies(&renewed.cookie, https).chain([known]);
            with_cookies(done(ctx, "/account", "password-changed"), lines)
        }
        PasswordChange::Refused(refusal) => form(ctx, &visit, Some(&refusal.to_string()), end_others),
        PasswordChange::Wait(until) => links::wait(until, now, https),
        PasswordChange::Gone => see_other(PATH, https),
    })
}

fn form(ctx: &Context, visit: &Visit, error: Option<&str>, end_others: bool) -> HttpResponse {
    let body = PasswordPage {
        csrf: &visit.csrf(PATH),
        error,
        account_name: &visit.signed_in.user.username,
        min_length: ctx.config.password.min_length,
        end_others,
    };
    show(ctx, visit, &body, error.map(|_| StatusCode::UNPROCESSABLE_ENTITY))
}
