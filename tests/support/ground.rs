//! A database without a server, and what people and clients are given in it.

use std::time::Duration;

use countersign::clock::UnixTime;
use countersign::config::DatabaseUrl;
use countersign::crypto::opaque::{Digest, FlowId, GrantSecret, SessionSecret};
use countersign::domain::activity::Origin;
use countersign::domain::client::Client;
use countersign::domain::flow::Progress;
use countersign::domain::grant::{Grant, GrantDetails};
use countersign::domain::ids::{ClientId, GrantId, SessionId, UserId, uuid_v7};
use countersign::domain::session::{Authentication, Session};
use countersign::domain::throttle::Bucket;
use countersign::domain::user::User;
use countersign::protocol::metadata::ClientMetadata;
use countersign::protocol::scope::Scope;
use countersign::store::{
    Exchange, FirstRefreshToken, Granting, NewGrant, NewSession, NewUser, PersonsToken, SecondFactor, SignIn, Store,
};
use serde_json::json;

pub const DAY: Duration = Duration::from_hours(24);

/// A sign-in by password alone, in a browser that nobody was signed in in.
pub fn new_session(user: &UserId, at: UnixTime) -> NewSession {
    let account = Bucket::account(user.as_str(), None);
    NewSession {
        session: Session {
            id: SessionId::random(),
            user_id: user.clone(),
            authentication: Authentication { at, acr: "a".into(), amr: "pwd".into() },
            proven_at: at,
            last_seen_at: at,
            expires_at: at.plus(DAY),
            is_kept: false,
            auth_address: String::new(),
        },
        cookie: SessionSecret::mint().unwrap().digest(),
        origin: Origin::default(),
        continues: false,
        replaces: None,
        verified_hash: Some(Digest::of("x".as_bytes())),
        second_factor: SecondFactor::None,
        trust: None,
        notices: Vec::new(),
        rehashed: None,
        account: account.clone(),
        buckets: vec![account],
        flow: FlowId::mint().unwrap().digest(),
        progress: Progress::default(),
        grant: None,
    }
}

/// What [`new_session`] gives a client, to be had for this code.
pub fn new_grant(
    code: &GrantSecret,
    user: &UserId,
    client: &ClientId,
    session: &SessionId,
    scope: &str,
    at: UnixTime,
) -> NewGrant {
    NewGrant {
        handle: code.handle_digest(),
        code: code.digest(),
        code_binding: Digest::of(b"binding"),
        code_expires_at: at.plus(Duration::from_mins(1)),
        flow: None,
        asked: None,
        grant: Grant {
            id: GrantId::new(at),
            client_id: client.clone(),
            user_id: user.clone(),
            session_id: session.clone(),
            scope: Scope::parse(scope).unwrap(),
            details: GrantDetails::default(),
            authentication: Authentication { at, acr: "a".into(), amr: "pwd".into() },
            network: None,
            created_at: at,
        },
    }
}

/// A database with two people and two clients.
pub struct Ground {
    pub store: Store,
    pub people: Vec<UserId>,
    pub clients: Vec<ClientId>,
    pub database: String,
    _folder: tempfile::TempDir,
}

/// What was given at one instant: a session, a grant in it, an access token of that grant.
pub struct Given {
    pub person: usize,
    pub client: usize,
    pub at: UnixTime,
    pub offline: bool,
    pub session: SessionId,
    pub cookie: Digest,
    pub grant: GrantId,
    pub refresh: GrantSecret,
    /// Whether it was given at all: a rule may have been there before.
    pub exists: bool,
}

/// Somebody of whom nothing but a name is known.
pub fn new_user(id: UserId, name: &str, at: UnixTime) -> User {
    User {
        id,
        username: name.to_owned(),
        email: None,
        email_verified: false,
        is_admin: false,
        claims: serde_json::Map::new(),
        disabled_at: None,
        created_at: at,
        updated_at: at,
        has_second_factor: false,
    }
}

impl Ground {
    pub async fn new(at: UnixTime) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = super::postgres::database(folder.path());
        Self { _folder: folder, ..Self::on(database, at).await }
    }

    /// On PostgreSQL, whatever this pass of the tests runs on.
    pub async fn on(database: String, at: UnixTime) -> Self {
        let store = Store::open(&DatabaseUrl::parse(&database).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut ground = Self { store, people: Vec::new(), clients: Vec::new(), database, _folder: folder };
        for name in ["ada", "eve"] {
            let person = ground.person(name, at).await;
            ground.people.push(person);
            let client = ground.client(at).await;
            ground.clients.push(client);
        }
        ground
    }

    pub async fn person(&self, name: &str, at: UnixTime) -> UserId {
        let id = UserId::random();
        let user = new_user(id.clone(), name, at);
        self.store.create_user(NewUser { user, password_hash: Some("x".to_owned()) }).await.unwrap();
        id
    }

    pub async fn client(&self, at: UnixTime) -> ClientId {
        let metadata = json!({"redirect_uris": ["https://a.example/cb"], "grant_types": ["authorization_code", "refresh_token"],
            "backchannel_logout_uri": "https://a.example:8443/logout"});
        let metadata = ClientMetadata::parse(metadata.as_object().unwrap()).unwrap();
        let client = ClientId::random();
        self.store.create_client(Client::new(client.clone(), metadata, None, at)).await.unwrap();
        client
    }

    pub async fn give(&self, person: usize, client: usize, offline: bool, at: UnixTime) -> Given {
        let new = new_session(&self.people[person], at);
        let (session, cookie) = (new.session.id.clone(), new.cookie);
        assert_eq!(self.store.sign_in(new, at).await.unwrap(), SignIn::Done);
        let code = GrantSecret::mint().unwrap();
        let refresh = GrantSecret::mint().unwrap().with_handle_of(&code);
        let binding = Digest::of(b"binding");
        let scope = if offline { "openid offline_access" } else { "openid" };
        let new = new_grant(&code, &self.people[person], &self.clients[client], &session, scope, at);
        let grant = new.grant.id.clone();
        let mut exists = self.store.create_grant(new).await.unwrap() == Granting::Done;
        if exists {
            let first = FirstRefreshToken { digest: refresh.digest(), idle_end: at.plus(DAY), network: None };
            let spent = self
                .store
                .exchange_code(code, binding, self.clients[client].clone(), Some(first), at.plus(DAY), at)
                .await;
            exists = matches!(spent.unwrap(), Exchange::Exchanged(_));
        }
        Given { person, client, at, offline, session, cookie, grant, refresh, exists }
    }

    pub async fn token_lives(&self, given: &Given, issued_at: UnixTime, now: UnixTime) -> bool {
        let token = PersonsToken { grant: given.grant.clone(), jti: uuid_v7(issued_at), issued_at };
        self.store.token_state(token, now).await.unwrap().is_some_and(|state| state.living)
    }

    pub async fn refreshes(&self, given: &Given, now: UnixTime) -> bool {
        self.store.find_grant(&given.refresh, now).await.unwrap().is_some_and(|(_, living)| living)
    }

    pub async fn is_signed_in(&self, given: &Given, now: UnixTime) -> bool {
        self.store.find_session(given.cookie, now.minus(DAY), now).await.unwrap().is_some()
    }

    pub async fn sequence(&self) -> i64 {
        self.store.figures().await.unwrap().revocation_sequence
    }
}
