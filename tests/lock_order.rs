//! Transactions that wait for each other's rows are ended by PostgreSQL, one of them, and its request gets 503. So all take
//! them in one order (docs/decisions/0020-postgresql.md): what meets is run at once here, again and again, and none fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use countersign::clock::UnixTime;
use countersign::crypto::opaque::{CODE_PREFIX, Digest, FlowId, GrantSecret, SessionSecret};
use countersign::domain::activity::Origin;
use countersign::domain::flow::{Destination, Flow, Progress};
use countersign::domain::grant::Consent;
use countersign::domain::ids::{ClientId, GrantId, SessionId, UserId, uuid_v7};
use countersign::domain::key::SigningKey;
use countersign::domain::link::LinkKind;
use countersign::domain::second_factor::{NewDevice, TrustedBrowser};
use countersign::domain::session::Authentication;
use countersign::domain::throttle::Bucket;
use countersign::protocol::jose::SigningAlgorithm;
use countersign::protocol::scope::Scope;
use countersign::store::{
    Actor, Decision, Ending, FactorChange, Failure, NewGrant, NewLink, NewSession, NewTrust, OwnPassword, Reason,
    SecondFactor, SessionRise, SignIn, StoreError,
};
use futures_util::future::{LocalBoxFuture, join_all};
use support::ground::{DAY, Ground, new_grant, new_session};
use support::postgres::{execute, shared};
use support::{Dice, word};

const START: UnixTime = UnixTime::from_seconds(1_700_000_000);
/// So long each meeting is repeated.
const SPAN: Duration = Duration::from_secs(3);

type Work<'a> = LocalBoxFuture<'a, Result<(), StoreError>>;

macro_rules! work {
    ($asked:expr) => {{
        let asked = $asked;
        Box::pin(async move { asked.await.map(drop) }) as Work
    }};
}

/// A person with sessions, each with codes that nobody has used yet.
struct Person {
    id: UserId,
    sessions: Vec<(SessionId, Digest)>,
    codes: Vec<(GrantSecret, GrantId)>,
}

struct Meeting {
    ground: Ground,
    dice: std::cell::RefCell<Dice>,
    second: AtomicI64,
}

impl Meeting {
    async fn new() -> Self {
        let database = shared().database();
        // Found as soon as they are there.
        let name = database.rsplit('/').next().unwrap();
        execute(&database, &format!("ALTER DATABASE {name} SET deadlock_timeout = '2ms'"));
        let ground = Ground::on(database, START).await;
        Self { ground, dice: Dice::new(7).into(), second: AtomicI64::new(1) }
    }

    /// Later than all instants before.
    fn now(&self) -> UnixTime {
        START.plus(Duration::from_secs(self.second.fetch_add(1, Ordering::Relaxed).unsigned_abs()))
    }

    async fn person(&self, sessions: usize, codes: usize, now: UnixTime) -> Person {
        let id = self.ground.person(&word(), now).await;
        let mut person = Person { id, sessions: Vec::new(), codes: Vec::new() };
        for _ in 0..sessions {
            let new = new_session(&person.id, now);
            person.sessions.push((new.session.id.clone(), new.cookie));
            assert_eq!(self.ground.store.sign_in(new, now).await.unwrap(), SignIn::Done);
        }
        for n in 0..codes {
            let code = GrantSecret::mint().unwrap();
            let session = &person.sessions[n % sessions].0;
            let new = self.grant(&code, &person, session, now);
            person.codes.push((code, new.grant.id.clone()));
            self.ground.store.create_grant(new).await.unwrap();
        }
        person
    }

    fn grant(&self, code: &GrantSecret, person: &Person, session: &SessionId, now: UnixTime) -> NewGrant {
        new_grant(code, &person.id, &self.ground.clients[0], session, "openid", now)
    }

    /// All at once, each a moment later or earlier; no failure.
    async fn meet(&self, what: &str, all: Vec<Work<'_>>) {
        let at_once = all.into_iter().map(|work| {
            let pause = Duration::from_micros(self.dice.borrow_mut().below(1500));
            async move {
                actix_web::rt::time::sleep(pause).await;
                work.await
            }
        });
        for result in join_all(at_once).await {
            if let Err(error) = result {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                panic!("{what}: {error}: {cause}");
            }
        }
    }

    fn exchange<'a>(&'a self, code: &'a GrantSecret, now: UnixTime) -> Work<'a> {
        let presented = again(code);
        let client = self.ground.clients[0].clone();
        work!(self.ground.store.exchange_code(presented, Digest::of(b"binding"), client, None, now.plus(DAY), now))
    }

    /// All codes of a person, used at once.
    fn exchange_all<'a>(&'a self, person: &'a Person, now: UnixTime) -> impl Iterator<Item = Work<'a>> {
        person.codes.iter().map(move |(code, _)| self.exchange(code, now))
    }

    /// All grants of a person, given back at once.
    fn revoke_all<'a>(&'a self, person: &'a Person, now: UnixTime) -> impl Iterator<Item = Work<'a>> {
        let cause = || Reason::RevokedByClient.by(Actor::System);
        person.codes.iter().map(move |(_, id)| work!(self.ground.store.revoke_grant(id.clone(), cause(), now)))
    }

    async fn app(&self, user: &UserId, now: UnixTime) -> NewDevice {
        let (binding, secret) = (Digest::of(uuid_v7(now).as_bytes()), b"secret".to_vec());
        let shown = self.ground.store.open_enrolment(binding, user.clone(), secret, now.plus(DAY), now).await.unwrap();
        let (device_id, name) = (uuid_v7(now), "phone".to_owned());
        NewDevice { device_id, name, binding, sealed_secret: shown, step: 1, recovery_codes: Vec::new() }
    }
}

fn again(code: &GrantSecret) -> GrantSecret {
    use secrecy::ExposeSecret as _;
    GrantSecret::parse(CODE_PREFIX, code.reveal(CODE_PREFIX).expose_secret()).unwrap()
}

fn password_of(person: &Person) -> OwnPassword {
    OwnPassword {
        user: person.id.clone(),
        password_hash: "x".to_owned(),
        session: person.sessions[0].0.clone(),
        cookie: SessionSecret::mint().unwrap().digest(),
        end_others: true,
        origin: Origin::default(),
        mail: None,
    }
}

/// Runs a meeting for its span.
macro_rules! again_and_again {
    (|$meeting:ident, $now:ident| $round:block) => {
        let $meeting = Meeting::new().await;
        let (until, mut rounds) = (Instant::now() + SPAN, 0);
        while Instant::now() < until {
            let $now = $meeting.now();
            $round
            rounds += 1;
        }
        assert!(rounds > 10, "{rounds} rounds");
    };
}

#[actix_web::test]
async fn codes_are_used_while_all_that_their_person_has_ends() {
    again_and_again!(|meeting, now| {
        let (store, person) = (&meeting.ground.store, meeting.person(2, 6, now).await);
        let ending = match now.seconds() % 4 {
            0 => work!(store.end(Ending::User(person.id.clone()), None, false, now)),
            1 => work!(store.set_own_password(password_of(&person), now)),
            2 => work!(store.set_user_disabled(person.id.clone(), true, None, now)),
            _ => work!(store.delete_user(person.id.clone(), None, Actor::Operator, None, now)),
        };
        let all = meeting.exchange_all(&person, now).chain([ending]).collect();
        meeting.meet("codes and an ending", all).await;
    });
}

#[actix_web::test]
async fn codes_are_used_while_a_first_factor_ends_what_was_weaker() {
    again_and_again!(|meeting, now| {
        let (store, person) = (&meeting.ground.store, meeting.person(3, 6, now).await);
        let app = meeting.app(&person.id, now).await;
        let change = FactorChange {
            user: person.id.clone(),
            origin: Origin::default(),
            session: person.sessions[0].0.clone(),
            ends_others: now.seconds() % 2 == 0,
            notices: Vec::new(),
        };
        let authentication = Authentication { at: now, acr: "b".into(), amr: "pwd otp mfa".into() };
        let rise = SessionRise { cookie: SessionSecret::mint().unwrap().digest(), authentication };
        let added = work!(store.add_totp_device(change, app, Some(rise), now));
        let others = person.sessions.iter().skip(1);
        let ends = others.map(|(_, cookie)| work!(store.end_session(*cookie, Origin::default(), None, now)));
        let given_back = meeting.revoke_all(&person, now).skip(3);
        let all = meeting.exchange_all(&person, now).take(4).chain(given_back).chain(ends).chain([added]).collect();
        meeting.meet("codes and a first factor", all).await;
    });
}

#[actix_web::test]
async fn two_people_replace_each_other_in_their_browsers_and_set_up_a_first_factor() {
    again_and_again!(|meeting, now| {
        let store = &meeting.ground.store;
        let (one, other) = (meeting.person(3, 3, now).await, meeting.person(3, 3, now).await);
        let mut all = Vec::new();
        for (person, replaced) in [(&one, &other), (&other, &one)] {
            let mut session = new_session(&person.id, now);
            session.session.authentication.amr = "pwd otp mfa".into();
            let new = NewSession {
                replaces: Some(replaced.sessions[1].0.clone()),
                second_factor: SecondFactor::Enrol(meeting.app(&person.id, now).await),
                ..session
            };
            all.push(work!(store.sign_in(new, now)));
            all.extend(meeting.revoke_all(person, now));
            for (id, cookie) in person.sessions.iter().take(2) {
                all.push(if now.seconds() % 2 == 0 {
                    work!(store.end_session(*cookie, Origin::default(), None, now))
                } else {
                    work!(store.end_session_by_owner(person.id.clone(), id.clone(), Origin::default(), now))
                });
            }
        }
        meeting.meet("two that replace each other", all).await;
    });
}

#[actix_web::test]
async fn one_flow_is_answered_in_one_tab_and_signed_in_to_again_in_another() {
    again_and_again!(|meeting, now| {
        let (store, person) = (&meeting.ground.store, meeting.person(1, 0, now).await);
        let flow = FlowId::mint().unwrap().digest();
        let stored = Flow { destination: Destination::Home, progress: Progress::default(), created_at: now };
        store.create_flow(flow, flow, stored, now.plus(DAY)).await.unwrap();
        let session = &person.sessions[0].0;
        let mut all = Vec::new();
        for n in 0..4 {
            let code = GrantSecret::mint().unwrap();
            let new = NewGrant { flow: Some(flow), ..meeting.grant(&code, &person, session, now) };
            all.push(work!(store.create_grant(new)));
            let mut new = NewSession { flow, ..new_session(&person.id, now) };
            new.continues = n % 2 == 0;
            if new.continues {
                new.session.id = session.clone();
            }
            if n > 1 {
                let code = GrantSecret::mint().unwrap();
                let grant = meeting.grant(&code, &person, &new.session.id, now);
                new.grant = Some(NewGrant { flow: Some(flow), ..grant });
            }
            all.push(work!(store.sign_in(new, now)));
        }
        meeting.meet("one flow in two tabs", all).await;
    });
}

#[actix_web::test]
async fn an_operator_ends_everything_while_people_end_what_is_theirs() {
    again_and_again!(|meeting, now| {
        let store = &meeting.ground.store;
        let (one, other) = (meeting.person(4, 12, now).await, meeting.person(4, 12, now).await);
        let ends = [
            Ending::All,
            Ending::Client(meeting.ground.clients[0].clone()),
            Ending::User(one.id.clone()),
            Ending::User(other.id.clone()),
        ];
        let mut all: Vec<Work> = ends.into_iter().map(|ending| work!(store.end(ending, None, false, now))).collect();
        for person in [&one, &other] {
            all.push(work!(store.set_own_password(password_of(person), now)));
            all.extend(meeting.exchange_all(person, now).take(3));
        }
        meeting.meet("everything and people", all).await;
    });
}

#[actix_web::test]
async fn a_person_ends_other_sessions_while_an_operator_sets_the_password_and_another_deletes_the_account() {
    again_and_again!(|meeting, now| {
        let (store, id) = (&meeting.ground.store, meeting.person(1, 0, now).await.id);
        let mut kept = SessionId::random();
        for _ in 0..3 {
            let browser = TrustedBrowser {
                id: uuid_v7(now),
                address: String::new(),
                user_agent: String::new(),
                created_at: now,
                expires_at: now.plus(DAY),
            };
            let trust = NewTrust { token: SessionSecret::mint().unwrap().digest(), browser };
            let new = NewSession { trust: Some(trust), ..new_session(&id, now) };
            kept = new.session.id.clone();
            store.sign_in(new, now).await.unwrap();
        }
        let link = |kind| {
            let digest = SessionSecret::mint().unwrap().digest();
            NewLink { digest, kind, user_id: Some(id.clone()), sealed: None, expires_at: now.plus(DAY) }
        };
        let delete = link(LinkKind::DeleteAccount);
        let delete_by = delete.digest;
        store.create_link(delete).await.unwrap();
        let decision = |id: &UserId| Decision {
            user: id.clone(),
            client: meeting.ground.clients[0].clone(),
            client_name: "A".into(),
            allowed: Consent { scope: Scope::parse("openid").unwrap(), ..Consent::default() },
            origin: Origin::default(),
            flow: FlowId::mint().unwrap().digest(),
            progress: Progress::default(),
        };
        store.record_consent(decision(&id), now).await.unwrap();
        let mut all = vec![
            work!(store.end_other_sessions(id.clone(), kept, Origin::default(), now)),
            work!(store.set_password(id.clone(), "y".into(), false, None, now)),
            work!(store.create_link(link(LinkKind::ResetPassword))),
        ];
        if now.seconds() % 2 == 0 {
            all.push(work!(store.delete_user(id.clone(), Some(delete_by), Actor::Owner, None, now)));
        } else {
            all.push(work!(store.delete_user(id.clone(), None, Actor::Owner, None, now)));
            let client = meeting.ground.clients[0].clone();
            all.push(work!(store.revoke_consent(id.clone(), client, "A".into(), Origin::default(), now)));
            // Whose person is gone has nothing to be remembered, and that is no failure of this test.
            let recorded = store.record_consent(decision(&id), now);
            all.push(Box::pin(async move {
                recorded.await.or_else(|error| if is_deadlock(&error) { Err(error) } else { Ok(()) })
            }));
        }
        meeting.meet("an account in many hands", all).await;
    });
}

/// What PostgreSQL says of two that wait for each other.
fn is_deadlock(error: &StoreError) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.to_string().contains("deadlock"))
}

#[actix_web::test]
async fn clients_go_while_keys_and_secrets_change_and_consents_are_taken_back() {
    again_and_again!(|meeting, now| {
        let store = &meeting.ground.store;
        let (client, other) = (meeting.ground.client(now).await, meeting.ground.client(now).await);
        let person = meeting.person(1, 0, now).await;
        for n in 0..4 {
            let code = GrantSecret::mint().unwrap();
            let client: &ClientId = if n % 2 == 0 { &client } else { &other };
            let new = new_grant(&code, &person.id, client, &person.sessions[0].0, "openid", now);
            store.create_grant(new).await.unwrap();
        }
        let decision = Decision {
            user: person.id.clone(),
            client: client.clone(),
            client_name: "A".into(),
            allowed: Consent { scope: Scope::parse("openid").unwrap(), ..Consent::default() },
            origin: Origin::default(),
            flow: FlowId::mint().unwrap().digest(),
            progress: Progress::default(),
        };
        store.record_consent(decision, now).await.unwrap();
        let key = |n: i64| SigningKey {
            key_id: uuid_v7(now),
            algorithm: if n % 2 == 0 { SigningAlgorithm::Es256 } else { SigningAlgorithm::Rs256 },
            public_jwk: serde_json::json!({}),
            sealed_private: Vec::new(),
            created_at: now,
            active_at: now,
            expires_at: None,
        };
        store.rotate_key(key(0), None, now).await.unwrap();
        store.rotate_key(key(1), None, now).await.unwrap();
        // Somebody signs in for the client that goes, in a browser where another was signed in.
        let another = meeting.person(1, 1, now).await;
        let flow = FlowId::mint().unwrap().digest();
        let stored = Flow { destination: Destination::Home, progress: Progress::default(), created_at: now };
        store.create_flow(flow, flow, stored, now.plus(DAY)).await.unwrap();
        let mut signs_in = new_session(&another.id, now);
        let code = GrantSecret::mint().unwrap();
        let grant = new_grant(&code, &another.id, &client, &signs_in.session.id, "openid", now);
        signs_in.grant = Some(NewGrant { flow: Some(flow), ..grant });
        signs_in.replaces = Some(person.sessions[0].0.clone());
        let meet = vec![
            work!(store.sign_in(signs_in, now)),
            work!(store.delete_client(client.clone(), now)),
            work!(store.rotate_client_secret(other.clone(), Digest::of(b"new"), now, now)),
            work!(store.rotate_key(key(0), None, now)),
            work!(store.rotate_key(key(1), None, now)),
            work!(store.revoke_consent(person.id.clone(), client.clone(), "A".into(), Origin::default(), now)),
            work!(store.end(Ending::User(person.id.clone()), None, false, now)),
            work!(store.delete_client(other.clone(), now)),
        ];
        meeting.meet("clients, keys and consents", meet).await;
    });
}

#[actix_web::test]
async fn the_sweep_waits_for_nobody_and_nobody_fails_for_it() {
    again_and_again!(|meeting, now| {
        let store = &meeting.ground.store;
        let people = [meeting.person(3, 3, now).await, meeting.person(3, 3, now).await];
        let buckets = || -> Vec<Bucket> { ["b", "c", "a"].iter().map(|network| Bucket::network(network)).collect() };
        // Some of them have run out when the sweep comes.
        let later = now.plus(DAY).plus(DAY).plus(DAY);
        let mut all = vec![work!(store.sweep(later)), work!(store.sweep(later))];
        for person in &people {
            let failure = Failure { buckets: buckets(), account: None, origin: Origin::default() };
            all.push(work!(store.record_failure(failure, now)));
            let new = NewSession { buckets: buckets(), ..new_session(&person.id, now) };
            all.push(work!(store.sign_in(new, now)));
            all.push(work!(store.end(Ending::User(person.id.clone()), None, false, now)));
            all.push(work!(store.delete_user(person.id.clone(), None, Actor::Operator, None, now)));
        }
        all.push(work!(store.end(Ending::All, None, false, now)));
        meeting.meet("the sweep and people", all).await;
    });
}
