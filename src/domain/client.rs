//! Clients as they are registered.

use std::net::{IpAddr, Ipv6Addr};

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::protocol::metadata::{ClientMetadata, NetworkBinding, NetworkExtent};

use super::ids::ClientId;
use super::session::SignedIn;

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

    /// The network that an address belongs to, as far as this client's sessions and refresh tokens are bound to it.
    #[must_use]
    pub fn network_of(&self, address: &str) -> String {
        match (self.metadata.network_binding_extent, address.parse()) {
            (NetworkExtent::Address, _) | (_, Err(_)) => address.to_owned(),
            (NetworkExtent::Prefix, Ok(IpAddr::V4(address))) => {
                let [a, b, c, _] = address.octets();
                format!("{a}.{b}.{c}.0/24")
            }
            (NetworkExtent::Prefix, Ok(IpAddr::V6(address))) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        }
    }

    /// Whether a session is used from another network than the one where its person last proved who they are.
    #[must_use]
    pub fn sees_elsewhere(&self, signed_in: &SignedIn) -> bool {
        let proven = &signed_in.session.auth_address;
        self.metadata.network_binding != NetworkBinding::Off
            && !proven.is_empty()
            && self.network_of(proven) != self.network_of(&signed_in.address)
    }

    #[must_use]
    pub fn may_use_resource(&self, identifier: &str) -> bool {
        self.metadata.resources.as_ref().is_none_or(|allowed| allowed.iter().any(|one| one == identifier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_network_is_an_address_or_what_one_household_has() {
        let client = |extent: &str| {
            let members = json!({"redirect_uris": ["https://a.example/cb"], "network_binding_extent": extent});
            let metadata = ClientMetadata::parse(members.as_object().unwrap()).unwrap();
            Client::new(ClientId::random(), metadata, None, UnixTime::from_seconds(1))
        };
        let (prefix, address) = (client("prefix"), client("address"));
        assert_eq!(prefix.network_of("192.0.2.7"), "192.0.2.0/24");
        assert_eq!(prefix.network_of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(address.network_of("192.0.2.7"), "192.0.2.7");
        assert_eq!(prefix.network_of("unknown"), "unknown");
    }
}
