//! `POST /revoke`, RFC 7009.

use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::{Context, client, revoke};
use crate::protocol::client_auth::ClientCredentials;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;

use super::answer::{allow_origin, json_error};
use super::request::{Form, authorization, claimed_client, readable_by};

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, Form(params): Form) -> HttpResponse {
    let response = answer(&request, &ctx, &params).await.unwrap_or_else(|error| json_error(&error));
    let claimed = claimed_client(authorization(&request).ok().flatten(), &params);
    allow_origin(response, readable_by(&request, &ctx, claimed.as_deref()))
}

async fn answer(request: &HttpRequest, ctx: &Context, params: &Params) -> Result<HttpResponse, OAuthError> {
    params.refuse_repeated()?;
    let now = ctx.now();
    let credentials = ClientCredentials::parse(authorization(request)?, params)?;
    let client = client::authenticate(ctx, credentials, now).await?;
    // `token_type_hint` only saves a look-up, and ours tell their kind by themselves (section 2.1).
    revoke::revoke(ctx, &client, params.require("token")?, now).await?;
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store"))).finish())
}
