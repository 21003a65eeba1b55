//! Whether the process lives, and whether it can do its work. Tells strangers which part fails, and nothing of why.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use actix_web::web;
use serde_json::{Value, json};

use crate::flow::Context;

const NO_STORE: (actix_web::http::header::HeaderName, HeaderValue) =
    (CACHE_CONTROL, HeaderValue::from_static("no-store"));

pub async fn live() -> HttpResponse {
    HttpResponse::Ok().insert_header(NO_STORE).content_type("text/plain").body("live\n")
}

/// The database takes writes, its schema has all that this version needs, and there are keys to sign with; the answer
/// says which of them is wrong, the log why. One that was told to stop is not ready, so that nobody is sent to it any
/// more while it finishes.
pub async fn ready(ctx: web::Data<Context>) -> HttpResponse {
    if ctx.is_stopping() {
        return told(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "stopping"}));
    }
    let asked = async {
        ctx.store.check_writable().await?;
        ctx.store.is_schema_current().await
    };
    let word = |good| if good { "ok" } else { "failed" };
    let (database, schema) = match asked.await {
        Ok(current) => ("ok", word(current)),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
            ("failed", "unknown")
        }
    };
    let keys = word(ctx.registry.load().keyring.is_complete(ctx.now()));
    let ready = [database, schema, keys].iter().all(|part| *part == "ok");
    let (code, status) = if ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    told(code, &json!({"status": status, "database": database, "schema": schema, "keys": keys}))
}

fn told(code: StatusCode, body: &Value) -> HttpResponse {
    let mut response = HttpResponse::build(code).insert_header(NO_STORE).json(body);
    if code == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
