//! Power cuts under load: what was answered is on the disk, whatever of the rest is (reliability figure 2, short form; the
//! checker is in support/journal.rs).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use diesel::prelude::*;
use support::World;
use support::journal::{Blow, campaign, setting};
use support::power::Power;

#[test]
fn s25_a_power_cut_loses_nothing_acknowledged_and_revives_nothing_spent() {
    let w = World::new(&[
        ("COUNTERSIGN_DATABASE_URL", "sqlite://data/countersign.db"),
        ("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s"),
    ]);
    let power = Power::new(setting("TEST_SEED", u64::from(std::process::id())));
    w.server.stop();
    power.start(&w.server);
    campaign(
        &w,
        &Blow {
            name: "power cut",
            strike: &|w| power.cut(&w.server),
            recover: &|w| {
                let path = w.server.data_dir().join("countersign.db");
                let took = power.start(&w.server);
                let mut database = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
                let verdict = diesel::dsl::sql::<diesel::sql_types::Text>("PRAGMA integrity_check");
                assert_eq!(verdict.get_result::<String>(&mut database).unwrap(), "ok");
                took
            },
            // Its commands would write past what is written down.
            operator: false,
            times: 4,
            load: 60,
            ready_within: Duration::from_secs(5),
        },
    );
}
