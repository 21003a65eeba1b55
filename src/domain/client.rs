//! Clients as they are registered.

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::protocol::metadata::ClientMetadata;

use super::ids::ClientId;

/// A registered client.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: ClientId,
    pub metadata: ClientMetadata,
    pub secret: Option<Digest>,
    /// The secret before the last rotation, still good until then.
    pub previous_secret: Option<(Digest, UnixTime)>,
    pub created_at: UnixTime,
    /// The origins of its redirect URIs: where its browser code runs.
    pub origins: Vec<String>,
}

impl Client {
    #[must_use]
    pub fn new(id: ClientId, metadata: ClientMetadata, secret: Option<Digest>, created_at: UnixTime) -> Self {
        let mut origins: Vec<String> = metadata
            .redirect_uris
            .iter()
            .filter_map(super::super::protocol::redirect_uri::RedirectUri::origin)
            .collect();
        origins.sort_unstable();
        origins.dedup();
        Self { id, metadata, secret, previous_secret: None, created_at, origins }
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.client_name.as_deref().unwrap_or(self.id.as_str())
    }

    /// Whether a presented secret is this client's. Every candidate is compared, in constant time.
    #[must_use]
    pub fn accepts_secret(&self, presented: &Digest, now: UnixTime) -> bool {
        let current = self.secret.as_ref().is_some_and(|secret| secret.equals(presented));
        let previous =
            self.previous_secret.as_ref().is_some_and(|(secret, until)| secret.equals(presented) && *until > now);
        current | previous
    }

    #[must_use]
    pub fn may_use_resource(&self, identifier: &str) -> bool {
        self.metadata.resources.as_ref().is_none_or(|allowed| allowed.iter().any(|one| one == identifier))
    }
}
