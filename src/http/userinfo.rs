//! `GET` and `POST /userinfo`, OpenID Connect Core section 5.3.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::Context;
use crate::flow::userinfo::{UserInfo, userinfo};
use crate::protocol::access_token::bearer_token;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;

use super::answer::{allow_origin, bearer_error, private_json};
use super::request::{Form, authorization, readable_by};

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    answer(&request, &ctx, None).await
}

/// A body is only looked at where it is a form: a POST may just as well bring the token in its header.
pub async fn post(request: HttpRequest, ctx: web::Data<Context>, form: Option<Form>) -> HttpResponse {
    answer(&request, &ctx, form.map(|Form(params)| params).as_ref()).await
}

async fn answer(request: &HttpRequest, ctx: &Context, body: Option<&Params>) -> HttpResponse {
    let token = authorization(request).and_then(|header| bearer_token(header, request.query_string(), body));
    let (response, client_id) = match token {
        Ok(Some(token)) => match userinfo(ctx, &token, ctx.now()).await {
            Ok((client, answer)) => (write(answer), Some(client.id.clone())),
            Err(error) => (bearer_error(Some(&error)), None),
        },
        Ok(None) => (bearer_error(None), None),
        Err(error) => (bearer_error(Some(&OAuthError::invalid_request(error.description))), None),
    };
    let client_id = client_id.as_ref().map(crate::domain::ids::ClientId::as_str);
    allow_origin(response, readable_by(request, ctx, client_id))
}

fn write(answer: UserInfo) -> HttpResponse {
    match answer {
        UserInfo::Json(claims) => private_json(StatusCode::OK, &claims),
        UserInfo::Jwt(token) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/jwt")))
            .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")))
            .body(token),
    }
}
