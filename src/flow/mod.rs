//! Use cases: one file each, downward only, no HTTP types. A flow is given everything that it needs by [`Context`].

pub mod access_token;
pub mod account;
pub mod assurance;
pub mod authorize;
pub mod backchannel;
pub mod client;
pub mod consent;
pub mod email_change;
pub mod enrolment;
pub mod interaction;
pub mod introspect;
pub mod issue;
pub mod letters;
pub mod links;
pub mod login;
pub mod logout;
pub mod mail;
pub mod password;
pub mod recent;
pub mod recovery;
pub mod registration;
pub mod registry;
pub mod revoke;
pub mod second_factor;
pub mod session;
pub mod token;
pub mod userinfo;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::clock::{Clock, UnixTime};
use crate::config::Config;
use crate::crypto::CryptoError;
use crate::crypto::opaque::DerivedKey;
use crate::crypto::password::PasswordHasher;
use crate::crypto::seal::SealingKey;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::protocol::error::OAuthError;
use crate::store::{Store, StoreError};

use client::RemoteKeys;
use registry::Registry;

/// What every flow stands on. Nothing in it is the truth of anything: that is the database's.
pub struct Context {
    pub config: Config,
    pub clock: Clock,
    pub store: Store,
    pub hasher: PasswordHasher,
    pub sealing: SealingKey,
    pub rotation_key: DerivedKey,
    pub known_browser_key: DerivedKey,
    pub session_key: DerivedKey,
    pub outbound: Outbound,
    /// One reading of clients, resources and keys; replaced within a second of a change.
    pub registry: ArcSwap<Registry>,
    pub remote_keys: RemoteKeys,
    pub metrics: Metrics,
    /// What this process calls itself where it leases something.
    pub node: String,
    /// Told to stop: what runs is finished, and nobody should be sent here any more.
    pub stopping: AtomicBool,
}

impl Context {
    #[must_use]
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn issuer(&self) -> &str {
        self.config.issuer.as_str()
    }

    /// The host that people know us by.
    #[must_use]
    pub fn service(&self) -> &str {
        self.config.issuer.url().authority()
    }

    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    /// Reads the registry anew when something in it changed, or a published key has expired; whether it did.
    ///
    /// # Errors
    /// When the database cannot be read or a key does not open.
    pub async fn refresh_registry(&self) -> Result<bool, StoreError> {
        let (version, held) = (self.store.registry_version().await?, self.registry());
        if version == held.version && !held.keyring.is_outdated(self.now()) {
            return Ok(false);
        }
        let rows = self.store.registry().await?;
        self.registry.store(Arc::new(Registry::build(rows, &self.config, &self.sealing, self.now())?));
        Ok(true)
    }
}

impl From<StoreError> for OAuthError {
    fn from(error: StoreError) -> Self {
        if error.is_temporary() { Self::temporarily_unavailable(error) } else { Self::server_error(error) }
    }
}

impl From<CryptoError> for OAuthError {
    fn from(error: CryptoError) -> Self {
        match error {
            CryptoError::PasswordQueueFull => Self::temporarily_unavailable(error),
            other => Self::server_error(other),
        }
    }
}
