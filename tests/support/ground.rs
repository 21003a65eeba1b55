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
    Exchange, FirstRefreshToken, NewGrant, NewSession, NewUser, PersonsToken, SecondFactor, SignIn, Store,
};
use serde_json::json;

pub const DAY: Duration = Duration::from_hours(24);

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

impl Ground {
    pub async fn new(at: UnixTime) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = super::postgres::database(folder.path());
        let store = Store::open(&DatabaseUrl::parse(&database).unwrap()).unwrap();
        let mut ground = Self { store, people: Vec::new(), clients: Vec::new(), database, _folder: folder };
        for name in ["ada", "eve"] {
            let id = UserId::random();
            let user = User {
                id: id.clone(),
                username: name.to_owned(),
                email: None,
                email_verified: false,
                is_admin: false,
                claims: serde_json::Map::new(),
                disabled_at: None,
                created_at: at,
                updated_at: at,
                has_second_factor: false,
            };
            ground.store.create_user(NewUser { user, password_hash: Some("x".to_owned()) }).await.unwrap();
            ground.people.push(id);
            let metadata = json!({"redirect_uris": ["https://a.example/cb"], "grant_types": ["authorization_code", "refresh_token"],
                "backchannel_logout_uri": "https://a.example:8443/logout"});
            let metadata = ClientMetadata::parse(metadata.as_object().unwrap()).unwrap();
            let client = ClientId::random();
            ground.store.create_client(Client::new(client.clone(), metadata, None, at)).await.unwrap();
            ground.clients.push(client);
        }
        ground
    }

    pub async fn give(&self, person: usize, client: usize, offline: bool, at: UnixTime) -> Given {
        let authentication = Authentication { at, acr: "a".into(), amr: "pwd".into() };
        let (session, cookie) = (SessionId::random(), SessionSecret::mint().unwrap().digest());
        let account = Bucket::account("nobody", None);
        let new = NewSession {
            session: Session {
                id: session.clone(),
                user_id: self.people[person].clone(),
                authentication: authentication.clone(),
                proven_at: at,
                last_seen_at: at,
                expires_at: at.plus(DAY),
                is_kept: false,
                auth_address: String::new(),
            },
            cookie,
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
        };
        assert_eq!(self.store.sign_in(new, at).await.unwrap(), SignIn::Done);
        let code = GrantSecret::mint().unwrap();
        let refresh = GrantSecret::mint().unwrap().with_handle_of(&code);
        let (grant, binding) = (GrantId::new(at), Digest::of(b"binding"));
        let scope = Scope::parse(if offline { "openid offline_access" } else { "openid" }).unwrap();
        let new = NewGrant {
            handle: code.handle_digest(),
            code: code.digest(),
            code_binding: binding,
            code_expires_at: at.plus(Duration::from_mins(1)),
            flow: None,
            grant: Grant {
                id: grant.clone(),
                client_id: self.clients[client].clone(),
                user_id: self.people[person].clone(),
                session_id: session.clone(),
                scope,
                details: GrantDetails::default(),
                authentication,
                network: None,
                created_at: at,
            },
        };
        let mut exists = self.store.create_grant(new).await.unwrap();
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
