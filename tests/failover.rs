//! PostgreSQL dies under load: killed and started again, or another takes its place (reliability figures 1 and 5, short
//! forms; the checker is in support/journal.rs).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::cell::Cell;
use std::time::{Duration, Instant};

use support::journal::{Blow, campaign};
use support::postgres::Cluster;
use support::{World, wait_for};

const SECOND: Duration = Duration::from_secs(1);

fn on(url: &str) -> World {
    World::new(&[
        ("COUNTERSIGN_DATABASE_URL", url),
        ("COUNTERSIGN_DATABASE__CONNECTIONS", "8"),
        ("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s"),
    ])
}

fn until_ready(w: &World) -> Duration {
    let start = Instant::now();
    wait_for("the server to be ready", || (w.get("/health/ready").status == 200).then_some(()));
    start.elapsed()
}

#[test]
fn s25_kill_9_of_postgresql_loses_nothing_acknowledged() {
    let cluster = Cluster::start(&[]);
    campaign(
        &on(&cluster.database()),
        &Blow {
            name: "kill -9 of PostgreSQL",
            strike: &|_| cluster.kill(),
            recover: &|w| {
                cluster.run();
                until_ready(w)
            },
            operator: true,
            times: 3,
            load: 60,
            ready_within: 5 * SECOND,
        },
    );
}

#[test]
fn s25_a_standby_that_takes_over_has_all_that_was_acknowledged() {
    let pair = [Cluster::start(&[]), Cluster::start(&[])];
    let name = pair[0].database().rsplit('/').next().unwrap().to_owned();
    pair[1].stop();
    pair[1].follow(&pair[0]);
    let primary = Cell::new(0);
    let (first, second) = (pair[0].port, pair[1].port);
    let w = on(&format!("postgres://countersign@127.0.0.1:{first},127.0.0.1:{second}/{name}"));
    campaign(
        &w,
        &Blow {
            name: "failover",
            strike: &|_| pair[primary.get()].kill(),
            recover: &|w| {
                let (old, new) = (primary.get(), 1 - primary.get());
                let start = Instant::now();
                pair[new].promote();
                let promoted = start.elapsed();
                let ready = until_ready(w);
                println!("promoted in {promoted:?}, ready {ready:?} later");
                primary.set(new);
                // The load that follows goes to the new one, with the old one behind it.
                pair[old].follow(&pair[new]);
                until_ready(w);
                ready
            },
            operator: true,
            times: 2,
            load: 60,
            ready_within: 5 * SECOND,
        },
    );
}
