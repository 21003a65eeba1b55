//! The end of an account, by its owner's word.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::domain::user::normal_name;
use crate::flow::Context;
use crate::flow::account::delete;
use crate::protocol::params::Params;
use crate::store::Deletion;

use super::pages::{DeletePage, DeletedPage};
use super::{Visit, failed, recent_visit, recent_visit_by_form, show};
use crate::http::answer::{see_other, with_cookies};
use crate::http::request::{CookieNames, PageForm};

pub const PATH: &str = "/account/delete";

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match recent_visit(&request, &ctx, PATH).await {
        Ok(visit) => form(&ctx, &visit, None),
        Err(response) => response,
    }
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(typed): PageForm) -> HttpResponse {
    end(&request, &ctx, &typed).await.unwrap_or_else(|response| response)
}

async fn end(request: &HttpRequest, ctx: &Context, typed: &Params) -> Result<HttpResponse, HttpResponse> {
    let https = ctx.config.issuer.is_https();
    let visit = recent_visit_by_form(request, ctx, PATH, typed).await?;
    let named = typed.get("username").map(normal_name);
    if named != Some(normal_name(&visit.signed_in.user.username)) {
        return Ok(form(ctx, &visit, Some("That is not the user name of this account. Nothing was deleted.")));
    }
    Ok(match delete(ctx, &visit.signed_in, &visit.browser, ctx.now()).await.map_err(failed(ctx))? {
        Deletion::Deleted => {
            let names = CookieNames::new(https);
            let forget = [names.clear(names.session), names.clear(names.known)];
            with_cookies(show(ctx, &visit, &DeletedPage, None), forget)
        }
        Deletion::LastAdministrator => form(
            ctx,
            &visit,
            Some("This is the last account that administers this service. Make somebody else an administrator first."),
        ),
        Deletion::Unknown => see_other("/", https),
    })
}

fn form(ctx: &Context, visit: &Visit, error: Option<&str>) -> HttpResponse {
    let body = DeletePage { csrf: &visit.csrf(PATH), error, account_name: &visit.signed_in.user.username };
    show(ctx, visit, &body, error.map(|_| StatusCode::UNPROCESSABLE_ENTITY))
}
