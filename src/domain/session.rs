//! A browser's sign-in.

use std::time::Duration;

use crate::clock::UnixTime;
use crate::protocol::acr::{AMR_MFA, Class};

use super::ids::{SessionId, UserId};
use super::user::User;

/// How a person proved who they are: `acr` and `amr` of OpenID Connect Core section 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    pub at: UnixTime,
    pub acr: String,
    /// RFC 8176, space-separated.
    pub amr: String,
}

impl Authentication {
    /// By these methods, under our own name of the class that they reach.
    #[must_use]
    pub fn by(amr: &str, at: UnixTime) -> Self {
        let multi_factor = amr.split(' ').any(|method| method == AMR_MFA);
        let class = if multi_factor { Class::Mfa } else { Class::Password };
        Self { at, acr: class.acr().to_owned(), amr: amr.to_owned() }
    }

    /// Whether more than one factor was proven (RFC 8176 section 2).
    #[must_use]
    pub fn is_multi_factor(&self) -> bool {
        self.amr.split(' ').any(|method| method == AMR_MFA)
    }
}

#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    pub user_id: UserId,
    pub authentication: Authentication,
    /// When everything that `amr` names was last proven. `auth_time` is later where only a part was proven again.
    pub proven_at: UnixTime,
    pub last_seen_at: UnixTime,
    /// The absolute end.
    pub expires_at: UnixTime,
    /// The person chose to stay signed in: the session outlives the browser's closing and has no idle end.
    pub is_kept: bool,
    /// From where they last proved who they are; empty where that is not known.
    pub auth_address: String,
}

impl Session {
    /// For how long its cookies are to outlive the browser's closing, where they are.
    #[must_use]
    pub fn kept_for(&self, now: UnixTime) -> Option<Duration> {
        self.is_kept.then(|| self.expires_at.since(now))
    }
}

/// A live session and whose it is.
#[derive(Clone, Debug)]
pub struct SignedIn {
    pub session: Session,
    pub user: User,
    /// From where the request at hand comes.
    pub address: String,
}
