//! Around every request: its name in the log, what is counted of it, and what every answer carries.

use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY};
use actix_web::http::{ConnectionType, Method, Version};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, web};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::flow::Context;
use crate::logging::{in_request, request_id};
use crate::metrics::Readings;

use super::request::is_trusted_proxy;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Connections that wait for their next request; an answer beyond them closes its own. An idle one takes some 12 KiB, so
/// those who open many and ask for nothing cost no more than 100 MiB.
const MOST_KEPT: i64 = 8_000;
/// In characters.
const MAX_REQUEST_ID: usize = 64;

/// Wraps the whole application.
pub async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let Some(ctx) = request.app_data::<web::Data<Context>>().cloned() else { return next.call(request).await };
    let started = Instant::now();
    let method = known(request.method());
    // Made only where traces are sent, or at the loudest of the log.
    let span = tracing::debug_span!(
        "request",
        // The route is known once the span has begun, which is too late for its name.
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = Empty,
        http.response.status_code = Empty,
        request.id = Empty,
    );
    in_request(given_id(&request, &ctx), async move {
        let mut response = next.call(request).instrument(span.clone()).await?;
        if response.status().is_server_error()
            && let Some(Ok(id)) = request_id().map(|id| HeaderValue::from_str(&id))
        {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if ctx.config.issuer.is_https() {
            // RFC 6797: who came by https is to come back by https alone.
            let only_https = HeaderValue::from_static("max-age=31536000");
            response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, only_https);
        }
        let leaves = ctx.is_stopping() || ctx.metrics.connections() > MOST_KEPT;
        if leaves && response.request().version() < Version::HTTP_2 {
            response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
        }
        // Where nobody reads what was counted, finding the route would be the dearest part of the shortest requests.
        let is_counted = ctx.config.metrics_listen.is_some();
        if is_counted || !span.is_disabled() {
            let route = response.request().match_pattern().unwrap_or_else(|| "unmatched".to_owned());
            if !span.is_disabled() {
                span.record("http.route", &route);
                span.record("http.response.status_code", response.status().as_u16());
                span.record("request.id", request_id());
                if response.status().is_server_error() {
                    span.record("otel.status_code", "ERROR");
                }
            }
            if is_counted {
                ctx.metrics.request(route, method, response.status().as_u16(), started.elapsed());
            }
        }
        Ok(response)
    })
    .await
}

/// HEAD is GET without the body, which the connection leaves out by itself (RFC 9110 section 9.3.2): what has the one has
/// the other, and neither does more.
pub async fn head_as_get(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if *request.method() == Method::HEAD {
        request.head_mut().method = Method::GET;
    }
    next.call(request).await
}

/// What a proxy of ours called the request; nobody else's word counts, and no more than a short plain word.
fn given_id(request: &ServiceRequest, ctx: &Context) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let fits = (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(plain);
    (fits && is_trusted_proxy(request.peer_addr()?.ip(), &ctx.config.trusted_proxies)).then(|| id.to_owned())
}

/// A method by its name; strangers may invent others.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// `GET /metrics` on the operator's listener.
pub async fn metrics(ctx: web::Data<Context>) -> HttpResponse {
    let database = ctx.store.figures().await;
    if let Err(error) = &database {
        tracing::warn!(error = error as &dyn std::error::Error, "the database could not be asked for its figures");
    }
    let readings = Readings {
        store_queue: ctx.store.waiting(),
        password_queue: ctx.hasher.queued(),
        now: ctx.now(),
        registry_version: ctx.registry.load().version,
        clock_behind: ctx.clock.behind(),
        database: database.ok(),
    };
    match ctx.metrics.render(&readings) {
        Ok(page) => HttpResponse::Ok()
            .insert_header((
                CONTENT_TYPE,
                HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
            ))
            .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")))
            .body(page),
        Err(error) => {
            tracing::error!(%error, "writing the metrics failed");
            HttpResponse::InternalServerError().finish()
        }
    }
}
