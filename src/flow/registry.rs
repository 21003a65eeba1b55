//! Clients, resources and keys in memory, with the documents made of them ready as bytes. Rebuilt as a whole when the
//! database's change counter moves; bounded by what an operator registered.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::clock::UnixTime;
use crate::config::Config;
use crate::crypto::CryptoError;
use crate::crypto::keyring::Keyring;
use crate::crypto::opaque::Digest;
use crate::crypto::seal::SealingKey;
use crate::domain::client::Client;
use crate::domain::resource::Resource;
use crate::protocol::discovery;
use crate::protocol::error::OAuthError;
use crate::protocol::scope::{OIDC_SCOPES, Scope};
use crate::store::RegistryRows;

use super::access_token::VerifiedTokens;
use super::assurance;

/// A document that is the same for everybody: its bytes and their `ETag`.
pub struct Published {
    pub bytes: Bytes,
    pub etag: String,
}

impl Published {
    fn new(bytes: Bytes) -> Self {
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(Digest::of(&bytes).as_bytes().split_at(16).0));
        Self { bytes, etag }
    }
}

pub struct Registry {
    pub version: i64,
    clients: HashMap<String, Arc<Client>>,
    resources: HashMap<String, Resource>,
    /// What `UserInfo` accepts; it may be registered as a resource too.
    default_audience: String,
    pub keyring: Keyring,
    pub jwks: Published,
    pub discovery: Published,
    /// The `frame-ancestors` of the page that answers for `session_state`.
    pub framing_origins: String,
    /// Anew with every reading, so that what a removed key signed is gone with it.
    pub verified_tokens: VerifiedTokens,
}

/// No header of ours is longer.
const MOST_ORIGINS: usize = 6 * 1024;

/// The origins of all clients' redirect URIs as Content-Security-Policy writes them, which knows no IPv6 addresses. Too many
/// for a header, they are all of https: whoever frames the page learns nothing without a `session_state` of their own.
fn framing_origins<'a>(clients: impl Iterator<Item = &'a Client>) -> String {
    let mut origins: Vec<&str> =
        clients.flat_map(|client| &client.origins).map(String::as_str).filter(|origin| !origin.contains('[')).collect();
    origins.sort_unstable();
    origins.dedup();
    match origins.join(" ") {
        none if none.is_empty() => "'none'".to_owned(),
        many if many.len() > MOST_ORIGINS => "https:".to_owned(),
        list => list,
    }
}

impl Registry {
    /// # Errors
    /// When a signing key does not open with this key-encryption key.
    pub fn build(
        rows: RegistryRows,
        config: &Config,
        sealing: &SealingKey,
        now: UnixTime,
    ) -> Result<Self, CryptoError> {
        let keyring = Keyring::load(rows.keys, sealing, config.session.lifetime.max(config.session.keep), now)?;
        let resources: HashMap<_, _> = rows.resources.into_iter().map(|r| (r.identifier.clone(), r)).collect();
        let scopes = resources.values().flat_map(|resource| resource.scope.iter());
        let mut document = discovery::metadata(config.issuer.as_str(), scopes, &assurance::acr_values(config));
        if let Some(members) = document.as_object_mut().filter(|_| config.session.management) {
            members.insert("check_session_iframe".to_owned(), config.issuer.at("/check-session").into());
        }
        let framing_origins = framing_origins(rows.clients.iter());
        Ok(Self {
            version: rows.version,
            clients: rows.clients.into_iter().map(|c| (c.id.as_str().to_owned(), Arc::new(c))).collect(),
            framing_origins,
            jwks: Published::new(keyring.jwks.clone()),
            discovery: Published::new(serde_json::to_vec(&document)?.into()),
            resources,
            default_audience: config.access_token.audience.clone(),
            keyring,
            verified_tokens: VerifiedTokens::default(),
        })
    }

    #[must_use]
    pub fn client(&self, id: &str) -> Option<&Arc<Client>> {
        self.clients.get(id)
    }

    pub fn clients(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.clients.values()
    }

    #[must_use]
    pub fn resource(&self, identifier: &str) -> Option<&Resource> {
        self.resources.get(identifier)
    }

    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// Whether browser code of this origin belongs to some registered client.
    #[must_use]
    pub fn knows_origin(&self, origin: &str) -> bool {
        self.clients.values().any(|client| client.origins.iter().any(|own| own == origin))
    }

    fn owners<'a>(&'a self, scope: &'a str) -> impl Iterator<Item = &'a Resource> {
        self.resources.values().filter(move |resource| resource.scope.contains(scope))
    }

    /// Whether a scope means something here at all.
    #[must_use]
    pub fn knows_scope(&self, scope: &str) -> bool {
        self.owners(scope).next().is_some()
    }

    /// Checks the resources that a client names (RFC 8707 section 2): registered, and its to use. The issuer's own
    /// audience may always be named.
    ///
    /// # Errors
    /// `invalid_target`.
    pub fn check_resource(&self, client: &Client, identifier: &str, default_audience: &str) -> Result<(), OAuthError> {
        let known = identifier == default_audience || self.resources.contains_key(identifier);
        if known && (identifier == default_audience || client.may_use_resource(identifier)) {
            return Ok(());
        }
        Err(OAuthError::invalid_target("The `resource` is not one that this client may have a token for."))
    }

    /// The resources that a request without `resource` means: those that own the scopes it asks for, as far as its client
    /// may have tokens for them (RFC 9068 section 3).
    pub fn meant_resources<'a>(&'a self, client: &'a Client, scope: &'a Scope) -> impl Iterator<Item = &'a Resource> {
        self.resources.values().filter(|resource| {
            client.may_use_resource(&resource.identifier) && resource.scope.iter().any(|s| scope.contains(s))
        })
    }

    /// Whether some scope of this client belongs to a resource.
    #[must_use]
    pub fn has_scopes_of_resources(&self, client: &Client) -> bool {
        client.metadata.scope.iter().flat_map(Scope::iter).any(|scope| self.knows_scope(scope))
    }

    /// The part of a scope that some token of an authorization for these resources may carry; where it names none, for those
    /// that its client may have tokens for. What belongs to other resources alone is left out.
    #[must_use]
    pub fn scope_within(&self, client: &Client, resources: &[String], scope: &Scope) -> Scope {
        let within = |resource: &Resource| match resources {
            [] => client.may_use_resource(&resource.identifier),
            named => named.contains(&resource.identifier),
        };
        scope.retain(|scope| {
            let mut owners = self.owners(scope).peekable();
            owners.peek().is_none() || owners.any(within)
        })
    }

    /// The part of a granted scope that a token for this audience carries: the audience's own scopes and those that
    /// belong to no resource. The scopes of OpenID Connect belong to `UserInfo`, so they stay out of tokens for others.
    #[must_use]
    pub fn scope_for(&self, audience: &str, granted: &Scope) -> Scope {
        let elsewhere = audience != self.default_audience && self.resources.contains_key(audience);
        granted.retain(|scope| {
            if elsewhere && OIDC_SCOPES.contains(&scope) {
                return false;
            }
            let mut owners = self.owners(scope).peekable();
            owners.peek().is_none() || owners.any(|resource| resource.identifier == audience)
        })
    }
}
