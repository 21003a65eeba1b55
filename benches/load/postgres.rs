//! What refresh, introspection and `UserInfo` ask of PostgreSQL: beside pgbench doing the same rotation on tables of the same
//! shape, by round trips, and by what the database spends on each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::drive::{Operation, Run, Span};
use crate::operations::{Introspect, Refresh, Tokens, UserInfo};
use crate::proxy::Proxy;
use crate::report::Report;
use crate::{Bench, CHAINS};

/// Copies the table of grants, rows, indexes and all, each grant with a handle that pgbench can compute. A statement with
/// references to check would only make pgbench slower.
const TABLES: &str = "
DROP SCHEMA IF EXISTS floor CASCADE;
CREATE SCHEMA floor;
CREATE TABLE floor.grants (LIKE public.grants INCLUDING ALL);
DO $$
DECLARE names TEXT;
BEGIN
    SELECT string_agg(column_name, ', ' ORDER BY ordinal_position) INTO names FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name = 'grants';
    EXECUTE format('INSERT INTO floor.grants (%s) SELECT %s FROM (SELECT row_number() OVER () - 1 AS number, * FROM public.grants) AS one',
        names, replace(names, 'handle_digest', 'sha256(int8send(number))'));
END $$;
CREATE TABLE floor.refresh_tokens (
    digest BYTEA NOT NULL PRIMARY KEY,
    grant_id TEXT NOT NULL,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    consumed_at BIGINT
);
CREATE INDEX ON floor.refresh_tokens (grant_id);
CREATE INDEX ON floor.refresh_tokens (expires_at);
";

/// No two connections ever rotate the same grant at once, as no two of ours do.
const NUMBERS: &str = r"\set number :client_id + :connections * random(0, :each - 1)
\set next random(1, 4000000000000000000)
";
const UPDATE: &str =
    "UPDATE floor.grants SET refresh_digest = sha256(int8send(:next)), previous_refresh_digest = refresh_digest, \
rotated_at = 1700000000000, refresh_expires_at = 4102444800000 WHERE handle_digest = sha256(int8send(:number)) \
AND refresh_digest IS DISTINCT FROM sha256(int8send(:next)) AND revoked_at IS NULL AND expires_at > 1700000000000 \
RETURNING grant_id, client_id, user_id, session_id, scope, details, auth_time, acr, amr, created_at, network;
";
const INSERT: &str = "INSERT INTO floor.refresh_tokens (digest, grant_id, issued_at, expires_at) \
VALUES (sha256(int8send(:next)), lpad((:number)::text, 36, '0'), 1700000000000, 4102444800000);
";

/// Rotations per second of pgbench.
pub struct Rotations {
    pub update_and_insert: f64,
    pub update: f64,
}

impl Rotations {
    pub fn measure(cluster: &Cluster, connections: usize, seconds: f64) -> Result<Self> {
        cluster.execute(TABLES)?;
        // It cannot be one of several statements.
        cluster.execute("VACUUM ANALYZE floor.grants")?;
        let variables = [("connections", connections), ("each", (CHAINS / connections).max(1))];
        let run = |script: &str| cluster.pgbench(script, connections, seconds, &variables);
        let update_and_insert = run(&format!("{NUMBERS}BEGIN;\n{UPDATE}{INSERT}COMMIT;\n"))?;
        let update = run(&format!("{NUMBERS}{UPDATE}"))?;
        let rotated = cluster.number("SELECT count(*) FROM floor.grants WHERE rotated_at = 1700000000000")?;
        ensure!(rotated > 0, "pgbench rotated nothing");
        Ok(Self { update_and_insert, update })
    }
}

/// What an operation asked of the database.
struct Asked {
    run: Run,
    turns: f64,
    cpu: Duration,
    log_bytes: i64,
    flushes: i64,
}

impl Bench<'_> {
    /// Beside pgbench: the refreshes of the same run.
    pub fn beside_pgbench(&mut self, refreshed: &Run, rotations: &Rotations) {
        Report::section("Refresh beside pgbench on the same server, at the same concurrency");
        let rate = |per_second: f64| format!("{per_second:.0}/s");
        self.report.figure("refresh, ES256 + ES256", &rate(refreshed.per_second()), None);
        self.report.figure("pgbench: UPDATE .. RETURNING and INSERT", &rate(rotations.update_and_insert), None);
        self.report.figure("pgbench: UPDATE .. RETURNING alone", &rate(rotations.update), None);
        let share = |floor: f64| refreshed.per_second() / floor.max(1e-9) * 100.0;
        let (of_both, of_one) = (share(rotations.update_and_insert), share(rotations.update));
        let bound = Some(("at least 55 %", 55.0 / of_both.max(1e-9)));
        self.report.figure("refresh, of UPDATE and INSERT", &format!("{of_both:.0} %"), bound);
        self.report.figure("refresh, of the UPDATE alone", &format!("{of_one:.0} %"), None);
    }

    /// Round trips, log and processor time of the database for one request. The server reaches it through a proxy that
    /// counts.
    pub async fn round_trips(&mut self) -> Result<()> {
        let cluster = self.cluster.as_ref().context("PostgreSQL")?;
        let proxy = Proxy::to(&[cluster.address()])?;
        let url = Cluster::url_by(proxy.address.port());
        let env = [("COUNTERSIGN_DATABASE_URL", url.as_str())];
        self.server.stop().await?;
        (self.server, _) = self.installation.start_with(self.installation.endpoint.address, &env).await?;
        let before = proxy.turns();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let idle = proxy.turns() - before;

        let host = self.host();
        let refresh =
            self.asked(&proxy, idle, || Refresh::new(&host, &self.web, &self.chains, &self.access_tokens)).await?;
        // That its signature is known to be good already does not matter to the database.
        let token = Tokens::One(self.access_tokens.take().context("no access tokens")?);
        let introspect = self.asked(&proxy, idle, || Introspect::new(&host, &self.web, &token)).await?;
        let user_info = || UserInfo { host: host.clone(), tokens: token.clone() };
        let user_info = self.asked(&proxy, idle, user_info).await?;

        Report::section("What one request asks of PostgreSQL");
        self.report.figure("round trips a second without requests", &idle.to_string(), None);
        // Requests at either edge are counted on one side only, and a connection may still prepare a statement.
        let bounds = [("2", 2.0), ("1 (+ 0.05)", 1.05), ("1 (+ 0.05)", 1.05)];
        let asked = [("refresh", refresh), ("introspection", introspect), ("UserInfo", user_info)];
        for ((name, asked), (bound, most)) in asked.into_iter().zip(bounds) {
            let count = asked.run.requests.max(1) as f64;
            let turns = asked.turns / count;
            self.report.figure(&format!("{name}, round trips"), &format!("{turns:.2}"), Some((bound, turns / most)));
            let (cpu, log) = (asked.cpu.as_secs_f64() * 1e6 / count, asked.log_bytes as f64 / count);
            let flushes = asked.flushes as f64 / count;
            let spent = format!("{cpu:.0} us, {log:.0} bytes of log, {flushes:.3} flushes");
            self.report.figure(&format!("{name}, what PostgreSQL spends"), &spent, None);
            self.report.errors(name, &asked.run);
        }
        self.server.stop().await?;
        (self.server, _) = self.installation.start().await?;
        Ok(())
    }

    async fn asked<O: Operation + 'static>(
        &self,
        proxy: &Proxy,
        idle: u64,
        operation: impl Fn() -> O,
    ) -> Result<Asked> {
        let cluster = self.cluster.as_ref().context("PostgreSQL")?;
        let span = Span { warm_up: Duration::ZERO, ..self.span() };
        // Every connection has prepared its statements, and every process counts what it wrote about once a second.
        self.drive(Span { measured: Duration::from_secs(1), ..span }, &operation).await?;
        let (spent, turns) = (cluster.spent()?, proxy.turns());
        let run = self.drive(Span { measured: span.measured / 2, ..span }, &operation).await?;
        let turns = (proxy.turns() - turns) as f64 - idle as f64 * run.wall.as_secs_f64();
        let spending = cluster.spent_since(&spent)?;
        Ok(Asked { run, turns, cpu: spending.cpu, log_bytes: spending.log_bytes, flushes: spending.flushes })
    }
}
