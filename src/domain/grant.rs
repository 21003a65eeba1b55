//! Grants: what a person allowed a client at one authorization. Parent of its code, its refresh tokens and its access
//! tokens; ending the grant ends them all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::protocol::claims::ClaimsRequest;
use crate::protocol::scope::Scope;

use super::ids::{ClientId, GrantId, SessionId, UserId};
use super::session::Authentication;

#[derive(Clone, Debug)]
pub struct Grant {
    pub id: GrantId,
    pub client_id: ClientId,
    pub user_id: UserId,
    /// The browser session it came from. Its end ends the grant, unless `offline_access` was granted.
    pub session_id: SessionId,
    pub scope: Scope,
    pub details: GrantDetails,
    pub authentication: Authentication,
    /// The network that its refresh tokens were given to, where its client binds them to one.
    pub network: Option<String>,
    pub created_at: UnixTime,
}

/// The parts of a grant that no query asks for, stored as one JSON text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GrantDetails {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(default, skip_serializing_if = "ClaimsRequest::is_empty")]
    pub claims: ClaimsRequest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

impl Grant {
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.scope.contains(crate::protocol::scope::OFFLINE_ACCESS)
    }
}

/// What a person once allowed a client: shown then, and nothing beyond it given without asking again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Consent {
    pub scope: Scope,
    pub resources: BTreeSet<String>,
    /// Claims asked for one by one, beyond those of the scopes.
    pub claims: BTreeSet<String>,
}

impl Consent {
    #[must_use]
    pub fn covers(&self, asked: &Self) -> bool {
        asked.scope.is_subset_of(&self.scope)
            && asked.resources.is_subset(&self.resources)
            && asked.claims.is_subset(&self.claims)
    }

    #[must_use]
    pub fn with(&self, more: &Self) -> Self {
        Self {
            scope: self.scope.union(&more.scope),
            resources: self.resources.union(&more.resources).cloned().collect(),
            claims: self.claims.union(&more.claims).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s17_a_consent_covers_what_was_shown_and_nothing_more() {
        let consent = |scope: &str, resource: &str, claim: &str| Consent {
            scope: Scope::parse(scope).unwrap(),
            resources: BTreeSet::from([resource.to_owned()]),
            claims: BTreeSet::from([claim.to_owned()]),
        };
        let given = consent("openid email", "https://api.example", "name");
        assert!(given.covers(&consent("openid", "https://api.example", "name")));
        assert!(!given.covers(&consent("openid phone", "https://api.example", "name")));
        assert!(!given.covers(&consent("openid", "https://other.example", "name")));
        assert!(!given.covers(&consent("openid", "https://api.example", "phone_number")));
        assert!(given.with(&consent("phone", "https://other.example", "x")).covers(&given));
    }
}
