//! Traces for whoever runs a collector of OpenTelemetry: a span for each request and for each transaction in it, sent by OTLP
//! over HTTP. A span holds names of ours, numbers and the name of the request; nothing that a stranger sent.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

/// What is not at the collector by then is lost.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The sender of traces; dropping it sends nothing more.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Sends to `endpoint`, the address of the collector without a path: `/v1/traces` is added (OTLP 1.x, section OTLP/HTTP).
    /// Its headers, where the collector asks for some, come from `OTEL_EXPORTER_OTLP_HEADERS`.
    ///
    /// # Errors
    /// When the client for it cannot be made.
    pub fn to(endpoint: &Url) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let address = format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(address).with_timeout(LAST_WORDS).build()?;
        let resource = Resource::builder_empty()
            .with_service_name("countersign")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        // A thread of its own gathers and sends; what comes faster than it can send is dropped, never waited for.
        Ok(Self(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
    }

    /// The layer that makes spans of ours into traces.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("countersign"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(
                filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("countersign"))
                    .with_max_level_hint(LevelFilter::DEBUG),
            )
    }

    /// Sends what is left.
    pub fn end(&self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_WORDS) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// The span of one transaction of a request, named after the operation of the store that it is: the function around the
/// closure. What the server does by itself is no trace.
pub fn transaction<F>(kind: &'static str, _work: &F) -> tracing::Span {
    if tracing::Span::current().is_none() {
        return tracing::Span::none();
    }
    tracing::debug_span!("transaction", otel.name = operation(std::any::type_name::<F>()), db.kind = kind)
}

fn operation(closure: &'static str) -> Option<&'static str> {
    closure.rsplit("::").find(|part| *part != "{{closure}}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_transaction_is_named_after_the_function_that_makes_it() {
        let work = || ();
        let name = super::operation(std::any::type_name_of_val(&work));
        assert_eq!(name, Some("a_transaction_is_named_after_the_function_that_makes_it"));
    }
}
