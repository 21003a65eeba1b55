//! PostgreSQL dies under load: killed and started again, or another takes its place (reliability figures 1 and 5, short
//! forms; the checker is in support/journal.rs).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use support::app::Tokens;
use support::journal::{Blow, campaign};
use support::postgres::Cluster;
use support::{World, get, wait_for};

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

/// A primary and its synchronous standby, and a world on whichever of them takes writes.
fn pair() -> ([Cluster; 2], World) {
    let pair = [Cluster::start(&[]), Cluster::start(&[])];
    let name = pair[0].database().rsplit('/').next().unwrap().to_owned();
    pair[1].stop();
    pair[1].follow(&pair[0]);
    let (first, second) = (pair[0].port, pair[1].port);
    let w = on(&format!("postgres://countersign@127.0.0.1:{first},127.0.0.1:{second}/{name}"));
    (pair, w)
}

#[test]
fn s25_a_standby_that_takes_over_has_all_that_was_acknowledged() {
    let (pair, w) = pair();
    let primary = Cell::new(0);
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

/// A rotation that was acknowledged.
struct Rotated {
    spent: String,
    living: String,
    /// Whether the spent one was called living afterwards.
    stale: bool,
}

/// Rotates the refresh token of each, all at once, and asks for what was spent.
fn rotate_each(w: &World, chains: &[Tokens]) -> Vec<Rotated> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = chains
            .iter()
            .map(|tokens| {
                scope.spawn(move || {
                    let spent = tokens.refresh().to_owned();
                    let answer = w.web.refresh(&spent);
                    let living = (answer.status == 200).then(|| answer.text("refresh_token"))?;
                    let asked = || w.web.post("/introspect", &[("token", &spent)]);
                    let stale = (0..5).any(|_| asked().json()["active"] == true);
                    Some(Rotated { spent, living, stale })
                })
            })
            .collect();
        clients.into_iter().filter_map(|client| client.join().unwrap()).collect()
    })
}

/// Every second time the old primary is let go on before its operator ends it, which is too late: both take connections for
/// a while. What is written then is acknowledged by the new one alone, because the old one has no standby any more; what is
/// read may be the old one's.
#[test]
fn s25_a_standby_takes_over_from_one_that_stands_still() {
    let (pair, w) = pair();
    let (primary, times) = (Cell::new(0), Cell::new(0));
    let (acknowledged, stale, chains) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
    campaign(
        &w,
        &Blow {
            name: "failover from one that stands still",
            strike: &|w| {
                let browser = w.browser();
                chains.replace((0..8).map(|_| w.web.tokens(&browser, "openid offline_access")).collect());
                pair[primary.get()].pause();
            },
            recover: &|w| {
                let (old, new) = (primary.get(), 1 - primary.get());
                let asked = Instant::now();
                let answer = get(w.web.request().url());
                assert!(answer.status == 503 && answer.comes_back_soon(), "{answer:?}");
                assert!(asked.elapsed() < 3 * SECOND + SECOND / 2, "{:?}", asked.elapsed());
                let mut written = Vec::new();
                pair[new].promote();
                if times.get() % 2 == 1 {
                    pair[old].resume();
                    written = rotate_each(w, &chains.borrow());
                    stale.set(stale.get() + written.iter().filter(|one| one.stale).count());
                }
                pair[old].kill();
                let ready = until_ready(w);
                println!("ready {ready:?} after the old one was ended, {:?} after it was found out", asked.elapsed());
                for Rotated { spent, living, .. } in &written {
                    assert!(w.web.is_active(living) && !w.web.is_active(spent), "an acknowledged rotation was lost");
                }
                acknowledged.set(acknowledged.get() + written.len());
                primary.set(new);
                times.set(times.get() + 1);
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
    println!(
        "beside one that was let go on: {} rotations acknowledged, none lost; {} read stale",
        acknowledged.get(),
        stale.get()
    );
}
