//! Style and pictures, inside the binary.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use actix_web::{HttpRequest, HttpResponse, web};

use super::answer::not_found;

const FILES: &[(&str, &str, &str)] = &[
    ("countersign.css", "text/css; charset=utf-8", include_str!("../../static/countersign.css")),
    ("favicon.svg", "image/svg+xml", include_str!("../../static/favicon.svg")),
    ("band.svg", "image/svg+xml", include_str!("../../static/band.svg")),
    ("check-session.js", "text/javascript; charset=utf-8", include_str!("../../static/check-session.js")),
    ("signed-out.js", "text/javascript; charset=utf-8", include_str!("../../static/signed-out.js")),
    ("form-post.js", "text/javascript; charset=utf-8", include_str!("../../static/form-post.js")),
];

pub async fn get(request: HttpRequest, file: web::Path<String>) -> HttpResponse {
    serve(&request, &file).await
}

pub async fn favicon(request: HttpRequest) -> HttpResponse {
    serve(&request, "favicon.svg").await
}

async fn serve(request: &HttpRequest, name: &str) -> HttpResponse {
    let Some((_, content_type, text)) = FILES.iter().find(|(own, _, _)| *own == name) else { return not_found().await };
    let etag = format!("\"{:08x}-{}\"", crc32fast::hash(text.as_bytes()), text.len());
    let known = request.headers().get(IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == etag.as_bytes());
    let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")))
        .insert_header((X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .insert_header((ETAG, etag));
    if known {
        return response.finish();
    }
    response.insert_header((CONTENT_TYPE, HeaderValue::from_static(content_type))).body(*text)
}
