//! The person's data, to take away.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_DISPOSITION, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::Context;
use crate::flow::account::export;
use crate::protocol::params::Params;

use super::pages::DataPage;
use super::{failed, show, visit, visit_by_form};
use crate::http::answer::private_json;
use crate::http::request::PageForm;

pub const PATH: &str = "/account/data";

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match visit(&request, &ctx, PATH).await {
        Ok(visit) => show(&ctx, &visit, &DataPage { csrf: &visit.csrf(PATH) }, None),
        Err(response) => response,
    }
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    download(&request, &ctx, &form).await.unwrap_or_else(|response| response)
}

async fn download(request: &HttpRequest, ctx: &Context, form: &Params) -> Result<HttpResponse, HttpResponse> {
    let visit = visit_by_form(request, ctx, PATH, form).await?;
    let data = export(ctx, &visit.signed_in, &visit.browser, ctx.now()).await.map_err(failed(ctx))?;
    let mut response = private_json(StatusCode::OK, &data);
    let attachment = HeaderValue::from_static("attachment; filename=\"account.json\"");
    response.headers_mut().insert(CONTENT_DISPOSITION, attachment);
    Ok(response)
}
