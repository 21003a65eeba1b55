//! A browser's sign-in.

use crate::clock::UnixTime;

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

#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    pub user_id: UserId,
    pub authentication: Authentication,
    pub last_seen_at: UnixTime,
    /// The absolute end.
    pub expires_at: UnixTime,
}

/// A live session and whose it is.
#[derive(Clone, Debug)]
pub struct SignedIn {
    pub session: Session,
    pub user: User,
}
