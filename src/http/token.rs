//! `POST /token`, RFC 6749 section 3.2.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::token::exchange;
use crate::flow::{Context, client};
use crate::protocol::client_auth::ClientCredentials;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;
use crate::protocol::token::{TokenRequest, TokenResponse};

use super::answer::{allow_origin, json_error, private_json};
use super::request::{Form, address, authorization, claimed_client, readable_by};

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, Form(params): Form) -> HttpResponse {
    let claimed = claimed_client(authorization(&request).ok().flatten(), &params);
    let response = answer(&request, &ctx, &params).await.unwrap_or_else(|error| {
        if let Some(client) = claimed.as_deref().and_then(|id| ctx.registry.load().client(id).cloned()) {
            tracing::info!(client.id = %client.id, error = error.code.as_str(), "a token request was refused: {}", error.description);
        }
        json_error(&error)
    });
    allow_origin(response, readable_by(&request, &ctx, claimed.as_deref()))
}

async fn answer(request: &HttpRequest, ctx: &Context, params: &Params) -> Result<HttpResponse, OAuthError> {
    params.refuse_repeated()?;
    let credentials = ClientCredentials::parse(authorization(request)?, params)?;
    let now = ctx.now();
    // Who asks comes before what is asked: a stranger learns nothing of what would be wrong with the rest.
    let client = client::authenticate(ctx, credentials, now).await?;
    ctx.hasher.token_is_asked_for();
    let issued = exchange(ctx, &client, TokenRequest::parse(params)?, &address(request, ctx), now).await?;
    let scope = issued.scope().to_owned();
    Ok(private_json(
        StatusCode::OK,
        &TokenResponse {
            access_token: issued.access.token,
            token_type: "Bearer",
            expires_in: issued.access.lifetime.as_secs(),
            refresh_token: issued.refresh_token,
            id_token: issued.id_token,
            scope: &scope,
        },
    ))
}
