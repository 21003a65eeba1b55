//! What the server keeps in memory: clients, resources, signing keys. Every change moves the counter that running
//! servers watch.

use diesel::prelude::*;
use serde_json::Value;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::client::Client;
use crate::domain::ids::ClientId;
use crate::domain::key::SigningKey;
use crate::domain::resource::Resource;
use crate::protocol::jose::SigningAlgorithm;
use crate::protocol::metadata::ClientMetadata;
use crate::protocol::scope::Scope;

use super::conn::{Conn, on_backend};
use super::holding::hold_given_to;
use super::postgres::tell;
use super::revocations::{Actor, Cause, Reason, Target, append};
use super::schema::{clients, counters, resources, signing_keys};
use super::{Store, StoreError};

const REGISTRY: &str = "registry";
/// Counts how often somebody asked whether the database takes writes.
const READINESS: &str = "readiness";

/// One reading of everything that is registered.
pub struct RegistryRows {
    pub version: i64,
    pub clients: Vec<Client>,
    pub resources: Vec<Resource>,
    pub keys: Vec<SigningKey>,
}

/// Whether something new was put in, or was there already.
#[derive(Debug, PartialEq, Eq)]
pub enum Registered {
    Done,
    Exists,
}

type ClientRow = (String, String, Option<Vec<u8>>, Option<Vec<u8>>, Option<i64>, i64, Option<String>);
type ResourceRow = (String, Option<String>, String, Option<i64>, Option<String>, Option<String>, i64);
type KeyRow = (String, String, String, Vec<u8>, i64, i64, Option<i64>);

/// Counts a change. The first statement of what must not run beside another change: the counter's row is held until the
/// transaction ends.
pub(super) fn changed(conn: &mut Conn) -> Result<(), StoreError> {
    let counter = diesel::update(counters::table.find(REGISTRY)).set(counters::value.eq(counters::value + 1));
    on_backend!(conn, |c| counter.execute(c)).map_err(StoreError::operation("counting a change"))?;
    tell(conn).map_err(StoreError::operation("telling of a change"))
}

/// The change counter.
pub(super) fn version(conn: &mut Conn) -> Result<i64, StoreError> {
    on_backend!(conn, |c| counters::table.find(REGISTRY).select(counters::value).first(c))
        .map_err(StoreError::operation("reading the change counter"))
}

/// Proves that the database takes writes. It counts, for SQLite does not write a value that stays as it is.
pub(super) fn write_something(conn: &mut Conn) -> Result<(), StoreError> {
    let first = (counters::name.eq(READINESS), counters::value.eq(1));
    let insert = diesel::insert_into(counters::table).values(first).on_conflict(counters::name).do_update();
    let count = insert.set(counters::value.eq(counters::value + 1));
    on_backend!(conn, |c| count.execute(c)).map_err(StoreError::operation("writing a counter"))?;
    Ok(())
}

/// Holds the counter until the transaction ends, and changes nothing.
pub(super) fn touch(conn: &mut Conn) -> Result<(), StoreError> {
    let same = diesel::update(counters::table.find(REGISTRY)).set(counters::value.eq(counters::value));
    on_backend!(conn, |c| same.execute(c)).map_err(StoreError::operation("writing the change counter"))?;
    Ok(())
}

fn client(row: ClientRow) -> Result<Client, StoreError> {
    let (id, metadata, secret, previous, previous_until, created_at, _destination) = row;
    let metadata = serde_json::from_str(&metadata).map_err(|error| StoreError::corrupt("client", error))?;
    let digest = |bytes: Option<Vec<u8>>| bytes.and_then(|bytes| Digest::from_stored(&bytes));
    let mut client =
        Client::new(ClientId::from_stored(id), metadata, digest(secret), UnixTime::from_millis(created_at));
    client.previous_secret = digest(previous).zip(previous_until.map(UnixTime::from_millis));
    Ok(client)
}

fn resource(row: ResourceRow) -> Result<Resource, StoreError> {
    let (identifier, name, scope, lifetime, algorithm, resource_server, created_at) = row;
    Ok(Resource {
        identifier,
        name,
        scope: Scope::parse(&scope).map_err(|error| StoreError::corrupt("scope", error))?,
        access_token_lifetime: lifetime
            .and_then(|millis| u64::try_from(millis).ok())
            .map(std::time::Duration::from_millis),
        access_token_signing_alg: algorithm.as_deref().and_then(SigningAlgorithm::parse),
        resource_server: resource_server.map(ClientId::from_stored),
        created_at: UnixTime::from_millis(created_at),
    })
}

fn key(row: KeyRow) -> Result<SigningKey, StoreError> {
    let (key_id, algorithm, public_jwk, sealed_private, created_at, active_at, expires_at) = row;
    Ok(SigningKey {
        algorithm: SigningAlgorithm::parse(&algorithm).ok_or_else(|| StoreError::corrupt("algorithm", &algorithm))?,
        public_jwk: serde_json::from_str::<Value>(&public_jwk).map_err(|error| StoreError::corrupt("key", error))?,
        key_id,
        sealed_private,
        created_at: UnixTime::from_millis(created_at),
        active_at: UnixTime::from_millis(active_at),
        expires_at: expires_at.map(UnixTime::from_millis),
    })
}

fn insert_key(conn: &mut Conn, key: &SigningKey) -> Result<(), StoreError> {
    let row = (
        signing_keys::key_id.eq(&key.key_id),
        signing_keys::algorithm.eq(key.algorithm.as_str()),
        signing_keys::public_jwk.eq(key.public_jwk.to_string()),
        signing_keys::sealed_private.eq(&key.sealed_private),
        signing_keys::created_at.eq(key.created_at.millis()),
        signing_keys::active_at.eq(key.active_at.millis()),
        signing_keys::expires_at.eq(key.expires_at.map(UnixTime::millis)),
    );
    on_backend!(conn, |c| diesel::insert_into(signing_keys::table).values(row).execute(c))
        .map_err(StoreError::operation("storing a signing key"))?;
    Ok(())
}

/// The body of [`Store::rotate_key`].
pub(super) fn replace_key(
    conn: &mut Conn,
    successor: &SigningKey,
    retire_at: Option<UnixTime>,
    now: UnixTime,
) -> Result<(), StoreError> {
    changed(conn)?;
    // A key that is to sign from later on has signed nothing yet, and would take over from this one again.
    let overtaken = signing_keys::table
        .filter(signing_keys::algorithm.eq(successor.algorithm.as_str()))
        .filter(signing_keys::active_at.gt(successor.active_at.millis()));
    on_backend!(conn, |c| diesel::delete(overtaken).execute(c))
        .map_err(StoreError::operation("removing an overtaken signing key"))?;
    let older = signing_keys::table.filter(signing_keys::algorithm.eq(successor.algorithm.as_str()));
    let failed = StoreError::operation("retiring a signing key");
    if let Some(at) = retire_at {
        let living = older.filter(signing_keys::expires_at.is_null());
        let update = diesel::update(living).set(signing_keys::expires_at.eq(at.millis()));
        on_backend!(conn, |c| update.execute(c)).map_err(failed)?;
    } else {
        let delete = diesel::delete(older).returning(signing_keys::key_id);
        let gone: Vec<String> = on_backend!(conn, |c| delete.get_results(c)).map_err(failed)?;
        for key_id in &gone {
            append(conn, Target::Key(key_id), &Reason::KeyRevoked.by(Actor::Operator), now, now)?;
        }
    }
    insert_key(conn, successor)
}

/// All signing keys.
pub(super) fn read_keys(conn: &mut Conn) -> Result<Vec<SigningKey>, StoreError> {
    let rows: Vec<KeyRow> = on_backend!(conn, |c| signing_keys::table.load(c))
        .map_err(StoreError::operation("reading the signing keys"))?;
    rows.into_iter().map(key).collect()
}

impl Store {
    /// The counter of changes: when it moved, [`Store::registry`] has something new.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn registry_version(&self) -> Result<i64, StoreError> {
        self.read(version).await
    }

    /// Everything registered, with the counter read first: a change in between is seen again, never missed.
    ///
    /// # Errors
    /// When the database cannot be read or holds what does not read back.
    pub async fn registry(&self) -> Result<RegistryRows, StoreError> {
        let version = self.registry_version().await?;
        self.read(move |conn| {
            let failed = || StoreError::operation("reading the registry");
            let client_rows: Vec<ClientRow> = on_backend!(conn, |c| clients::table.load(c)).map_err(failed())?;
            let resource_rows: Vec<ResourceRow> = on_backend!(conn, |c| resources::table.load(c)).map_err(failed())?;
            let key_rows: Vec<KeyRow> = on_backend!(conn, |c| signing_keys::table.load(c)).map_err(failed())?;
            Ok(RegistryRows {
                version,
                clients: client_rows.into_iter().map(client).collect::<Result<_, _>>()?,
                resources: resource_rows.into_iter().map(resource).collect::<Result<_, _>>()?,
                keys: key_rows.into_iter().map(key).collect::<Result<_, _>>()?,
            })
        })
        .await
    }

    /// # Errors
    /// When the database cannot be written.
    pub async fn create_client(&self, client: Client) -> Result<(), StoreError> {
        self.write(move |conn| {
            let metadata =
                serde_json::to_string(&client.metadata).map_err(|error| StoreError::corrupt("client", error))?;
            let row = (
                clients::client_id.eq(client.id.as_str()),
                clients::metadata.eq(metadata),
                clients::secret_digest.eq(client.secret.as_ref().map(|digest| digest.as_bytes().to_vec())),
                clients::created_at.eq(client.created_at.millis()),
                clients::logout_destination.eq(client.metadata.backchannel_logout_uri.as_deref()),
            );
            on_backend!(conn, |c| diesel::insert_into(clients::table).values(row).execute(c))
                .map_err(StoreError::operation("storing a client"))?;
            changed(conn)
        })
        .await
    }

    /// Replaces what is registered of a client, not its secrets. False when there is no such client.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn update_client(&self, id: ClientId, metadata: ClientMetadata) -> Result<bool, StoreError> {
        self.write(move |conn| {
            changed(conn)?;
            let text = serde_json::to_string(&metadata).map_err(|error| StoreError::corrupt("client", error))?;
            let update = diesel::update(clients::table.find(id.as_str())).set((
                clients::metadata.eq(text),
                clients::logout_destination.eq(metadata.backchannel_logout_uri.as_deref()),
            ));
            let rows = on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("changing a client"))?;
            Ok(rows == 1)
        })
        .await
    }

    /// Replaces the secret; the one before stays good until then. False when there is no such client.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn rotate_client_secret(
        &self,
        id: ClientId,
        secret: Digest,
        previous_until: UnixTime,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write(move |conn| {
            changed(conn)?;
            let update = diesel::update(clients::table.find(id.as_str())).set((
                clients::previous_secret_digest.eq(clients::secret_digest),
                clients::previous_secret_until.eq(previous_until.millis()),
                clients::secret_digest.eq(secret.as_bytes().as_slice()),
            ));
            let rows =
                on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("rotating a client secret"))?;
            if rows == 1 {
                let cause = Reason::SecretRotated.by(Actor::Operator);
                append(conn, Target::Secret(&id), &cause, previous_until.max(now), now)?;
            }
            Ok(rows == 1)
        })
        .await
    }

    /// Removes a client and, with it, its grants, its tokens and the consents given to it. False when there is none.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn delete_client(&self, id: ClientId, now: UnixTime) -> Result<bool, StoreError> {
        self.write(move |conn| {
            changed(conn)?;
            hold_given_to(conn, &id)?;
            let delete = diesel::delete(clients::table.find(id.as_str()));
            let rows = on_backend!(conn, |c| delete.execute(c)).map_err(StoreError::operation("deleting a client"))?;
            if rows == 1 {
                append(conn, Target::Client(&id), &Reason::ClientDeleted.by(Actor::Operator), now, now)?;
            }
            Ok(rows == 1)
        })
        .await
    }

    /// # Errors
    /// When the database cannot be written.
    pub async fn create_resource(&self, resource: Resource) -> Result<Registered, StoreError> {
        self.write(move |conn| {
            let lifetime = resource.access_token_lifetime.and_then(|span| i64::try_from(span.as_millis()).ok());
            let row = (
                resources::identifier.eq(&resource.identifier),
                resources::name.eq(&resource.name),
                resources::scope.eq(resource.scope.as_str()),
                resources::access_token_lifetime.eq(lifetime),
                resources::access_token_signing_alg.eq(resource.access_token_signing_alg.map(SigningAlgorithm::as_str)),
                resources::resource_server.eq(resource.resource_server.as_ref().map(ClientId::as_str)),
                resources::created_at.eq(resource.created_at.millis()),
            );
            let insert = diesel::insert_into(resources::table).values(row).on_conflict_do_nothing();
            let rows = on_backend!(conn, |c| insert.execute(c)).map_err(StoreError::operation("storing a resource"))?;
            if rows == 0 {
                return Ok(Registered::Exists);
            }
            changed(conn)?;
            Ok(Registered::Done)
        })
        .await
    }

    /// False when there is no such resource.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn delete_resource(&self, identifier: String) -> Result<bool, StoreError> {
        self.write(move |conn| {
            let delete = diesel::delete(resources::table.find(identifier));
            let rows =
                on_backend!(conn, |c| delete.execute(c)).map_err(StoreError::operation("deleting a resource"))?;
            changed(conn)?;
            Ok(rows == 1)
        })
        .await
    }

    /// Adds keys where there is none of their algorithm: the first start, or a new algorithm after an upgrade.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn add_first_keys(&self, keys: Vec<SigningKey>) -> Result<(), StoreError> {
        self.write(move |conn| {
            // Servers that start together look one after another.
            touch(conn)?;
            for key in keys {
                let same = signing_keys::table.filter(signing_keys::algorithm.eq(key.algorithm.as_str())).count();
                let count: i64 = on_backend!(conn, |c| same.get_result(c))
                    .map_err(StoreError::operation("counting signing keys"))?;
                if count == 0 {
                    insert_key(conn, &key)?;
                    changed(conn)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Adds the successor and lets the keys before it go at `retire_at`, when the last token they signed is dead; without it
    /// they are removed at once and for good, being in the wrong hands. Keys that
    /// wait to sign from a later moment than the successor go at once.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn rotate_key(
        &self,
        successor: SigningKey,
        retire_at: Option<UnixTime>,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.write(move |conn| replace_key(conn, &successor, retire_at, now)).await
    }

    /// Removes one key, which is in the wrong hands, with all that it signed; `successor` signs in its place, where it is
    /// needed. The number of the entry in the log; `None` when there is no such key.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn revoke_key(
        &self,
        key_id: String,
        successor: Option<SigningKey>,
        cause: Cause,
        now: UnixTime,
    ) -> Result<Option<i64>, StoreError> {
        self.write(move |conn| {
            changed(conn)?;
            let delete = diesel::delete(signing_keys::table.find(&key_id));
            let rows =
                on_backend!(conn, |c| delete.execute(c)).map_err(StoreError::operation("removing a signing key"))?;
            if rows == 0 {
                return Ok(None);
            }
            if let Some(successor) = &successor {
                insert_key(conn, successor)?;
            }
            let sequence = append(conn, Target::Key(&key_id), &cause, now, now)?;
            Ok(Some(sequence))
        })
        .await
    }
}
