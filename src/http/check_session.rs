//! `check_session_iframe`, OpenID Connect Session Management 1.0 section 3.2: the one page of ours that others may frame.

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpResponse, web};

use crate::flow::Context;

use super::answer::not_found;

/// Shows nothing and asks for nothing; its script answers messages of the page that frames it.
const PAGE: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Session</title>\n\
                    <script src=\"/static/check-session.js\"></script>\n</html>\n";

pub async fn get(ctx: web::Data<Context>) -> HttpResponse {
    if !ctx.config.session.management {
        return not_found().await;
    }
    let framed_by = &ctx.registry.load().framing_origins;
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")))
        .insert_header((
            CONTENT_SECURITY_POLICY,
            format!("default-src 'none'; script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {framed_by}"),
        ))
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .insert_header((REFERRER_POLICY, HeaderValue::from_static("no-referrer")))
        .insert_header((X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .body(PAGE)
}
