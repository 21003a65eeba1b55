//! Whether the process lives, and whether it can do its work. Says nothing else to anybody.

use actix_web::http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, web};

use crate::flow::Context;

fn answer(mut builder: actix_web::HttpResponseBuilder, word: &'static str) -> HttpResponse {
    builder.insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store"))).content_type("text/plain").body(word)
}

pub async fn live() -> HttpResponse {
    answer(HttpResponse::Ok(), "live\n")
}

/// The database takes writes; keys and schema were checked at start.
pub async fn ready(ctx: web::Data<Context>) -> HttpResponse {
    match ctx.store.check_writable().await {
        Ok(()) => answer(HttpResponse::Ok(), "ready\n"),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
            let mut response = answer(HttpResponse::ServiceUnavailable(), "not ready\n");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}
