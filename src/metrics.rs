//! What the server counts of itself, in the form that Prometheus reads. Counting costs a look-up and an atomic addition;
//! what can be asked for (queues, the database's own counts) is asked for when somebody reads, not kept.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::clock::UnixTime;

/// Upper bounds in seconds: from a document in memory to a sign-in that had to queue.
const LATENCIES: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Routes are the patterns of the router and "unmatched", methods those of RFC 9110: nothing here grows with what strangers send.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Grant {
    grant: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What is asked for at each reading.
pub struct Readings {
    /// Transactions that wait for the writer.
    pub store_queue: usize,
    /// Password checks that wait for a thread.
    pub password_queue: usize,
    pub now: UnixTime,
    pub registry_version: i64,
    /// How far the machine's clock is behind ours: it was set back.
    pub clock_behind: Duration,
    /// `None` while the database cannot be read.
    pub database: Option<DatabaseReadings>,
}

/// What the database holds.
#[derive(Default)]
pub struct DatabaseReadings {
    /// The number of the newest entry of the revocation log.
    pub revocation_sequence: i64,
    /// When the oldest logout token was queued that still waits.
    pub oldest_untold: Option<UnixTime>,
    pub registry_version: i64,
    pub deliveries: Vec<(Delivery, i64)>,
}

/// A kind of side effect, and how far it has come.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Delivery {
    pub kind: String,
    pub state: String,
}

/// An open connection, counted until it ends.
pub struct Connection(Gauge);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The counters, and the registry that writes them out.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    latency: Family<Route, Histogram, fn() -> Histogram>,
    tokens: Family<Grant, Counter>,
    sign_ins: Family<Outcome, Counter>,
    logout_deliveries: Family<Outcome, Counter>,
    connections: Gauge,
    store_queue: Gauge,
    password_queue: Gauge,
    registry_version: Gauge,
    registry_followed: Gauge,
    registry_lag: Gauge,
    clock_behind: Gauge,
    database_up: Gauge,
    revocation_sequence: Gauge,
    revocation_lag: Gauge,
    deliveries: Family<Delivery, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("countersign");
        let requests = Family::<Request, Counter>::default();
        let latency: Family<Route, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(LATENCIES));
        let tokens = Family::<Grant, Counter>::default();
        let sign_ins = Family::<Outcome, Counter>::default();
        let deliveries = Family::<Delivery, Gauge>::default();
        registry.register("deliveries", "Logout tokens and mails in the database by state", deliveries.clone());
        let logout_deliveries = Family::<Outcome, Counter>::default();
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Which version runs", build);
        registry.register("http_requests", "Answered requests", requests.clone());
        registry.register("http_request_duration_seconds", "From request to answer", latency.clone());
        registry.register("tokens_issued", "Successful token requests by grant type", tokens.clone());
        registry.register("sign_ins", "Sign-in attempts by outcome", sign_ins.clone());
        registry.register("logout_deliveries", "Tries to deliver logout tokens by outcome", logout_deliveries.clone());
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            connections: gauge("connections", "Open connections of the main listener"),
            store_queue: gauge("store_write_queue", "Transactions that wait for the database's writer"),
            password_queue: gauge("password_queue", "Password checks that wait for a thread"),
            registry_version: gauge("registry_version", "The change counter that clients, resources and keys are from"),
            registry_followed: gauge(
                "registry_followed_timestamp_seconds",
                "When the database was last asked for changes with success",
            ),
            registry_lag: gauge("registry_lag", "Changes in the database that this node has not taken in"),
            clock_behind: gauge(
                "clock_behind_seconds",
                "How far the machine's clock is behind the server's: it was set back",
            ),
            database_up: gauge("database_up", "Whether this very reading could ask the database"),
            revocation_sequence: gauge("revocation_log_sequence", "The newest entry of the revocation log"),
            revocation_lag: gauge(
                "revocation_log_lag_seconds",
                "Age of the oldest end of a session of which an application is still to be told",
            ),
            deliveries,
            requests,
            latency,
            tokens,
            sign_ins,
            logout_deliveries,
            registry,
        }
    }
}

impl Metrics {
    pub fn request(&self, route: String, method: &'static str, status: u16, took: Duration) {
        let route = Route { route };
        self.latency.get_or_create(&route).observe(took.as_secs_f64());
        self.requests.get_or_create(&Request { route: route.route, method, status }).inc();
    }

    /// Counts one more, for as long as what is given lives.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.connections.inc();
        Connection(self.connections.clone())
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }

    pub fn token_issued(&self, grant: &'static str) {
        self.tokens.get_or_create(&Grant { grant }).inc();
    }

    pub fn sign_in(&self, outcome: &'static str) {
        self.sign_ins.get_or_create(&Outcome { outcome }).inc();
    }

    /// A logout token was `delivered`, `failed` to arrive for now, or was `given_up`.
    pub fn logout_delivery(&self, outcome: &'static str) {
        self.logout_deliveries.get_or_create(&Outcome { outcome }).inc();
    }

    /// The registry is as new as `now`.
    pub fn registry_followed(&self, now: UnixTime) {
        self.registry_followed.set(now.seconds());
    }

    /// All of it, as `OpenMetrics` text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn render(&self, readings: &Readings) -> Result<String, std::fmt::Error> {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.store_queue.set(number(readings.store_queue));
        self.password_queue.set(number(readings.password_queue));
        self.registry_version.set(readings.registry_version);
        self.clock_behind.set(i64::try_from(readings.clock_behind.as_secs()).unwrap_or(i64::MAX));
        self.database_up.set(i64::from(readings.database.is_some()));
        if let Some(database) = &readings.database {
            self.revocation_sequence.set(database.revocation_sequence);
            let lag = database.oldest_untold.map_or(Duration::ZERO, |queued_at| readings.now.since(queued_at));
            self.revocation_lag.set(i64::try_from(lag.as_secs()).unwrap_or(i64::MAX));
            // What was taken in since the database was asked is no lag.
            self.registry_lag.set((database.registry_version - readings.registry_version).max(0));
            self.deliveries.clear();
            for (delivery, count) in &database.deliveries {
                self.deliveries.get_or_create(delivery).set(*count);
            }
        }
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_written_out() {
        let metrics = Metrics::default();
        metrics.request("/token".to_owned(), "POST", 200, Duration::from_millis(3));
        metrics.request("/token".to_owned(), "POST", 200, Duration::from_millis(30));
        metrics.token_issued("refresh_token");
        let readings = Readings {
            store_queue: 3,
            password_queue: 0,
            now: UnixTime::from_seconds(100),
            registry_version: 7,
            clock_behind: Duration::from_secs(90),
            database: Some(DatabaseReadings {
                revocation_sequence: 12,
                oldest_untold: Some(UnixTime::from_seconds(60)),
                registry_version: 9,
                deliveries: Vec::new(),
            }),
        };
        let page = metrics.render(&readings).unwrap();
        for line in [
            r#"countersign_http_requests_total{route="/token",method="POST",status="200"} 2"#,
            r#"countersign_http_request_duration_seconds_bucket{le="0.005",route="/token"} 1"#,
            r#"countersign_tokens_issued_total{grant="refresh_token"} 1"#,
            "countersign_store_write_queue 3",
            "countersign_clock_behind_seconds 90",
            "countersign_database_up 1",
            "countersign_revocation_log_sequence 12",
            "countersign_revocation_log_lag_seconds 40",
            "countersign_registry_lag 2",
            "# EOF",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
