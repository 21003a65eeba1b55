//! The log of revocations: what is judged by it, who writes it, and what a command ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::clock::UnixTime;
use countersign::crypto::opaque::Digest;
use countersign::domain::activity::Origin;
use countersign::domain::ids::{SessionId, uuid_v7};
use countersign::domain::second_factor::NewDevice;
use countersign::domain::session::Authentication;
use countersign::store::{Actor, Added, Deliveries, Ending, FactorChange, Lease, OutboxKind, Reason, SessionRise};
use proptest::prelude::*;
use support::ground::{DAY, Given, Ground};
use support::{World, claims, wait_for};

#[derive(diesel::QueryableByName)]
struct Entry {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    sequence: i64,
}

/// The numbers in the log as another connection sees them.
fn sequences(database: &str) -> Vec<i64> {
    use diesel::{Connection as _, RunQueryDsl as _};
    let query = diesel::sql_query("SELECT sequence FROM revocations ORDER BY sequence");
    let entries: Vec<Entry> = if support::postgres::on_postgres() {
        query.load(&mut diesel::PgConnection::establish(database).unwrap()).unwrap()
    } else {
        let path = database.strip_prefix("sqlite://").unwrap();
        query.load(&mut diesel::SqliteConnection::establish(path).unwrap()).unwrap()
    };
    entries.into_iter().map(|entry| entry.sequence).collect()
}

/// Whoever follows the log by its numbers misses nothing: entries become visible in their order.
#[test]
fn entries_of_the_log_become_visible_in_the_order_of_their_numbers() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let start = UnixTime::from_seconds(1_700_000_000);
    let ground = runtime.block_on(Ground::new(start));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (store, person) = (ground.store.clone(), ground.people[writer % 2].clone());
            runtime.spawn(async move {
                for turn in 0..40 {
                    let now = UnixTime::from_millis(start.millis() + turn);
                    if turn % 3 == 0 {
                        store.end(Ending::User(person.clone()), None, turn % 2 == 0, now).await.unwrap();
                    } else {
                        let cause = Reason::RevokedByClient.by(Actor::System);
                        store.revoke_access_token(uuid_v7(now), cause, now).await.unwrap();
                    }
                }
            })
        })
        .collect();
    let mut seen = BTreeSet::new();
    loop {
        let over = writers.iter().all(tokio::task::JoinHandle::is_finished);
        let newest = seen.last().copied().unwrap_or(0);
        for sequence in sequences(&ground.database) {
            assert!(!seen.insert(sequence) || sequence > newest, "{sequence} came to light after {newest}");
        }
        if over {
            break;
        }
    }
    for writer in writers {
        runtime.block_on(writer).unwrap();
    }
    assert!(seen.len() > 200, "{}", seen.len());
}

#[derive(Clone, Debug)]
enum Happening {
    Given {
        person: usize,
        client: usize,
        offline: bool,
        at: i64,
    },
    /// A rule of everything issued before an instant: 0 the issuer, 1 a person, 2 a client, 3 a session given before.
    Rule {
        level: usize,
        which: usize,
        before: i64,
    },
}

/// The moments of one case; rules are given at the end of them.
const SPAN: i64 = 12;

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..2_usize, 0..2_usize, any::<bool>(), 0..SPAN).prop_map(|(person, client, offline, at)| Happening::Given {
            person,
            client,
            offline,
            at
        }),
        (0..4_usize, 0..8_usize, 0..=SPAN).prop_map(|(level, which, before)| Happening::Rule { level, which, before }),
    ]
}

#[test]
fn s34_a_token_is_accepted_exactly_when_it_was_issued_at_or_after_the_latest_rule_that_matches() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = UnixTime::from_seconds(1_700_000_000);
    let ground = runtime.block_on(Ground::new(start));
    let case = std::cell::Cell::new(0_i64);
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(happenings in prop::collection::vec(happening(), 2..14))| {
        // Rules of the issuer reach back and never forward, so each case has a time of its own, after those before.
        case.set(case.get() + 1);
        let base = start.plus(Duration::from_secs(10 * case.get().unsigned_abs()));
        let at = |offset: i64| UnixTime::from_millis(base.millis() + offset);
        let now = at(SPAN);
        runtime.block_on(async {
            let mut all: Vec<Given> = Vec::new();
            // Everything that was asked to end, as (what, before).
            let mut rules: Vec<(Ending, i64)> = Vec::new();
            for happening in &happenings {
                match *happening {
                    Happening::Given { person, client, offline, at: offset } => {
                        all.push(ground.give(person, client, offline, at(offset)).await);
                    }
                    Happening::Rule { level, which, before } => {
                        let ending = match level {
                            0 => Ending::All,
                            1 => Ending::User(ground.people[which % 2].clone()),
                            2 => Ending::Client(ground.clients[which % 2].clone()),
                            _ if all.is_empty() => continue,
                            _ => Ending::Session(all[which % all.len()].session.clone()),
                        };
                        ground.store.end(ending.clone(), Some(at(before)), false, now).await.unwrap();
                        rules.push((ending, before));
                    }
                }
            }
            for given in &all {
                let latest = |matches: &dyn Fn(&Ending) -> bool| {
                    rules.iter().filter(|(ending, _)| matches(ending)).map(|(_, before)| at(*before)).max()
                };
                let stands = |matches: &dyn Fn(&Ending) -> bool| latest(matches).is_none_or(|before| given.at >= before);
                let person = Ending::User(ground.people[given.person].clone());
                let client = Ending::Client(ground.clients[given.client].clone());
                let session = Ending::Session(given.session.clone());
                let above = |ending: &Ending| *ending == Ending::All || *ending == person;
                let token = stands(&|ending| above(ending) || *ending == client || *ending == session);
                assert_eq!(ground.token_lives(given, given.at, now).await, token, "the token of {:?}", given.at);
                let offline = given.offline;
                let refresh = stands(&|e| above(e) || *e == client || (!offline && *e == session));
                assert_eq!(ground.refreshes(given, now).await, refresh, "the refresh token of {:?}", given.at);
                let signed_in = stands(&|ending| above(ending) || *ending == session);
                assert_eq!(ground.is_signed_in(given, now).await, signed_in, "the session of {:?}", given.at);
                assert!(given.exists || !token);
            }
            // A client's own tokens hang on nothing but the log.
            for client in &ground.clients {
                for offset in 0..SPAN {
                    let own = Ending::Client(client.clone());
                    let before = rules.iter().filter(|(e, _)| *e == Ending::All || *e == own).map(|(_, b)| *b).max();
                    let issued_at = at(offset);
                    let spared =
                        ground.store.is_client_token_spared(client.clone(), uuid_v7(issued_at), issued_at).await.unwrap();
                    assert_eq!(spared, before.is_none_or(|before| offset >= before), "{offset} {before:?}");
                }
            }
        });
    });
}

#[actix_web::test]
async fn what_began_before_an_instant_ends_with_what_it_gave_after_it() {
    let start = UnixTime::from_seconds(1_700_000_000);
    let ground = Ground::new(start).await;
    let later = start.plus(Duration::from_hours(1));
    let stolen = ground.give(0, 0, true, start).await;
    let own = ground.give(0, 0, true, later).await;
    let before = start.plus(Duration::from_mins(30));
    let now = start.plus(Duration::from_hours(2));
    let rehearsed = ground.store.end(Ending::User(ground.people[0].clone()), Some(before), true, now).await.unwrap();
    assert_eq!((rehearsed.sessions, rehearsed.grants, rehearsed.told), (1, 1, 1));
    assert!(
        ground.token_lives(&stolen, start, now).await && ground.sequence().await == 0,
        "a rehearsal changes nothing"
    );
    let ended = ground.store.end(Ending::User(ground.people[0].clone()), Some(before), false, now).await.unwrap();
    assert_eq!((ended.sessions, ended.grants, ended.told), (1, 1, 1));
    // The thief refreshed after that instant: what they were given hangs on what began before it.
    assert!(!ground.token_lives(&stolen, later, now).await && !ground.refreshes(&stolen, now).await);
    assert!(ground.token_lives(&own, later, now).await && ground.refreshes(&own, now).await);
    assert_eq!(Some(ground.sequence().await), ended.sequence);
    // The rule, and an entry of its own for the session and for the grant.
    let entries = sequences(&ground.database);
    assert_eq!(entries.len(), 3, "{entries:?}");
}

#[actix_web::test]
async fn s26_access_tokens_end_with_their_session_and_offline_grants_go_on() {
    let start = UnixTime::from_seconds(1_700_000_000);
    let ground = Ground::new(start).await;
    let (bound, offline) = (ground.give(0, 0, false, start).await, ground.give(0, 1, true, start).await);
    let now = start.plus(Duration::from_mins(1));
    for given in [&bound, &offline] {
        assert!(ground.store.end_session(given.cookie, Origin::default(), None, now).await.unwrap());
        assert!(!ground.token_lives(given, start, now).await);
    }
    assert!(!ground.refreshes(&bound, now).await);
    // Back-Channel Logout 2.7: the grant lives, and what it gives from now on.
    assert!(ground.refreshes(&offline, now).await && ground.token_lives(&offline, now, now).await);
}

#[actix_web::test]
async fn a_person_ends_their_own_sessions_and_nobody_elses() {
    let start = UnixTime::from_seconds(1_700_000_000);
    let ground = Ground::new(start).await;
    let (first, second, third) = (
        ground.give(0, 0, false, start).await,
        ground.give(0, 0, true, start).await,
        ground.give(0, 1, false, start).await,
    );
    let foreign = ground.give(1, 0, false, start).await;
    let now = start.plus(Duration::from_mins(1));
    let (ada, eve) = (ground.people[0].clone(), ground.people[1].clone());
    let end_one = |person, session: &SessionId| {
        ground.store.end_session_by_owner(person, session.clone(), Origin::default(), now)
    };
    assert!(!end_one(eve, &first.session).await.unwrap(), "not hers");
    assert!(end_one(ada.clone(), &first.session).await.unwrap());
    assert!(!end_one(ada.clone(), &first.session).await.unwrap(), "it has ended");
    let ended = ground.store.end_other_sessions(ada, third.session.clone(), Origin::default(), now).await.unwrap();
    assert_eq!((ended.sessions, ended.grants, ended.told), (1, 0, 1));
    assert!(!ground.is_signed_in(&second, now).await && ground.refreshes(&second, now).await, "offline goes on");
    assert!(ground.is_signed_in(&third, now).await && ground.token_lives(&third, start, now).await);
    assert!(ground.is_signed_in(&foreign, now).await);
}

#[actix_web::test]
async fn s115_a_session_that_runs_out_by_itself_is_told_of_once_and_offline_grants_go_on() {
    let start = UnixTime::from_seconds(1_700_000_000);
    let ground = Ground::new(start).await;
    // More than are ended at a time.
    let mut all = Vec::new();
    for n in 0..250 {
        all.push(ground.give(n % 2, n % 2, n == 0, start).await);
    }
    let renewed_until = start.plus(DAY).plus(Duration::from_secs(2));
    let young = ground.give(0, 0, false, start.plus(Duration::from_secs(2))).await;
    let deliveries = async |now| {
        let all = ground.store.list_logout_deliveries(Deliveries::All, true, now).await.unwrap();
        all.into_iter().map(|delivery| delivery.session_id.unwrap().to_string()).collect::<Vec<_>>()
    };
    let sequence = ground.sequence().await;
    ground.store.sweep(start.plus(DAY).minus(Duration::from_millis(1))).await.unwrap();
    assert_eq!(deliveries(start).await.len(), 0, "not before its end");
    let end = start.plus(DAY);
    while ground.store.sweep(end).await.unwrap() > 0 {}
    let told = deliveries(end).await;
    let distinct: BTreeSet<String> = told.iter().cloned().collect();
    assert_eq!((told.len(), distinct.len()), (250, 250), "each once");
    assert!(!distinct.contains(young.session.as_str()), "one that still runs");
    assert_eq!(ground.sequence().await, sequence, "what hangs on them ends by their end");
    assert!(!ground.is_signed_in(&all[1], end).await && !ground.token_lives(&all[1], start, end).await);
    ground.store.sweep(renewed_until).await.unwrap();
    assert_eq!(deliveries(renewed_until).await.len(), 251);
}

/// As several servers do that look at the same moment.
#[test]
fn s115_of_many_that_lease_at_once_each_delivery_goes_to_one() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let start = UnixTime::from_seconds(1_700_000_000);
    let ground = runtime.block_on(async {
        let ground = Ground::new(start).await;
        for _ in 0..60 {
            ground.give(0, 0, false, start).await;
        }
        ground.store.end(Ending::All, None, false, start).await.unwrap();
        ground
    });
    let takers: Vec<_> = (0..8)
        .map(|taker| {
            let store = ground.store.clone();
            runtime.spawn(async move {
                let mut taken = Vec::new();
                for _ in 0..15 {
                    let lease = Lease {
                        kind: OutboxKind::Logout,
                        destination: "https://a.example:8443/logout".to_owned(),
                        limit: 4,
                        node: format!("node {taker}"),
                        until: start.plus(DAY),
                    };
                    let items = store.lease_outbox(lease, start).await.unwrap();
                    taken.extend(items.into_iter().map(|item| item.id));
                }
                taken
            })
        })
        .collect();
    let mut all = Vec::new();
    for taker in takers {
        all.extend(runtime.block_on(taker).unwrap());
    }
    let distinct: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!((all.len(), distinct.len()), (60, 60), "each once");
}

#[actix_web::test]
async fn s59_a_first_app_ends_what_was_weaker_with_an_entry_each_and_tells_the_applications() {
    let start = UnixTime::from_seconds(1_700_000_000);
    let ground = Ground::new(start).await;
    let (own, other) = (ground.give(0, 0, true, start).await, ground.give(0, 1, true, start).await);
    let foreign = ground.give(1, 0, true, start).await;
    let (now, before) = (start.plus(Duration::from_secs(1)), ground.sequence().await);
    let (ada, binding) = (ground.people[0].clone(), Digest::of(b"place"));
    let sealed = ground.store.open_enrolment(binding, ada.clone(), vec![1], now.plus(DAY), now).await.unwrap();
    let app = NewDevice {
        device_id: uuid_v7(now),
        name: "phone".to_owned(),
        binding,
        sealed_secret: sealed,
        step: 1,
        recovery_codes: Vec::new(),
    };
    let change = FactorChange {
        user: ada,
        origin: Origin::default(),
        session: own.session.clone(),
        ends_others: false,
        notices: Vec::new(),
    };
    let authentication = Authentication { at: now, acr: "b".into(), amr: "pwd otp mfa".into() };
    let rise = SessionRise { cookie: own.cookie, authentication };
    let added = ground.store.add_totp_device(change, app, Some(rise), now).await.unwrap();
    assert!(matches!(added, Added::Done { .. }));
    // The other session and both grants; its application is told.
    let last = ground.sequence().await;
    assert_eq!(last - before, 3);
    assert_eq!(ground.store.open_logout_deliveries(last).await.unwrap(), (1, 0));
    assert!(ground.is_signed_in(&own, now).await && !ground.is_signed_in(&other, now).await);
    assert!(!ground.refreshes(&own, now).await && !ground.refreshes(&other, now).await);
    assert!(ground.is_signed_in(&foreign, now).await && ground.refreshes(&foreign, now).await);
}

/// Operations that end something, and so must write an entry.
const ENDS: &[&str] = &[
    "add_totp_device",
    "delete_client",
    "delete_user",
    "end",
    "end_other_sessions",
    "end_session",
    "end_session_by_owner",
    "exchange_code",
    "remove_totp_device",
    "replace_recovery_codes",
    "reset_password",
    "reset_second_factors",
    "revoke_access_token",
    "revoke_consent",
    "revoke_grant",
    "revoke_key",
    "rotate_client_secret",
    "rotate_key",
    "rotate_refresh_token",
    "set_own_password",
    "set_password",
    "set_user_disabled",
    "sign_in",
];

/// Operations that end nothing that a token, a session or a grant hangs on.
const SPARES: &[&str] = &[
    "accept_instant",
    "add_first_keys",
    "check_writable",
    "complete_flow",
    "confirm_email",
    "create_client",
    "create_flow",
    "create_grant",
    "create_link",
    "create_resource",
    "create_user",
    "delete_resource",
    "distrust_browsers",
    "forget_failures",
    "give_up_expired",
    "import_users",
    "lease_outbox",
    "note_activity",
    "open_enrolment",
    "outbox_delivered",
    "outbox_failed",
    "outbox_given_up",
    "prove_password",
    "record_consent",
    "record_failure",
    "record_progress",
    "register",
    "release_leases",
    "remember_instant",
    "remember_issuer",
    "request_by_mail",
    "retry_logout_deliveries",
    "set_claims",
    "set_email",
    "sweep",
    "take_assertion_id",
    "take_lease",
    "touch_session",
    "update_client",
    "wait_at_most",
];

/// What writes an entry, directly or at the end of the way.
const WRITERS: &[&str] = &[
    "append(",
    "conclude(",
    "end(",
    "end_by_operator(",
    "end_everything_of(",
    "end_grants_between(",
    "end_one_session(",
    "end_others(",
    "end_session_where!(",
    "end_token(",
    "end_weaker(",
    "replace_key(",
    "revoke(",
];

#[test]
fn s111_every_operation_of_the_store_that_ends_something_writes_into_the_log() {
    let mut found = BTreeSet::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap_or_default();
        for operation in text.split("pub async fn ").skip(1) {
            let name = operation.split(['(', '<']).next().unwrap();
            let body = operation.split("\n    }\n").next().unwrap();
            if !body.contains("self.write") {
                continue;
            }
            found.insert(name.to_owned());
            let ends = ENDS.contains(&name);
            assert!(ends || SPARES.contains(&name), "{name}: does it end something? Add it to ENDS or to SPARES here");
            let writes = WRITERS.iter().any(|writer| {
                body.match_indices(writer)
                    .any(|(at, _)| !body[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            assert_eq!(ends, writes, "{name} ends something: {ends}; writes an entry: {writes}");
        }
    }
    assert!(ENDS.iter().all(|name| found.contains(*name)), "an operation of ENDS is gone: {found:?}");
}

#[actix_web::test]
async fn s111_what_ends_leaves_an_entry_and_what_ended_before_leaves_none() {
    let start = UnixTime::from_seconds(1_700_000_000);
    let ground = Ground::new(start).await;
    let (store, ada, client) = (&ground.store, &ground.people[0], &ground.clients[0]);
    let now = start.plus(Duration::from_secs(1));
    let cause = || Reason::RevokedByClient.by(Actor::Client(client.clone()));
    let mut last = 0;
    macro_rules! expect {
        ($entries:expr, $what:literal) => {
            let sequence = ground.sequence().await;
            assert_eq!(sequence - last, $entries, $what);
            #[allow(unused_assignments)]
            {
                last = sequence;
            }
        };
    }
    let given = ground.give(0, 0, true, start).await;
    expect!(0, "giving");
    let jti = uuid_v7(start);
    for entries in [1, 0] {
        store.revoke_access_token(jti.clone(), cause(), now).await.unwrap();
        expect!(entries, "a token");
    }
    for entries in [1, 0] {
        store.revoke_grant(given.grant.clone(), cause(), now).await.unwrap();
        expect!(entries, "a grant");
    }
    for entries in [1, 0] {
        store.end_session(given.cookie, Origin::default(), None, now).await.unwrap();
        expect!(entries, "a session");
    }
    store.set_password(ada.clone(), "x".into(), false, None, now).await.unwrap();
    expect!(1, "a new password");
    store.set_user_disabled(ada.clone(), true, None, now).await.unwrap();
    expect!(1, "a disabled account");
    store.set_user_disabled(ada.clone(), false, None, now).await.unwrap();
    expect!(0, "an enabled one");
    store.rotate_client_secret(client.clone(), Digest::of(b"new"), now, now).await.unwrap();
    expect!(1, "a new secret");
    for ending in [Ending::All, Ending::User(ada.clone()), Ending::Client(client.clone())] {
        store.end(ending, None, false, now).await.unwrap();
        expect!(1, "an operator's command");
    }
    store.delete_client(client.clone(), now).await.unwrap();
    expect!(1, "a deleted client");
}

#[test]
fn s32_the_operator_ends_a_stolen_account_with_one_command_and_sees_it_done() {
    let w = World::new(&[]);
    let (browser, machine) = (w.browser(), w.machine.post("/token", &[("grant_type", "client_credentials")]).ok());
    let machine = machine["access_token"].as_str().unwrap();
    let bound = w.web.tokens(&browser, "openid");
    let offline = w.web.tokens(&browser, "openid offline_access");
    assert!(w.web.is_active(bound.access()) && w.web.is_active(offline.access()) && w.machine.is_active(machine));
    let said = w.server.cli_ok(&["revoke", "--user", "ada", "--dry-run"], "");
    assert!(said.contains("Would end all that user ada has.") && said.contains("Nothing has been changed"), "{said}");
    assert!(w.web.is_active(bound.access()));
    let sub = claims(bound.id())["sub"].as_str().unwrap().to_owned();
    for name in ["ada", &sub] {
        let listed = w.server.cli_ok(&["session", "list", "--user", name], "");
        assert_eq!(listed.lines().count(), 2, "{listed}");
    }
    let said = w.server.cli_ok(&["revoke", "--user", "ada"], "");
    assert!(said.contains("log sequence"), "{said}");
    for tokens in [&bound, &offline] {
        assert!(!w.web.is_active(tokens.access()));
        assert_eq!(w.web.userinfo(tokens.access()).status, 401);
        w.web.refresh(tokens.refresh()).refused(400, "invalid_grant");
    }
    browser.open(w.web.request().url()).is("login-page");
    assert_eq!(w.server.cli_ok(&["session", "list"], "").lines().count(), 1);
    // Signing in again works at once.
    let again = w.web.tokens(&browser, "openid offline_access");
    let sid = claims(again.id())["sid"].as_str().unwrap().to_owned();
    w.server.cli_ok(&["revoke", "--token", again.access()], "");
    assert!(!w.web.is_active(again.access()));
    let next = support::app::Tokens(w.web.refresh(again.refresh()).ok());
    assert!(w.web.is_active(next.access()));
    w.server.cli_ok(&["revoke", "--session", &sid], "");
    assert!(!w.web.is_active(next.access()));
    assert!(!w.server.cli_ok(&["revoke", "--token", next.refresh()], "").contains("Nothing"));
    w.web.refresh(next.refresh()).refused(400, "invalid_grant");
    // A client's own tokens end with their client's rule, and with their key.
    w.server.cli_ok(&["revoke", "--client", &w.machine.id], "");
    assert!(!w.machine.is_active(machine));
    let token = w.machine.post("/token", &[("grant_type", "client_credentials")]).text("access_token");
    assert!(w.machine.is_active(&token), "issued after the rule");
    let kid = support::header(&token)["kid"].as_str().unwrap().to_owned();
    w.server.cli_ok(&["revoke", "--key", &kid], "");
    wait_for("the key's end", || (!w.machine.is_active(&token)).then_some(()));
    assert!(!w.jwks().to_string().contains(&kid));
    let token = w.machine.post("/token", &[("grant_type", "client_credentials")]).text("access_token");
    assert!(w.machine.is_active(&token), "another key signs in its place");
    w.server.cli_ok(&["revoke", "--all"], "");
    assert!(!w.machine.is_active(&token));
    let foreign = {
        let mut claims = claims(&token);
        claims["iss"] = "https://another.example".into();
        let [head, _, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
        format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()))
    };
    for wrong in [
        &["revoke"][..],
        &["revoke", "--all", "--user", "ada"],
        &["revoke", "--all", "--issued-before", "2999-01-01T00:00:00Z"],
        &["revoke", "--user", "nobody"],
        &["revoke", "--client", "client_x"],
        &["revoke", "--key", "x"],
        &["revoke", "--token", "x"],
        // A session, grants and tokens that this server never made: of another time, of another version, of another issuer.
        &["revoke", "--session", "3f0f8a9e-7c4b-4b0f-8c62-0d7b3f1a2c4d"],
        &["revoke", "--grant", "x"],
        &["revoke", "--grant", "0198f4a2-5b7e-7c3d-9a1b-2c3d4e5f6071"],
        &["revoke", "--token", "3f0f8a9e-7c4b-4b0f-8c62-0d7b3f1a2c4d"],
        &["revoke", "--token", "ffffffff-ffff-7c3d-9a1b-2c3d4e5f6071"],
        &["revoke", "--token", &*foreign],
        &["logout-delivery", "retry"],
        &["logout-delivery", "retry", "x"],
    ] {
        assert!(!w.server.cli(wrong, "").status.success(), "{wrong:?}");
    }
}
