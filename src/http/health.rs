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

/// The database takes writes. That the keys are loaded and the migrations done is what the server started by; and one
/// that was told to stop is not ready, so that nobody is sent to it any more while it finishes.
pub async fn ready(ctx: web::Data<Context>) -> HttpResponse {
    if ctx.is_stopping() {
        return answer(HttpResponse::ServiceUnavailable(), "stopping\n");
    }
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
