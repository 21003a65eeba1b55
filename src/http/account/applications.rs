//! What applications may do for the person, and taking it back.

use actix_web::{HttpRequest, HttpResponse, web};
use url::Url;

use crate::flow::Context;
use crate::flow::account::{Application, applications, revoke_application};
use crate::protocol::params::Params;
use crate::protocol::scope::OFFLINE_ACCESS;

use super::pages::{ApplicationRow, ApplicationsPage};
use super::{done, failed, moment, notice, show, visit, visit_by_form};
use crate::http::flow::{in_plain_words, resources};
use crate::http::request::PageForm;

pub const PATH: &str = "/account/applications";

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    list(&request, &ctx).await.unwrap_or_else(|response| response)
}

async fn list(request: &HttpRequest, ctx: &Context) -> Result<HttpResponse, HttpResponse> {
    let visit = visit(request, ctx, PATH).await?;
    let applications = applications(ctx, &visit.signed_in, ctx.now()).await.map_err(failed(ctx))?;
    let zone = visit.zone();
    let row = |Application { client, what, since, by_consent }: Application| ApplicationRow {
        client_id: client.id.as_str().to_owned(),
        name: client.name().to_owned(),
        host: client.origins.first().and_then(|origin| Url::parse(origin).ok()?.host_str().map(str::to_owned)),
        scopes: in_plain_words(ctx, &what),
        resources: resources(ctx, &client, &what),
        offline_access: what.scope.contains(OFFLINE_ACCESS),
        since: moment(&zone, since),
        by_consent,
    };
    let body = ApplicationsPage {
        csrf: &visit.csrf(PATH),
        notice: notice(
            request,
            &[
                (
                    "taken-back",
                    "Done. What that app held no longer works; it may take its own pages a moment to notice.",
                ),
                ("gone", "That app had nothing any more."),
            ],
        ),
        zone: zone.name(),
        applications: applications.into_iter().map(row).collect(),
    };
    Ok(show(ctx, &visit, &body, None))
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    take_back(&request, &ctx, &form).await.unwrap_or_else(|response| response)
}

async fn take_back(request: &HttpRequest, ctx: &Context, form: &Params) -> Result<HttpResponse, HttpResponse> {
    let visit = visit_by_form(request, ctx, PATH, form).await?;
    let client = form.get("client_id").unwrap_or_default();
    let revoked = revoke_application(ctx, &visit.signed_in, client, &visit.browser, ctx.now());
    let revoked = revoked.await.map_err(failed(ctx))?;
    Ok(done(ctx, PATH, if revoked { "taken-back" } else { "gone" }))
}
