//! kill -9 of the server in the middle of load (reliability figure 1, short form).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use support::World;
use support::journal::{Blow, campaign};

#[test]
fn s25_kill_9_loses_nothing_acknowledged_and_revives_nothing_spent() {
    let w = World::new(&[("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s")]);
    campaign(
        &w,
        &Blow {
            name: "kill -9",
            strike: &|w| w.server.kill(),
            recover: &|w| w.server.start(),
            operator: true,
            times: 10,
            load: 120,
            ready_within: Duration::from_secs(5),
        },
    );
}
