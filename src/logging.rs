//! The log: lines of text for people or of JSON for machines, on standard error, each with the request it belongs to.

use std::cell::OnceCell;
use std::error::Error;
use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{LogConfig, LogFormat};
use crate::crypto::random;
use crate::traces::Traces;

tokio::task_local! {
    /// What the request at hand is called. Made when something first asks, for most requests leave no trace in the log.
    static REQUEST: OnceCell<String>;
}

/// Runs what answers one request, under the name that a trusted proxy gave it or one of our own.
pub async fn in_request<F: Future>(given: Option<String>, work: F) -> F::Output {
    REQUEST.scope(given.map_or_else(OnceCell::new, OnceCell::from), work).await
}

/// The name of the request that is being answered; `None` outside of any.
pub fn request_id() -> Option<String> {
    let name = || random::<8>().map(u64::from_ne_bytes).map(|number| format!("{number:016x}")).unwrap_or_default();
    REQUEST.try_with(|id| id.get_or_init(name).clone()).ok()
}

/// Starts logging for the whole process. In tests the subscriber of the first server stays.
pub fn start(config: &LogConfig, traces: Option<&Traces>) {
    let level = config.level.as_str();
    let filter = EnvFilter::new(format!(
        "{level},actix_server=warn,actix_http=off,rustls=warn,hyper=warn,reqwest=warn,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry-otlp=warn,opentelemetry_otlp=warn"
    ));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        // A log that cannot be written is no reason to stop serving.
        .log_internal_errors(false);
    let lines = match config.format {
        LogFormat::Text => {
            lines.event_format(Text(Format::default().with_target(false).with_ansi(ansi))).with_filter(filter).boxed()
        }
        LogFormat::Json => lines.event_format(Json).with_filter(filter).boxed(),
    };
    drop(tracing_subscriber::registry().with(lines).with(traces.map(Traces::layer)).try_init());
}

/// The library's own lines, and the request at their end.
struct Text(Format);

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(id) = request_id() else { return self.0.format_event(ctx, writer, event) };
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        writeln!(writer, "{} request.id={id}", line.strip_suffix('\n').unwrap_or(&line))
    }
}

/// One object a line, without nesting. Ours, because the library's drops the causes of an error.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Map::new();
        event.record(&mut Members(&mut line));
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        line.insert("time".to_owned(), time.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().to_lowercase().into());
        if let Some(id) = request_id() {
            line.insert("request.id".to_owned(), id.into());
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Takes the fields of an event as members of an object.
struct Members<'a>(&'a mut Map<String, Value>);

impl Members<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Members<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    /// With every cause: `database: disk is full`.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            // Writing to a string does not fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.put(field, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_keeps_its_name_and_others_have_others() {
        assert_eq!(request_id(), None);
        let own = || in_request(None, async { (request_id(), request_id()) });
        let (first, again) = own().await;
        assert_eq!(first.as_ref().map(String::len), Some(16));
        assert_eq!(first, again);
        assert_ne!(first, own().await.0);
        assert_eq!(in_request(Some("given".to_owned()), async { request_id() }).await.as_deref(), Some("given"));
    }
}
