//! `POST /introspect`, RFC 7662. For confidential clients; browsers have no business here, so no CORS.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::{Context, client, introspect};
use crate::protocol::client_auth::ClientCredentials;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;

use super::answer::{json_error, private_json};
use super::request::{Form, authorization};

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, Form(params): Form) -> HttpResponse {
    answer(&request, &ctx, &params).await.unwrap_or_else(|error| json_error(&error))
}

async fn answer(request: &HttpRequest, ctx: &Context, params: &Params) -> Result<HttpResponse, OAuthError> {
    params.refuse_repeated()?;
    let now = ctx.now();
    let credentials = ClientCredentials::parse(authorization(request)?, params)?;
    let client = client::authenticate(ctx, credentials, now).await?;
    ctx.hasher.token_is_asked_for();
    if client.metadata.is_public() {
        return Err(OAuthError::invalid_client(
            "Introspection is for clients that authenticate (RFC 7662 section 2.1).",
        ));
    }
    let answer = introspect::introspect(ctx, &client, params.require("token")?, now).await?;
    Ok(private_json(StatusCode::OK, &answer))
}
