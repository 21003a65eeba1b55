//! The store's operations against a real database, SQLite or (`TEST_DATABASE=postgres`) PostgreSQL: races have one winner, restarts forget nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign::clock::UnixTime;
use countersign::config::{DatabaseUrl, KeySource};
use countersign::crypto::opaque::{DerivedKey, Digest, FlowId, GrantSecret, SessionSecret, TrustSecret};
use countersign::crypto::seal::SealingKey;
use countersign::domain::activity::{Event, Origin};
use countersign::domain::client::Client;
use countersign::domain::flow::{Destination, Flow, Progress};
use countersign::domain::grant::{Consent, Grant, GrantDetails};
use countersign::domain::ids::{ClientId, GrantId, SessionId, UserId, uuid_v7};
use countersign::domain::link::LinkKind;
use countersign::domain::second_factor::{FactorUse, NewDevice, TrustedBrowser};
use countersign::domain::session::{Authentication, Session};
use countersign::domain::throttle::Bucket;
use countersign::protocol::metadata::ClientMetadata;
use countersign::protocol::scope::Scope;
use countersign::store::{
    Actor, Added, Decision, Deliveries, Exchange, FactorChange, Failure, FirstRefreshToken, Granting, NewGrant,
    NewLink, NewSession, NewTrust, NewUser, PersonsToken, Reason, Registered, Registration, Rotation, RotationRequest,
    SecondFactor, SessionRise, SignIn, Store, StoreError,
};

use futures_util::future::join_all;
use support::ground::{self, Ground, new_grant, new_session};

const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);
const DAY: Duration = Duration::from_hours(24);

struct World {
    store: Store,
    url: DatabaseUrl,
    client: ClientId,
    user: UserId,
    session: SessionId,
    cookie: Digest,
    binding: Digest,
    folder: tempfile::TempDir,
}

fn url(folder: &Path) -> DatabaseUrl {
    DatabaseUrl::parse(&support::postgres::database(folder)).unwrap()
}

fn key() -> DerivedKey {
    SealingKey::load(&KeySource::Inline("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into())).unwrap().rotation_key()
}

fn origin() -> Origin {
    Origin { address: "192.0.2.1".to_owned(), user_agent: "a browser".to_owned() }
}

fn new_user(name: &str) -> NewUser {
    NewUser { user: ground::new_user(UserId::random(), name, NOW), password_hash: Some("x".to_owned()) }
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = url(folder.path());
        let store = Store::open(&url).unwrap();
        let metadata = serde_json::json!({"redirect_uris": ["https://a.example/cb"], "grant_types": ["authorization_code", "refresh_token"]});
        let metadata = ClientMetadata::parse(metadata.as_object().unwrap()).unwrap();
        let client = ClientId::random();
        store.create_client(Client::new(client.clone(), metadata, None, NOW)).await.unwrap();
        let user = new_user("ada");
        let user_id = user.user.id.clone();
        assert_eq!(store.create_user(user).await.unwrap(), Registered::Done);
        assert_eq!(store.create_user(new_user("ADA")).await.unwrap(), Registered::Exists);
        let mut world = Self {
            store,
            url,
            client,
            user: user_id,
            session: SessionId::random(),
            cookie: SessionSecret::mint().unwrap().digest(),
            binding: Digest::of(b"binding"),
            folder,
        };
        assert_eq!(world.sign_in(false).await, SignIn::Done);
        world
    }

    async fn sign_in(&mut self, continues: bool) -> SignIn {
        self.cookie = SessionSecret::mint().unwrap().digest();
        self.sign_in_with(&self.session, self.cookie, continues, SecondFactor::None).await
    }

    async fn sign_in_with(
        &self,
        session: &SessionId,
        cookie: Digest,
        continues: bool,
        second_factor: SecondFactor,
    ) -> SignIn {
        let session = Session {
            id: session.clone(),
            user_id: self.user.clone(),
            authentication: Authentication { at: NOW, acr: "a".into(), amr: "pwd".into() },
            proven_at: NOW,
            last_seen_at: NOW,
            expires_at: NOW.plus(DAY),
            is_kept: false,
            auth_address: String::new(),
        };
        let flow = FlowId::mint().unwrap().digest();
        let new = NewSession {
            session,
            cookie,
            origin: origin(),
            continues,
            replaces: None,
            verified_hash: Some(Digest::of(b"x")),
            second_factor,
            trust: None,
            notices: Vec::new(),
            rehashed: None,
            account: Bucket::account("ada", None),
            buckets: vec![Bucket::account("ada", None), Bucket::network("192.0.2.1")],
            flow,
            progress: Progress::default(),
            grant: None,
        };
        self.store.sign_in(new, NOW).await.unwrap()
    }

    /// An app whose secret was shown here, ready to be added.
    async fn app(&self, name: &str) -> NewDevice {
        let binding = Digest::of(name.as_bytes());
        let secret = name.as_bytes().to_vec();
        let shown = self.store.open_enrolment(binding, self.user.clone(), secret, NOW.plus(DAY), NOW).await.unwrap();
        let (device_id, name) = (uuid_v7(NOW), name.to_owned());
        NewDevice { device_id, name, binding, sealed_secret: shown, step: 1, recovery_codes: Vec::new() }
    }

    /// Adds it in the session of this world, which rises by it.
    async fn add(&self, app: NewDevice) -> Added {
        let change = FactorChange {
            user: self.user.clone(),
            origin: origin(),
            session: self.session.clone(),
            ends_others: false,
            notices: Vec::new(),
        };
        let authentication = Authentication { at: NOW, acr: "b".into(), amr: "pwd otp mfa".into() };
        let rise = SessionRise { cookie: SessionSecret::mint().unwrap().digest(), authentication };
        self.store.add_totp_device(change, app, Some(rise), NOW).await.unwrap()
    }

    async fn apps(&self) -> usize {
        let user = self.store.find_user(self.user.clone()).await.unwrap().unwrap();
        let apps = self.store.list_totp_devices(self.user.clone()).await.unwrap().len();
        assert_eq!(user.has_second_factor, apps > 0);
        apps
    }

    async fn grant(&self, scope: &str) -> (GrantSecret, GrantId) {
        let (secret, id, granting) = self.try_grant(scope, "pwd", None).await;
        assert_eq!(granting, Granting::Done);
        (secret, id)
    }

    /// A grant for a session that was read with these methods, and what came of it.
    async fn try_grant(&self, scope: &str, amr: &str, flow: Option<Digest>) -> (GrantSecret, GrantId, Granting) {
        let secret = GrantSecret::mint().unwrap();
        let id = GrantId::new(NOW);
        let new = NewGrant {
            handle: secret.handle_digest(),
            code: secret.digest(),
            code_binding: self.binding,
            code_expires_at: NOW.plus(Duration::from_mins(1)),
            flow,
            asked: None,
            grant: Grant {
                id: id.clone(),
                client_id: self.client.clone(),
                user_id: self.user.clone(),
                session_id: self.session.clone(),
                scope: Scope::parse(scope).unwrap(),
                details: GrantDetails::default(),
                authentication: Authentication { at: NOW, acr: "a".into(), amr: amr.into() },
                network: None,
                created_at: NOW,
            },
        };
        let granting = self.store.create_grant(new).await.unwrap();
        (secret, id, granting)
    }

    async fn flow(&self) -> Digest {
        let id = FlowId::mint().unwrap().digest();
        let flow = Flow { destination: Destination::Home, progress: Progress::default(), created_at: NOW };
        self.store.create_flow(id, self.binding, flow, NOW.plus(DAY)).await.unwrap();
        id
    }

    async fn exchange(&self, code: GrantSecret, first: &GrantSecret) -> Exchange {
        let refresh = Some(FirstRefreshToken { digest: first.digest(), idle_end: NOW.plus(DAY), network: None });
        let (client, binding) = (self.client.clone(), self.binding);
        self.store.exchange_code(code, binding, client, refresh, NOW.plus(DAY), NOW).await.unwrap()
    }

    /// A grant whose code is spent: its first refresh token.
    async fn refreshing(&self, scope: &str) -> (GrantSecret, GrantId) {
        let (code, id) = self.grant(scope).await;
        let first = GrantSecret::mint().unwrap().with_handle_of(&code);
        assert!(matches!(self.exchange(code, &first).await, Exchange::Exchanged(_)));
        (first, id)
    }

    async fn rotate(&self, token: &GrantSecret, leeway: u64, now: UnixTime) -> (Rotation, GrantSecret) {
        rotate(&self.store, &self.client, token, leeway, now).await
    }

    async fn lives_issued(&self, grant: &GrantId, issued_at: UnixTime) -> bool {
        let token = PersonsToken { grant: grant.clone(), jti: "jti".into(), issued_at };
        self.store.token_state(token, NOW).await.unwrap().is_some_and(|state| state.living)
    }

    async fn lives(&self, grant: &GrantId) -> bool {
        self.lives_issued(grant, NOW).await
    }
}

fn again(token: &GrantSecret) -> GrantSecret {
    use secrecy::ExposeSecret as _;
    let text = token.reveal("cs_rt_");
    GrantSecret::parse("cs_rt_", text.expose_secret()).unwrap()
}

async fn rotate(
    store: &Store,
    client: &ClientId,
    token: &GrantSecret,
    leeway: u64,
    now: UnixTime,
) -> (Rotation, GrantSecret) {
    let request = RotationRequest {
        presented: again(token),
        client_id: client.clone(),
        network: "192.0.2.0/24".into(),
        network_decides: true,
        idle: DAY,
        reuse_leeway: Duration::from_secs(leeway),
    };
    store.rotate_refresh_token(request, key(), now).await.unwrap()
}

#[actix_web::test]
async fn s24_of_32_that_rotate_one_token_one_wins_and_the_others_are_reuse() {
    let world = World::new().await;
    let (token, grant) = world.refreshing("openid").await;
    let results = join_all((0..32).map(|_| world.rotate(&token, 0, NOW))).await;
    assert_eq!(results.iter().filter(|(rotation, _)| matches!(rotation, Rotation::Rotated(_))).count(), 1);
    assert!(!world.lives(&grant).await, "reuse ends the grant");
    assert!(matches!(world.rotate(&results[0].1, 0, NOW).await.0, Rotation::Dead));
}

#[actix_web::test]
async fn s24_within_the_leeway_all_32_get_the_one_successor() {
    let world = World::new().await;
    let (token, grant) = world.refreshing("openid").await;
    let results = join_all((0..32).map(|_| world.rotate(&token, 10, NOW))).await;
    assert_eq!(results.iter().filter(|(rotation, _)| matches!(rotation, Rotation::Rotated(_))).count(), 1);
    assert_eq!(results.iter().filter(|(rotation, _)| matches!(rotation, Rotation::Repeated(_))).count(), 31);
    assert!(results.iter().all(|(_, next)| next.digest() == results[0].1.digest()));
    assert!(world.lives(&grant).await);
    // The leeway is over, or the successor was used: reuse.
    let late = NOW.plus(Duration::from_secs(10));
    assert!(matches!(world.rotate(&token, 10, late).await.0, Rotation::Reused(_)));
}

#[actix_web::test]
async fn s24_once_the_successor_is_spent_the_first_token_is_reuse_even_within_the_leeway() {
    let world = World::new().await;
    let (token, grant) = world.refreshing("openid").await;
    let (_, second) = world.rotate(&token, 10, NOW).await;
    let (rotation, third) = world.rotate(&second, 10, NOW).await;
    assert!(matches!(rotation, Rotation::Rotated(_)));
    assert!(matches!(world.rotate(&token, 10, NOW).await.0, Rotation::Reused(_)));
    assert!(matches!(world.rotate(&third, 10, NOW).await.0, Rotation::Dead));
    assert!(!world.lives(&grant).await);
}

#[actix_web::test]
async fn s11_of_32_that_spend_one_code_one_wins_and_the_grant_ends() {
    let world = World::new().await;
    let (code, grant) = world.grant("openid").await;
    let first = Arc::new(GrantSecret::mint().unwrap().with_handle_of(&code));
    let results = join_all((0..32).map(|_| world.exchange(again(&code), &first))).await;
    assert_eq!(results.iter().filter(|result| matches!(result, Exchange::Exchanged(_))).count(), 1);
    assert_eq!(results.iter().filter(|result| matches!(result, Exchange::Reused)).count(), 31);
    assert!(!world.lives(&grant).await);
    assert!(matches!(world.rotate(&first, 10, NOW).await.0, Rotation::Dead));
}

#[actix_web::test]
async fn s11_s28_codes_and_tokens_are_bound_and_expire() {
    let world = World::new().await;
    let (code, _) = world.grant("openid").await;
    let first = GrantSecret::mint().unwrap().with_handle_of(&code);
    let refresh = Some(FirstRefreshToken { digest: first.digest(), idle_end: NOW.plus(DAY), network: None });
    let spend = |binding: &'static [u8], client: ClientId, now| {
        let (store, code, refresh) = (world.store.clone(), again(&code), refresh.clone());
        async move { store.exchange_code(code, Digest::of(binding), client, refresh, NOW.plus(DAY), now).await.unwrap() }
    };
    let late = NOW.plus(Duration::from_mins(1));
    assert!(matches!(spend(b"other", world.client.clone(), NOW).await, Exchange::Unbound));
    assert!(matches!(spend(b"binding", ClientId::random(), NOW).await, Exchange::Unknown));
    assert!(matches!(spend(b"binding", world.client.clone(), late).await, Exchange::Dead));
    assert!(matches!(spend(b"binding", world.client.clone(), NOW).await, Exchange::Exchanged(_)));
    assert!(matches!(rotate(&world.store, &ClientId::random(), &first, 10, NOW).await.0, Rotation::Unknown));
    assert!(matches!(world.rotate(&first, 10, NOW.plus(DAY)).await.0, Rotation::Dead));
    assert!(matches!(world.rotate(&first, 10, NOW).await.0, Rotation::Rotated(_)));
}

#[actix_web::test]
async fn s26_s76_what_ends_above_ends_below_and_stays_ended() {
    let mut world = World::new().await;
    let (bound, bound_grant) = world.refreshing("openid").await;
    let (offline, offline_grant) = world.refreshing("openid offline_access").await;
    world.store.end_session(world.cookie, origin(), None, NOW).await.unwrap();
    assert!(matches!(world.rotate(&bound, 10, NOW).await.0, Rotation::Dead));
    assert!(!world.lives(&bound_grant).await && world.lives(&offline_grant).await);
    assert_eq!(world.sign_in(true).await, SignIn::Gone, "s74 an ended session does not go on");

    world.store.set_user_disabled(world.user.clone(), true, None, NOW).await.unwrap();
    assert!(matches!(world.rotate(&offline, 10, NOW).await.0, Rotation::Dead));
    world.store.set_user_disabled(world.user.clone(), false, None, NOW).await.unwrap();
    assert!(matches!(world.rotate(&offline, 10, NOW).await.0, Rotation::Dead), "opening the account revives nothing");
    assert!(!world.lives(&offline_grant).await);
}

#[actix_web::test]
async fn s73_a_sign_in_changes_the_cookie_and_idle_and_absolute_ends_hold() {
    let mut world = World::new().await;
    let before = world.cookie;
    assert_eq!(world.sign_in(true).await, SignIn::Done);
    let find = |cookie, idle_since, now| world.store.find_session(cookie, idle_since, now);
    let start = NOW.minus(DAY);
    assert!(find(before, start, NOW).await.unwrap().is_none());
    assert!(find(world.cookie, start, NOW).await.unwrap().is_some());
    assert!(find(world.cookie, NOW, NOW).await.unwrap().is_none(), "s77 idle");
    assert!(find(world.cookie, start, NOW.plus(DAY)).await.unwrap().is_none(), "s77 absolute");
}

#[actix_web::test]
async fn s25_a_restart_forgets_nothing() {
    let world = World::new().await;
    let (token, grant) = world.refreshing("openid offline_access").await;
    let (_, second) = world.rotate(&token, 0, NOW).await;
    let jti = uuid_v7(NOW);
    world.store.revoke_access_token(jti.clone(), Reason::RevokedByClient.by(Actor::System), NOW).await.unwrap();
    let reopened = Store::open(&world.url).unwrap();
    assert!(!reopened.is_client_token_spared(world.client.clone(), jti, NOW).await.unwrap());
    assert!(matches!(rotate(&reopened, &world.client, &second, 0, NOW).await.0, Rotation::Rotated(_)));
    assert!(matches!(rotate(&reopened, &world.client, &token, 0, NOW).await.0, Rotation::Reused(_)));
    let token = PersonsToken { grant, jti: "x".into(), issued_at: NOW };
    assert!(!reopened.token_state(token, NOW).await.unwrap().unwrap().living);
}

#[actix_web::test]
async fn s55_many_guesses_at_once_are_no_more_than_many_in_a_row() {
    let mut world = World::new().await;
    let account = || vec![Bucket::account("ada", None)];
    let user = world.user.clone();
    let failure = || Failure { buckets: account(), account: Some(user.clone()), origin: origin() };
    for _ in 0..5 {
        assert_eq!(world.store.throttled_until(account(), NOW).await.unwrap(), None);
        assert_eq!(world.store.record_failure(failure(), NOW).await.unwrap(), None);
    }
    let until = NOW.plus(Duration::from_secs(1));
    assert_eq!(world.store.throttled_until(account(), NOW).await.unwrap(), Some(until));
    assert_eq!(world.sign_in(true).await, SignIn::Blocked(until), "a right guess among them does not get in");
    assert_eq!(
        world.store.record_failure(failure(), NOW).await.unwrap(),
        Some(until),
        "nor does a wrong one look different"
    );
    let reopened = Store::open(&world.url).unwrap();
    assert!(reopened.throttled_until(account(), NOW).await.unwrap().is_some());
}

#[actix_web::test]
async fn s55_guesses_verified_at_the_same_time_are_counted_one_after_another() {
    let mut world = World::new().await;
    let user = world.user.clone();
    let buckets = || vec![Bucket::account("ada", None), Bucket::network("192.0.2.1")];
    let wrong = || Failure { buckets: buckets(), account: Some(user.clone()), origin: origin() };
    let counted = join_all((0..32).map(|_| world.store.record_failure(wrong(), NOW))).await;
    assert_eq!(counted.into_iter().filter(|until| until.as_ref().unwrap().is_none()).count(), 5);
    world.store.forget_failures(Bucket::account("ada", None)).await.unwrap();
    let (counted, right) = {
        let (again, cookie) = (SessionId::random(), SessionSecret::mint().unwrap().digest());
        let wrong = join_all((0..32).map(|_| world.store.record_failure(wrong(), NOW)));
        futures_util::future::join(wrong, world.sign_in_with(&again, cookie, false, SecondFactor::None)).await
    };
    let counted = counted.into_iter().filter(|until| until.as_ref().unwrap().is_none()).count();
    match right {
        SignIn::Done => assert!((5..=10).contains(&counted), "{counted} before and after the right one"),
        right => assert!(matches!(right, SignIn::Blocked(_)) && counted == 5, "{right:?}, {counted}"),
    }
    // Whoever was right is not slowed by what was counted before.
    world.store.forget_failures(Bucket::account("ada", None)).await.unwrap();
    assert_eq!(world.sign_in(true).await, SignIn::Done);
}

#[actix_web::test]
async fn s55_what_is_no_sign_in_in_the_end_forgives_no_guess_and_a_sign_in_does() {
    let mut world = World::new().await;
    let user = world.user.clone();
    let account = || vec![Bucket::account("ada", None)];
    let wrong = || Failure { buckets: account(), account: Some(user.clone()), origin: origin() };
    for _ in 0..4 {
        assert_eq!(world.store.record_failure(wrong(), NOW).await.unwrap(), None);
    }
    let spent = SecondFactor::Spend(FactorUse::Code { device_id: "none".into(), step: 1 });
    let (again, cookie) = (SessionId::random(), SessionSecret::mint().unwrap().digest());
    assert_eq!(world.sign_in_with(&again, cookie, false, spent).await, SignIn::Spent);
    assert_eq!(world.store.record_failure(wrong(), NOW).await.unwrap(), None);
    assert!(world.store.throttled_until(account(), NOW).await.unwrap().is_some(), "the fifth in a row");
    world.store.forget_failures(Bucket::account("ada", None)).await.unwrap();
    for _ in 0..4 {
        assert_eq!(world.store.record_failure(wrong(), NOW).await.unwrap(), None);
    }
    assert_eq!(world.sign_in(true).await, SignIn::Done);
    for _ in 0..4 {
        assert_eq!(world.store.record_failure(wrong(), NOW).await.unwrap(), None);
    }
    assert_eq!(world.store.throttled_until(account(), NOW).await.unwrap(), None, "the count began anew");
}

async fn events(world: &World) -> Vec<Event> {
    let listed = world.store.list_activity(world.user.clone(), 1000).await.unwrap();
    listed.into_iter().map(|activity| activity.event).collect()
}

#[actix_web::test]
async fn s111_what_happens_to_an_account_is_noted_with_the_fact_and_bounded() {
    let mut world = World::new().await;
    let noted = world.store.list_activity(world.user.clone(), 10).await.unwrap();
    let signed_in = noted.iter().find(|activity| activity.event == Event::SignedIn).unwrap();
    assert_eq!((noted.len(), &signed_in.origin), (2, &origin()), "World::new created the account and signed in");
    // A transaction that stores nothing notes nothing.
    world.store.set_password(world.user.clone(), "y".into(), true, None, NOW).await.unwrap();
    assert_eq!(world.sign_in(true).await, SignIn::Gone);
    let mut expected = events(&world).await;
    expected.sort_by_key(|event| event.as_str());
    assert_eq!(expected, [Event::AccountCreated, Event::PasswordChanged, Event::SignedIn]);
    // Guesses push out guesses alone.
    for second in 0..150 {
        let buckets = vec![Bucket::account(&second.to_string(), None)];
        let failure = Failure { buckets, account: Some(world.user.clone()), origin: origin() };
        world.store.record_failure(failure, NOW.plus(Duration::from_secs(second))).await.unwrap();
    }
    let all = events(&world).await;
    assert_eq!(all.iter().filter(|event| **event == Event::SignInFailed).count(), 100);
    assert_eq!(all.len(), 103);
    while world.store.sweep(NOW.plus(DAY * 90).plus(Duration::from_secs(200))).await.unwrap() > 0 {}
    assert!(events(&world).await.is_empty(), "none is kept for longer than 90 days");
}

#[actix_web::test]
async fn s76_a_password_set_while_the_old_one_was_verified_wins() {
    let mut world = World::new().await;
    world.store.set_password(world.user.clone(), "y".into(), true, None, NOW).await.unwrap();
    assert_eq!(world.sign_in(true).await, SignIn::Gone);
    assert_eq!(world.sign_in(false).await, SignIn::Gone);
}

#[actix_web::test]
async fn s59_of_many_first_apps_one_is_added_whatever_door_they_come_by() {
    let world = World::new().await;
    let mut apps = Vec::new();
    for number in 0..16 {
        apps.push(world.app(&number.to_string()).await);
    }
    let sign_ins: Vec<NewDevice> = apps.split_off(8);
    let cookies: Vec<_> =
        sign_ins.iter().map(|_| (SessionId::random(), SessionSecret::mint().unwrap().digest())).collect();
    let in_the_account = join_all(apps.into_iter().map(|app| world.add(app)));
    let on_the_way = join_all(
        sign_ins
            .into_iter()
            .zip(&cookies)
            .map(|(app, (id, cookie))| world.sign_in_with(id, *cookie, false, SecondFactor::Enrol(app))),
    );
    let (in_the_account, on_the_way) = futures_util::future::join(in_the_account, on_the_way).await;
    let added = in_the_account.iter().filter(|added| matches!(added, Added::Done { .. })).count();
    let enrolled = on_the_way.iter().filter(|done| matches!(done, SignIn::Enrolled { .. })).count();
    assert_eq!((added + enrolled, world.apps().await), (1, 1), "{in_the_account:?} {on_the_way:?}");
    // Nobody who came second by a door is let in by it.
    for (done, (_, cookie)) in on_the_way.iter().zip(&cookies) {
        let living = world.store.find_session(*cookie, NOW.minus(DAY), NOW).await.unwrap().is_some();
        assert_eq!(living, matches!(done, SignIn::Enrolled { .. }));
    }
    assert_eq!(world.add(world.app("late").await).await, Added::Gone);
    let late = SecondFactor::Enrol(world.app("later").await);
    assert_eq!(world.sign_in_with(&SessionId::random(), world.binding, false, late).await, SignIn::Gone);
    assert_eq!(world.apps().await, 1);
}

#[actix_web::test]
async fn s59_a_session_that_has_ended_adds_no_app_and_does_not_rise() {
    let world = World::new().await;
    let (one, other) = (world.app("one").await, world.app("other").await);
    assert!(world.store.end_session(world.cookie, origin(), None, NOW).await.unwrap());
    assert_eq!(world.add(one).await, Added::Gone);
    let rise = world.sign_in_with(&world.session, world.binding, true, SecondFactor::Enrol(other)).await;
    assert_eq!((rise, world.apps().await), (SignIn::Gone, 0));
    assert!(world.store.find_session(world.binding, NOW.minus(DAY), NOW).await.unwrap().is_none());
}

#[actix_web::test]
async fn s59_a_grant_that_was_decided_before_its_session_rose_is_not_given() {
    let world = World::new().await;
    let (token, grant) = world.refreshing("openid offline_access").await;
    assert!(world.lives(&grant).await);
    assert!(matches!(world.add(world.app("phone").await).await, Added::Done { .. }));
    assert!(!world.lives(&grant).await);
    assert!(matches!(world.rotate(&token, 10, NOW).await.0, Rotation::Dead));
    // The request had read the session a moment before. Its flow goes on.
    let flow = world.flow().await;
    let grant = async |amr: &str| world.try_grant("openid offline_access", amr, Some(flow)).await.2;
    assert_eq!(grant("pwd").await, Granting::Outdated);
    assert_eq!(grant("pwd otp mfa").await, Granting::Done);
    let (flow, user, session) = (world.flow().await, world.user.clone(), world.session.clone());
    assert!(world.store.end_session_by_owner(user, session, origin(), NOW).await.unwrap());
    assert_eq!(world.try_grant("openid", "pwd", Some(flow)).await.2, Granting::Gone);
}

#[actix_web::test]
async fn s32_nobody_is_named_by_anothers_identifier() {
    let world = World::new().await;
    // Whoever knows it from a token could else have the operator end their own account instead.
    for name in [world.user.as_str().to_owned(), world.user.as_str().to_uppercase()] {
        assert_eq!(world.store.create_user(new_user(&name)).await.unwrap(), Registered::Exists);
        let imported = world.store.import_users(vec![new_user("bob"), new_user(&name)]).await.unwrap();
        assert_eq!(imported, [name.as_str()]);
        let digest = Digest::of(name.as_bytes());
        let kind = LinkKind::Register;
        let link = NewLink { digest, kind, user_id: None, sealed: None, expires_at: NOW.plus(DAY) };
        assert!(world.store.create_link(link).await.unwrap());
        let registered = world.store.register(digest, new_user(&name), origin(), NOW).await.unwrap();
        assert_eq!(registered, Registration::Taken);
    }
    assert_eq!(world.store.list_users().await.unwrap().len(), 1);
}

#[actix_web::test]
async fn s39_an_assertion_identifier_is_taken_once() {
    let world = World::new().await;
    let id = Digest::of(b"jti");
    let taken = join_all((0..32).map(|_| world.store.take_assertion_id(id, NOW))).await;
    assert_eq!(taken.into_iter().filter(|taken| *taken.as_ref().unwrap()).count(), 1);
}

#[actix_web::test]
async fn what_sqlite_has_logged_is_moved_into_the_file_long_before_a_commit_would_do_it() {
    #[derive(diesel::QueryableByName)]
    struct Log {
        #[diesel(sql_type = diesel::sql_types::Integer)]
        log: i32,
        #[diesel(sql_type = diesel::sql_types::Integer)]
        checkpointed: i32,
    }
    use diesel::{Connection as _, RunQueryDsl as _};
    if support::postgres::on_postgres() {
        return;
    }
    let world = World::new().await;
    // Five pages each, twice as much as the log is left to have, and half of what a commit looks for.
    let page = "x".repeat(16 * 1024);
    for _ in 0..32 {
        let flows = (0..50).map(|_| {
            let destination = Destination::Account { page: page.clone() };
            let flow = Flow { destination, progress: Progress::default(), created_at: NOW };
            let id = FlowId::mint().unwrap().digest();
            world.store.create_flow(id, world.binding, flow, NOW.plus(DAY))
        });
        join_all(flows).await.into_iter().for_each(|stored| stored.unwrap());
    }
    let path = world.folder.path().join("countersign.db");
    let mut other = diesel::SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    // A connection knows of the log once it has read.
    diesel::sql_query("SELECT count(*) FROM flows").execute(&mut other).unwrap();
    support::wait_for("the log to be in the file", || {
        let log: Log = diesel::sql_query("PRAGMA wal_checkpoint(NOOP)").get_result(&mut other).unwrap();
        (log.log - log.checkpointed < 4096).then_some(())
    });
}

#[actix_web::test]
async fn a_flow_is_one_browsers_and_ends_once() {
    let world = World::new().await;
    let (id, browser) = (FlowId::mint().unwrap().digest(), Digest::of(b"browser"));
    let flow = Flow { destination: Destination::Home, progress: Progress::default(), created_at: NOW };
    world.store.create_flow(id, browser, flow, NOW.plus(DAY)).await.unwrap();
    assert!(world.store.find_flow(id, Digest::of(b"other"), NOW).await.unwrap().is_none());
    assert!(world.store.find_flow(id, browser, NOW.plus(DAY)).await.unwrap().is_none());
    assert!(world.store.find_flow(id, browser, NOW).await.unwrap().is_some());
    assert!(world.store.complete_flow(id).await.unwrap());
    assert!(!world.store.complete_flow(id).await.unwrap());
}

#[actix_web::test]
async fn an_answered_flow_is_there_for_a_moment_and_no_longer() {
    let world = World::new().await;
    let flow = world.flow().await;
    let answer = async |after: u64| {
        let at = NOW.plus(Duration::from_secs(after));
        let code = GrantSecret::mint().unwrap();
        let new = new_grant(&code, &world.user, &world.client, &world.session, "openid", at);
        world.store.create_grant(NewGrant { flow: Some(flow), ..new }).await.unwrap()
    };
    let is_there = async |after: u64| {
        let at = NOW.plus(Duration::from_secs(after));
        world.store.find_flow(flow, world.binding, at).await.unwrap().is_some()
    };
    assert!(is_there(3600).await);
    assert_eq!(answer(0).await, Granting::Done);
    // A second answer gives it no more time.
    assert!(is_there(9).await);
    assert_eq!(answer(9).await, Granting::Done);
    assert!(!is_there(10).await);
    assert_eq!(answer(10).await, Granting::Gone);
}

#[actix_web::test]
async fn a_sign_in_stores_what_its_client_is_given_or_stands_without_it() {
    let ground = Ground::new(NOW).await;
    let (person, client) = (&ground.people[0], &ground.clients[0]);
    let flow = FlowId::mint().unwrap().digest();
    let stored = Flow { destination: Destination::Home, progress: Progress::default(), created_at: NOW };
    ground.store.create_flow(flow, flow, stored, NOW.plus(DAY)).await.unwrap();
    for (flow, amr, verified, outcome) in [
        (flow, "pwd", "x", SignIn::Granted),
        // Another tab took the flow, or what the grant says of the sign-in is not true of it.
        (FlowId::mint().unwrap().digest(), "pwd", "x", SignIn::Done),
        (flow, "pwd otp mfa", "x", SignIn::Done),
        (flow, "pwd", "a password from before", SignIn::Gone),
    ] {
        let code = GrantSecret::mint().unwrap();
        let mut new = new_session(person, NOW);
        new.verified_hash = Some(Digest::of(verified.as_bytes()));
        let mut grant = new_grant(&code, person, client, &new.session.id, "openid", NOW);
        grant.grant.authentication.amr = amr.into();
        let (binding, cookie) = (grant.code_binding, new.cookie);
        new.grant = Some(NewGrant { flow: Some(flow), ..grant });
        assert_eq!(ground.store.sign_in(new, NOW).await.unwrap(), outcome);
        let lives = ground.store.find_session(cookie, NOW.minus(DAY), NOW).await.unwrap().is_some();
        assert_eq!(lives, outcome != SignIn::Gone);
        let exchanged = ground.store.exchange_code(code, binding, client.clone(), None, NOW.plus(DAY), NOW).await;
        let is_given = matches!(exchanged.unwrap(), Exchange::Exchanged(_));
        assert_eq!(is_given, outcome == SignIn::Granted);
    }
}

#[actix_web::test]
async fn s59_a_browser_is_trusted_no_longer_than_today_allows() {
    let ground = Ground::new(NOW).await;
    let person = &ground.people[0];
    let token = TrustSecret::mint().unwrap().digest();
    let browser = TrustedBrowser {
        id: uuid_v7(NOW),
        address: "192.0.2.1".into(),
        user_agent: String::new(),
        created_at: NOW,
        expires_at: NOW.plus(DAY * 30),
    };
    let new = NewSession { trust: Some(NewTrust { token, browser }), ..new_session(person, NOW) };
    assert_eq!(ground.store.sign_in(new, NOW).await.unwrap(), SignIn::Done);
    for (longest, after, trusted) in [(30, 29, true), (90, 30, false), (7, 6, true), (7, 7, false)] {
        let (longest, at) = (DAY * longest, NOW.plus(DAY * after));
        let is_trusted = ground.store.is_trusted_browser(token, person.clone(), longest, at).await.unwrap();
        let listed = ground.store.list_trusted_browsers(person.clone(), longest, at).await.unwrap();
        assert_eq!((is_trusted, listed.len()), (trusted, usize::from(trusted)), "{longest:?} at {at}");
        assert!(listed.iter().all(|browser| browser.expires_at == NOW.plus(longest)));
    }
}

#[actix_web::test]
async fn sweeping_takes_what_is_dead_and_leaves_what_lives() {
    let world = World::new().await;
    let (_, living) = world.refreshing("openid offline_access").await;
    for _ in 0..500 {
        world.grant("openid").await;
    }
    // Codes ended a minute in; their rows stay until no token of them can live, a day later.
    let soon = NOW.plus(Duration::from_hours(1));
    assert_eq!(world.store.sweep(soon).await.unwrap(), 0);
    let later = NOW.plus(DAY).plus(Duration::from_hours(1));
    let mut swept = 0;
    while let rows @ 1.. = world.store.sweep(later).await.unwrap() {
        swept += rows;
    }
    // The codes, and the session that has run out meanwhile.
    assert_eq!(swept, 501);
    assert!(world.lives(&living).await);
}

#[actix_web::test]
async fn s115_a_session_that_ran_out_while_nobody_swept_is_told_of_before_its_row_goes() {
    const SESSIONS: u64 = 230;
    let ground = Ground::new(NOW).await;
    // Without it rows are found as they lie: those that run out last are looked at first.
    support::postgres::execute(&ground.database, "DROP INDEX sessions_expires_at");
    for n in 0..SESSIONS {
        let mut new = new_session(&ground.people[0], NOW);
        new.session.expires_at = NOW.plus(DAY).minus(Duration::from_secs(n));
        let session = new.session.id.clone();
        assert_eq!(ground.store.sign_in(new, NOW).await.unwrap(), SignIn::Done);
        let code = GrantSecret::mint().unwrap();
        let new = new_grant(&code, &ground.people[0], &ground.clients[0], &session, "openid", NOW);
        let binding = new.code_binding;
        ground.store.create_grant(new).await.unwrap();
        let client = ground.clients[0].clone();
        ground.store.exchange_code(code, binding, client, None, NOW.plus(DAY), NOW).await.unwrap();
    }
    let late = NOW.plus(DAY * 3);
    while ground.store.sweep(late).await.unwrap() > 0 {}
    let told = ground.store.list_logout_deliveries(Deliveries::All, true, late).await.unwrap();
    assert_eq!(u64::try_from(told.len()).unwrap(), SESSIONS);
}

#[actix_web::test]
async fn s120_a_newer_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = support::postgres::database(folder.path());
    let url = DatabaseUrl::parse(&text).unwrap();
    drop(Store::open(&url).unwrap());
    support::postgres::execute(&text, "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')");
    assert!(matches!(Store::open(&url), Err(StoreError::NewerSchema(_))));
}

#[actix_web::test]
async fn of_all_servers_one_holds_a_lease_and_a_dead_one_loses_it() {
    let world = World::new().await;
    let take = |holder: &str, now: UnixTime| {
        let (store, holder) = (world.store.clone(), holder.to_owned());
        async move { store.take_lease("sweep", holder, now.plus(Duration::from_mins(1)), now).await.unwrap() }
    };
    let names: Vec<String> = (0..32).map(|n| format!("node {n}")).collect();
    let taken = join_all(names.iter().map(|name| take(name, NOW))).await;
    let holder = &names[taken.iter().position(|taken| *taken).unwrap()];
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
    let later = NOW.plus(Duration::from_secs(50));
    assert!(take(holder, later).await, "its holder renews it");
    assert!(!take("other", later.plus(Duration::from_secs(59))).await);
    assert!(take("other", later.plus(Duration::from_mins(1))).await, "nobody renewed it");
    assert!(!take(holder, later.plus(Duration::from_mins(1))).await);
    world.store.release_leases("other".into(), later).await.unwrap();
    assert!(take(holder, later.plus(Duration::from_mins(1))).await, "it was handed back");
}

#[actix_web::test]
async fn additions_to_one_consent_at_once_are_all_kept() {
    let world = World::new().await;
    let decide = |scope: String| {
        let decision = Decision {
            user: world.user.clone(),
            client: world.client.clone(),
            client_name: "A".into(),
            allowed: Consent { scope: Scope::parse(&scope).unwrap(), ..Consent::default() },
            origin: Origin::default(),
            flow: FlowId::mint().unwrap().digest(),
            progress: Progress::default(),
        };
        world.store.record_consent(decision, NOW)
    };
    let all = join_all((0..16).map(|n| decide(format!("scope{n}")))).await;
    assert!(all.into_iter().all(|stored| stored.is_ok()));
    let consent = world.store.find_consent(world.user.clone(), world.client.clone()).await.unwrap().unwrap();
    assert_eq!(consent.scope.iter().count(), 16, "{:?}", consent.scope);
}

#[actix_web::test]
async fn s17_of_grants_and_a_consent_that_is_taken_back_at_once_nothing_is_left() {
    let world = World::new().await;
    let allowed = || Consent { scope: Scope::parse("openid").unwrap(), ..Consent::default() };
    for round in 1..=16 {
        let now = NOW.plus(Duration::from_secs(round));
        let decision = Decision {
            user: world.user.clone(),
            client: world.client.clone(),
            client_name: "A".into(),
            allowed: allowed(),
            origin: origin(),
            flow: world.binding,
            progress: Progress::default(),
        };
        world.store.record_consent(decision, now).await.unwrap();
        let grant = async || {
            let code = GrantSecret::mint().unwrap();
            let new = new_grant(&code, &world.user, &world.client, &world.session, "openid", now);
            world.store.create_grant(NewGrant { asked: Some(allowed()), ..new }).await.unwrap()
        };
        let taken_back =
            world.store.revoke_consent(world.user.clone(), world.client.clone(), "A".into(), origin(), now);
        let (_, taken_back) = futures_util::future::join(join_all((0..8).map(|_| grant())), taken_back).await;
        assert!(taken_back.unwrap());
        assert_eq!(grant().await, Granting::Outdated);
        let left = world.store.list_allowed(world.user.clone(), now).await.unwrap();
        assert!(left.is_empty(), "round {round}: {} applications", left.len());
    }
}

#[actix_web::test]
async fn s76_of_a_sign_in_and_an_account_that_is_shut_at_once_nothing_is_left() {
    let mut world = World::new().await;
    for _ in 0..8 {
        let user = world.user.clone();
        let store = world.store.clone();
        world.session = SessionId::random();
        let shut = async { store.set_user_disabled(user.clone(), true, None, NOW).await.unwrap() };
        let (_signed_in, _shut) = futures_util::future::join(world.sign_in(false), shut).await;
        world.store.set_user_disabled(user.clone(), false, None, NOW).await.unwrap();
        assert!(world.store.find_session(world.cookie, NOW.minus(DAY), NOW).await.unwrap().is_none());
    }
}

#[actix_web::test]
async fn a_second_server_of_one_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let url = DatabaseUrl::Sqlite(folder.path().join("test.db"));
    let first = Store::lock_for_serving(&url).unwrap();
    assert!(matches!(Store::lock_for_serving(&url), Err(StoreError::Locked(_))));
    drop(first);
    assert!(Store::lock_for_serving(&url).is_ok());
}

#[test]
fn both_databases_have_the_same_migrations() {
    let names = |backend: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(backend);
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("sqlite"), names("postgres"));
}
