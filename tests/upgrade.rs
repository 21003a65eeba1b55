//! From one version to the next: a schema that is newer than a server that runs, and migrations that were cut short
//! (reliability figure 19, short form). There is one version yet, so the next one's migration is the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a campaign waits, and prints its counts")]

mod support;

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::{sql_query, sqlite::SqliteConnection};
use support::app::Tokens;
use support::journal::setting;
use support::postgres::{execute, on_postgres, shared};
use support::{Dice, PASSWORD, TestServer, World};

/// What a next version adds first, before it takes anything away: columns and tables that this one does not know.
const NEXT: &str = "CREATE TABLE things (thing_id TEXT NOT NULL PRIMARY KEY); \
    ALTER TABLE users ADD COLUMN nickname TEXT; \
    ALTER TABLE sessions ADD COLUMN device TEXT; \
    ALTER TABLE grants ADD COLUMN weight BIGINT NOT NULL DEFAULT 0; \
    INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')";

#[test]
fn s120_a_server_goes_on_beside_a_newer_schema_and_does_not_start_on_it() {
    let w = World::new(&[]);
    let tokens = w.web.tokens(&w.browser(), "openid offline_access");
    execute(&w.server.database_url(), NEXT);
    assert_eq!(w.get("/health/ready").status, 200);
    let browser = w.browser();
    let page = browser.open(w.third.request().with("scope", "openid offline_access").url());
    let page = browser.sign_in_as(&page, "ada", PASSWORD);
    let code = browser.press(&page, "consent-allow", &[]).code();
    let mine = Tokens(w.third.redeem(&code).ok());
    for (app, tokens) in [(&w.web, tokens), (&w.third, mine)] {
        let next = Tokens(app.refresh(tokens.refresh()).ok());
        assert_eq!(app.userinfo(next.access()).status, 200);
        app.revoke(next.refresh());
        assert!(!app.is_active(next.access()));
    }
    browser.press(&browser.open(w.server.url("/")), "sign-out", &[]);
    browser.open(w.web.request().url()).is("login-page");
    w.server.stop();
    for args in [&["serve"][..], &["user", "list"], &["db", "migrate"]] {
        let output = w.server.cli(args, "");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains("newer Countersign"), "{args:?}: {told}");
    }
}

#[derive(QueryableByName, Debug, PartialEq)]
struct Part {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    definition: String,
}

/// Everything that a schema consists of.
fn schema(url: &str) -> Vec<Part> {
    if let Some(path) = url.strip_prefix("sqlite://") {
        let mut conn = SqliteConnection::establish(path).unwrap();
        let parts = "SELECT name, coalesce(sql, '') AS definition FROM sqlite_master \
            UNION ALL SELECT version, 'made' FROM __diesel_schema_migrations ORDER BY 1, 2";
        return sql_query(parts).load(&mut conn).unwrap();
    }
    let mut conn = PgConnection::establish(url).unwrap();
    let parts = "SELECT table_name || '.' || column_name AS name, data_type || is_nullable || coalesce(column_default, '') \
            AS definition FROM information_schema.columns WHERE table_schema = 'public' \
        UNION ALL SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' \
        UNION ALL SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace \
        UNION ALL SELECT version, 'made' FROM __diesel_schema_migrations ORDER BY 1, 2";
    sql_query(parts).load(&mut conn).unwrap()
}

#[test]
fn a_migration_that_was_killed_half_way_is_finished_by_the_next_start() {
    let seed = setting("TEST_SEED", u64::from(std::process::id()));
    let times = setting("TEST_KILLS", 6);
    println!("TEST_SEED={seed} TEST_KILLS={times}");
    let mut dice = Dice::new(seed);
    let prepare = || {
        let folder = tempfile::tempdir().unwrap();
        let file = || format!("sqlite://{}", folder.path().join("countersign.db").display());
        let url = if on_postgres() { shared().empty_database() } else { file() };
        let server = TestServer::prepare(&[("COUNTERSIGN_DATABASE_URL", &url)]);
        (folder, url, server)
    };
    // How long it takes is seen at the second, when everything that it reads is in memory.
    let mut span = Duration::ZERO;
    let mut whole = Vec::new();
    for _ in 0..2 {
        let (_folder, url, server) = prepare();
        let start = std::time::Instant::now();
        server.cli_ok(&["db", "migrate"], "");
        span = start.elapsed();
        whole = schema(&url);
    }
    assert!(whole.len() > 50, "{whole:?}");
    let mut cut_short = 0;
    for _ in 0..times {
        let (_folder, url, server) = prepare();
        // Killed once or more, at any moment of it.
        for _ in 0..=dice.below(3) {
            let mut migration = server.command(&["db", "migrate"]).spawn().unwrap();
            let moment = dice.below(u64::try_from(span.as_micros()).unwrap());
            std::thread::sleep(Duration::from_micros(moment));
            migration.kill().unwrap();
            cut_short += u64::from(!migration.wait().unwrap().success());
        }
        server.cli_ok(&["db", "migrate"], "");
        assert_eq!(schema(&url), whole);
        server.user("ada");
        server.start();
    }
    println!("{cut_short} migrations were killed, each within {span:?}");
    assert!(cut_short > 0, "they were too fast");
}
