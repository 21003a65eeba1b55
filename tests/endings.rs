//! What ending something costs the database, counted where the statements are sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::sync::Mutex;
use std::time::Duration;

use countersign::clock::UnixTime;
use countersign::crypto::opaque::Digest;
use countersign::domain::activity::Origin;
use countersign::domain::ids::uuid_v7;
use countersign::store::{Actor, Ending, NewSignOut, Reason};
use diesel::connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation};
use support::ground::{Given, Ground};
use support::postgres::on_postgres;

/// What any connection of this program has been asked since [`counted`] began; this file has one test, so that nobody else
/// asks.
static STATEMENTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Listener;

impl Instrumentation for Listener {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            STATEMENTS.lock().unwrap().push(query.to_string());
        }
    }
}

/// The statements that end things: neither those that write down for the person what happened, nor those by which
/// connections are set up and transactions begin and end.
async fn counted<T>(ending: impl Future<Output = T>) -> (T, Vec<String>) {
    STATEMENTS.lock().unwrap().clear();
    let outcome = ending.await;
    let all = std::mem::take(&mut *STATEMENTS.lock().unwrap());
    let words = ["sessions", "grants", "revocations", "outbox", "consents", "users", "clients", "advisory"];
    let ends = |text: &String| {
        let beside = ["activity", "sign_outs"].iter().any(|table| text.replace(['"', '`'], "").contains(table));
        !beside && words.iter().any(|word| text.contains(word))
    };
    (outcome, all.into_iter().filter(ends).collect())
}

#[actix_web::test]
async fn an_ending_is_as_many_statements_for_many_as_for_one_and_a_handful_at_most() {
    set_default_instrumentation(|| Some(Box::new(Listener))).unwrap();
    let start = UnixTime::from_seconds(1_700_000_000);
    let now = start.plus(Duration::from_mins(1));
    let cause = || Reason::RevokedByClient.by(Actor::System);
    for sessions in [1, 8] {
        // Each ending has a ground of its own: two people, each with so many sessions at each of two applications.
        let given = async || {
            let ground = Ground::new(start).await;
            let mut all: Vec<Given> = Vec::new();
            for n in 0..4 * sessions {
                all.push(ground.give(n % 2, n / 2 % 2, n % 3 == 0, start).await);
            }
            (ground, all)
        };
        macro_rules! expect {
            ($most:expr, $what:literal, |$ground:ident, $all:ident| $ending:expr) => {
                let ($ground, $all) = given().await;
                let before = $ground.sequence().await;
                let (_, statements) = counted($ending).await;
                assert_eq!(statements.len(), $most, "{}, {sessions} sessions: {statements:#?}", $what);
                assert!($ground.sequence().await > before, "{} has ended something", $what);
                drop($all);
            };
        }
        // On PostgreSQL whoever is being given something just now is waited for by one more.
        let of_a_person = if on_postgres() { 5 } else { 4 };
        let store_end = async |ground: &Ground, ending, before| {
            ground.store.end(ending, before, false, now).await.unwrap();
        };
        let page = || NewSignOut {
            id: Digest::of(b"page"),
            browser: Digest::of(b"browser"),
            client_id: None,
            back: None,
            expires_at: now,
        };
        expect!(2, "a token", |ground, all| ground.store.revoke_access_token(uuid_v7(start), cause(), now));
        expect!(2, "a grant", |ground, all| ground.store.revoke_grant(all[0].grant.clone(), cause(), now));
        expect!(2, "a grant, by command", |ground, all| {
            store_end(&ground, Ending::Grant(all[0].grant.clone()), None)
        });
        expect!(2, "a client", |ground, all| store_end(&ground, Ending::Client(ground.clients[0].clone()), None));
        expect!(of_a_person - 1, "a consent", |ground, all| {
            let (user, client) = (ground.people[0].clone(), ground.clients[0].clone());
            ground.store.revoke_consent(user, client, "Shop".to_owned(), Origin::default(), now)
        });
        expect!(3, "a sign-out", |ground, all| {
            ground.store.end_session(all[0].cookie, Origin::default(), Some(page()), now)
        });
        expect!(3, "a session, by its owner", |ground, all| {
            let (user, session) = (ground.people[0].clone(), all[0].session.clone());
            ground.store.end_session_by_owner(user, session, Origin::default(), now)
        });
        expect!(3, "a session, by command", |ground, all| {
            store_end(&ground, Ending::Session(all[0].session.clone()), None)
        });
        expect!(of_a_person - 1, "the other sessions", |ground, all| {
            let (user, kept) = (ground.people[0].clone(), all[0].session.clone());
            ground.store.end_other_sessions(user, kept, Origin::default(), now)
        });
        expect!(of_a_person, "a person", |ground, all| {
            store_end(&ground, Ending::User(ground.people[0].clone()), None)
        });
        expect!(of_a_person, "a person's things from before an instant", |ground, all| {
            store_end(&ground, Ending::User(ground.people[0].clone()), Some(now))
        });
        expect!(4, "everything", |ground, all| store_end(&ground, Ending::All, None));
    }
}
