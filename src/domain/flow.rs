//! A sign-in on its way: what was asked, and which steps this browser has proven in it.

use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::protocol::authorization::AuthorizationRequest;

use super::ids::{ClientId, SessionId, UserId};

/// What the person is on the way to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// The answer to a client's authorization request.
    Client(Box<ClientDestination>),
    /// The signed-in home.
    Home,
    /// A page of the account where something is changed: whoever arrives there has just proven who they are. An address
    /// of ours, written by the page itself and never taken from a request.
    Account { page: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientDestination {
    pub client_id: ClientId,
    pub request: AuthorizationRequest,
    /// The person that `id_token_hint`, or `claims` by one name, says it must be.
    pub required_user: Option<UserId>,
}

impl ClientDestination {
    /// Whether the answer may be about this person (Core sections 3.1.2.2 and 5.5.1).
    #[must_use]
    pub fn may_be_about(&self, user: &UserId) -> bool {
        self.required_user.as_ref().is_none_or(|hinted| hinted == user)
            && self.request.claims.required_subjects().is_none_or(|named| named.contains(&user.as_str()))
    }
}

/// Each step writes one fact here; only the dispatcher reads them (RFC 9700 section 4.11: no proof travels in an address).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
pub struct Progress {
    /// The session in which a step was last proven. Another session starts from nothing.
    pub session_id: Option<SessionId>,
    /// The person signed in, or again, in this very flow.
    pub signed_in: bool,
    /// The person chose to go on with this account.
    pub account_chosen: bool,
    /// The person wants to sign in as somebody else.
    pub other_account: bool,
    /// The person allowed what was asked.
    pub consented: bool,
    /// A password that is not a sign-in yet, because a second factor is due.
    pub password: Option<ProvenPassword>,
}

/// Half a sign-in. It counts for the browser that holds the secret, for a short while, and as long as the password stays
/// what it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProvenPassword {
    pub user_id: UserId,
    pub at: UnixTime,
    /// Of the secret that this browser alone was given with the step.
    pub secret: Digest,
    /// Of the hash that the password was verified against.
    pub hash: Digest,
    /// Whether the person wants to stay signed in.
    pub keep: bool,
}

#[derive(Clone, Debug)]
pub struct Flow {
    pub destination: Destination,
    pub progress: Progress,
    pub created_at: UnixTime,
}
