//! Links of mails in the store, with a clock of our own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use countersign::clock::UnixTime;
use countersign::config::DatabaseUrl;
use countersign::crypto::opaque::{Digest, MailLink};
use countersign::domain::activity::{Event, Origin};
use countersign::domain::ids::UserId;
use countersign::domain::link::LinkKind;
use countersign::domain::throttle::Bucket;
use countersign::domain::user::User;
use countersign::store::{
    EmailConfirmation, Failure, NewLink, NewUser, PasswordReset, Registered, Registration, Store,
};
use tempfile::TempDir;

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

fn person(name: &str) -> NewUser {
    let user = User {
        id: UserId::random(),
        username: name.to_owned(),
        email: Some(format!("{name}@example.com")),
        email_verified: true,
        is_admin: false,
        claims: serde_json::Map::new(),
        disabled_at: None,
        created_at: NOW,
        updated_at: NOW,
        has_second_factor: false,
    };
    NewUser { user, password_hash: Some("old".to_owned()) }
}

struct World {
    store: Store,
    ada: UserId,
    _folder: TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::Sqlite(folder.path().join("x.db"))).unwrap();
        let ada = person("ada");
        let id = ada.user.id.clone();
        assert_eq!(store.create_user(ada).await.unwrap(), Registered::Done);
        Self { store, ada: id, _folder: folder }
    }

    async fn link(&self, kind: LinkKind, user: Option<&UserId>) -> Digest {
        let digest = MailLink::mint().unwrap().digest();
        let expires_at = NOW.plus(kind.lifetime());
        let link = NewLink { digest, kind, user_id: user.cloned(), sealed: None, expires_at };
        assert!(self.store.create_link(link).await.unwrap());
        digest
    }

    async fn is_open(&self, link: Digest, kind: LinkKind, now: UnixTime) -> bool {
        self.store.find_link(link, kind, now).await.unwrap().is_some()
    }

    fn reset(&self, link: Digest, hash: &str) -> PasswordReset {
        let (user_id, password_hash) = (self.ada.clone(), hash.to_owned());
        PasswordReset { link, user_id, password_hash, origin: Origin::default(), mail: None }
    }

    async fn hash(&self) -> String {
        self.store.find_credential("ada").await.unwrap().unwrap().password_hash.unwrap()
    }
}

#[actix_web::test]
async fn s64_a_link_runs_out_and_is_swept() {
    let world = World::new().await;
    let kind = LinkKind::ResetPassword;
    assert_eq!(kind.lifetime(), Duration::from_mins(15));
    let link = world.link(kind, Some(&world.ada)).await;
    let (last, end) = (NOW.plus(Duration::from_millis(899_999)), NOW.plus(kind.lifetime()));
    assert!(world.is_open(link, kind, last).await && !world.is_open(link, kind, end).await);
    assert!(!world.store.reset_password(world.reset(link, "new"), end).await.unwrap());
    assert_eq!(world.hash().await, "old");
    world.store.sweep(last).await.unwrap();
    assert!(world.is_open(link, kind, last).await);
    world.store.sweep(end.plus(Duration::from_secs(1))).await.unwrap();
    assert!(!world.is_open(link, kind, NOW).await, "it is gone, not only too old");
}

#[actix_web::test]
async fn s64_of_32_that_use_one_link_at_once_one_wins_and_the_link_serves_nothing_else() {
    let world = World::new().await;
    let link = world.link(LinkKind::ResetPassword, Some(&world.ada)).await;
    assert!(!world.is_open(link, LinkKind::ConfirmEmail, NOW).await);
    assert_eq!(world.store.register(link, person("eve"), Origin::default(), NOW).await.unwrap(), Registration::Gone);
    let other = PasswordReset { user_id: UserId::random(), ..world.reset(link, "stolen") };
    assert!(!world.store.reset_password(other, NOW).await.unwrap());
    let hashes: Vec<String> = (0..32).map(|number| format!("new {number}")).collect();
    let all = hashes.iter().map(|hash| world.store.reset_password(world.reset(link, hash), NOW));
    let won: Vec<bool> = futures_util::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let winner = won.iter().position(|won| *won).unwrap();
    assert_eq!(world.hash().await, format!("new {winner}"));
    let events = world.store.list_activity(world.ada.clone(), 100).await.unwrap();
    assert_eq!(events.iter().filter(|activity| activity.event == Event::PasswordReset).count(), 1);
}

#[actix_web::test]
async fn s64_a_disabled_account_gets_no_link_and_uses_none() {
    let world = World::new().await;
    let link = world.link(LinkKind::ResetPassword, Some(&world.ada)).await;
    world.store.set_user_disabled(world.ada.clone(), true, None, NOW).await.unwrap();
    assert!(!world.store.reset_password(world.reset(link, "new"), NOW).await.unwrap());
    assert_eq!(world.hash().await, "old");
    let digest = MailLink::mint().unwrap().digest();
    let kind = LinkKind::ResetPassword;
    let link =
        NewLink { digest, kind, user_id: Some(world.ada.clone()), sealed: None, expires_at: NOW.plus(kind.lifetime()) };
    assert!(!world.store.create_link(link).await.unwrap());
}

#[actix_web::test]
async fn s68_an_address_that_somebody_has_by_now_is_not_given_to_another() {
    let world = World::new().await;
    world.store.create_user(person("bob")).await.unwrap();
    let confirm = |link, email: &str| EmailConfirmation {
        link,
        user_id: world.ada.clone(),
        email: email.to_owned(),
        origin: Origin::default(),
        mail: None,
    };
    let link = world.link(LinkKind::ConfirmEmail, Some(&world.ada)).await;
    assert!(!world.store.confirm_email(confirm(link, "BOB@example.com"), NOW).await.unwrap());
    let link = world.link(LinkKind::ConfirmEmail, Some(&world.ada)).await;
    let reset = world.link(LinkKind::ResetPassword, Some(&world.ada)).await;
    assert!(world.store.confirm_email(confirm(link, "new@example.com"), NOW).await.unwrap());
    assert!(!world.is_open(reset, LinkKind::ResetPassword, NOW).await, "it went to the address of before");
    assert!(!world.store.confirm_email(confirm(link, "newer@example.com"), NOW).await.unwrap());
    let ada = world.store.find_user(world.ada.clone()).await.unwrap().unwrap();
    assert_eq!((ada.email.as_deref(), ada.email_verified), (Some("new@example.com"), true));
}

#[actix_web::test]
async fn s82_of_two_that_confirm_one_name_or_address_one_gets_it() {
    let world = World::new().await;
    let register = async |new: NewUser| {
        let link = world.link(LinkKind::Register, None).await;
        world.store.register(link, new, Origin::default(), NOW).await.unwrap()
    };
    assert_eq!(register(person("grace")).await, Registration::Done);
    assert_eq!(register(person("GRACE")).await, Registration::Taken);
    let mut same_address = person("hopper");
    same_address.user.email = Some("Grace@Example.com".to_owned());
    assert_eq!(register(same_address).await, Registration::Taken);
    assert!(world.store.find_user_by_name("hopper").await.unwrap().is_none());
}

#[actix_web::test]
async fn s62_a_reset_opens_a_count_of_codes_that_had_shut_and_forgets_nothing_of_it() {
    let world = World::new().await;
    let codes = || vec![Bucket::second_factor(&world.ada, None)];
    let mut now = NOW;
    // Whoever guesses waits as they are told to, until the count is shut.
    let mut guess = async |times: usize| {
        for _ in 0..times {
            now = world.store.throttled_until(codes(), now).await.unwrap().unwrap_or(now);
            let failure = Failure { buckets: codes(), account: None, origin: Origin::default() };
            assert_eq!(world.store.record_failure(failure, now).await.unwrap(), None);
        }
        (now, world.store.throttled_until(codes(), now).await.unwrap().map(|until| until.since(now)))
    };
    let reset = async |at: UnixTime| {
        let kind = LinkKind::ResetPassword;
        let digest = MailLink::mint().unwrap().digest();
        let link = NewLink {
            digest,
            kind,
            user_id: Some(world.ada.clone()),
            sealed: None,
            expires_at: at.plus(kind.lifetime()),
        };
        assert!(world.store.create_link(link).await.unwrap());
        assert!(world.store.reset_password(world.reset(digest, "new"), at).await.unwrap());
        world.store.throttled_until(codes(), at).await.unwrap().map(|until| until.since(at))
    };
    let (quarter, year) = (Duration::from_mins(15), Duration::from_hours(24 * 365));
    // One that is not shut stays as it is.
    let (at, waits) = guess(6).await;
    assert_eq!((waits, reset(at).await), (Some(Duration::from_mins(1)), Some(Duration::from_mins(1))));
    let (at, waits) = guess(94).await;
    assert_eq!((waits, reset(at).await), (Some(year), Some(quarter)));
    let (_, waits) = guess(9).await;
    assert_eq!(waits, Some(quarter), "nine more, each a quarter of an hour after the other");
    assert_eq!(guess(1).await.1, Some(year));
}
