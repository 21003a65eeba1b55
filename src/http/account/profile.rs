//! Name, language and time zone.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use crate::domain::zone::Zone;
use crate::flow::Context;
use crate::flow::account::{Problem, change_profile};
use crate::protocol::params::Params;

use super::pages::ProfilePage;
use super::{Visit, done, failed, notice, show, visit, visit_by_form};
use crate::http::request::PageForm;

pub const PATH: &str = "/account/profile";

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match visit(&request, &ctx, PATH).await {
        Ok(visit) => form(&ctx, &visit, None, None, notice(&request, &[("saved", "Saved.")])),
        Err(response) => response,
    }
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(typed): PageForm) -> HttpResponse {
    change(&request, &ctx, &typed).await.unwrap_or_else(|response| response)
}

async fn change(request: &HttpRequest, ctx: &Context, typed: &Params) -> Result<HttpResponse, HttpResponse> {
    let visit = visit_by_form(request, ctx, PATH, typed).await?;
    let changed = change_profile(ctx, &visit.signed_in, |name| typed.get(name), &visit.browser, ctx.now());
    Ok(match changed.await.map_err(failed(ctx))? {
        Ok(()) => done(ctx, PATH, "saved"),
        Err(problem) => form(ctx, &visit, Some(typed), Some(&problem), None),
    })
}

/// The form as it was typed, or as things are.
fn form(
    ctx: &Context,
    visit: &Visit,
    typed: Option<&Params>,
    problem: Option<&Problem>,
    notice: Option<&str>,
) -> HttpResponse {
    let user = &visit.signed_in.user;
    let value = |name: &str| match typed {
        Some(typed) => typed.get(name).unwrap_or_default(),
        None => user.claims.get(name).and_then(Value::as_str).unwrap_or_default(),
    };
    let zoneinfo = value("zoneinfo");
    let mut zones: Vec<String> = Zone::names().collect();
    if !zoneinfo.is_empty() && !zones.iter().any(|zone| zone == zoneinfo) && Zone::is_known(zoneinfo) {
        zones.insert(0, zoneinfo.to_owned());
    }
    let body = ProfilePage {
        csrf: &visit.csrf(PATH),
        notice,
        error: problem.map(|problem| problem.words),
        wrong: problem.map_or("", |problem| problem.field),
        account_name: &user.username,
        account_email: user.email.as_deref(),
        email_verified: user.email_verified,
        name: value("name"),
        given_name: value("given_name"),
        family_name: value("family_name"),
        locale: value("locale"),
        zoneinfo,
        zones,
    };
    show(ctx, visit, &body, problem.map(|_| StatusCode::UNPROCESSABLE_ENTITY))
}
