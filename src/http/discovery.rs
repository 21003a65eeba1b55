//! Documents for everybody: JWKS, provider metadata. Ready bytes, the same whoever asks and however.

use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL,
    CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH,
};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::Context;
use crate::flow::registry::Published;

/// How long a relying party may keep them; new signing keys are published for longer than this before they sign
/// (`signing_key.publish_ahead`).
const CACHEABLE: HeaderValue = HeaderValue::from_static("public, max-age=300");
const ANYBODY: HeaderValue = HeaderValue::from_static("*");

pub async fn jwks(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    write(&request, &ctx.registry.load().jwks, HeaderValue::from_static("application/json"))
}

pub async fn metadata(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    write(&request, &ctx.registry.load().discovery, HeaderValue::from_static("application/json"))
}

pub async fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, ANYBODY))
        .insert_header((ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD")))
        .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("if-none-match")))
        .finish()
}

fn write(request: &HttpRequest, document: &Published, content_type: HeaderValue) -> HttpResponse {
    let known = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|tags| {
        tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == document.etag)
    });
    let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((CACHE_CONTROL, CACHEABLE)).insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, ANYBODY));
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        response.insert_header((ETAG, etag));
    }
    if known {
        return response.finish();
    }
    response.insert_header((CONTENT_TYPE, content_type)).body(document.bytes.clone())
}
