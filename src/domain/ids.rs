//! One type per identifier, so that none is ever passed where another belongs.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::{Timestamp, Uuid};

use crate::clock::UnixTime;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Reads an identifier that the database or a verified token holds.
            #[must_use]
            pub fn from_stored(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// `client_id`. Always begins with `client_`, which no subject does, so that a `sub` never names both (RFC 9700
    /// section 4.15).
    ClientId
);
id!(
    /// A person; also their `sub` (OpenID Connect Core section 2): random, never reused, tells nothing.
    UserId
);
id!(
    /// `sid`: one sign-in of one browser.
    SessionId
);
id!(
    /// What a person allowed a client; the unit of revocation.
    GrantId
);

impl ClientId {
    #[must_use]
    pub fn random() -> Self {
        Self(format!("client_{}", Uuid::new_v4().simple()))
    }
}

impl UserId {
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }
}

impl SessionId {
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }
}

impl GrantId {
    /// Time-ordered, so that new grants lie beside each other in the database's index.
    #[must_use]
    pub fn new(now: UnixTime) -> Self {
        Self(uuid_v7(now))
    }
}

/// A `UUIDv7` (RFC 9562 section 5.7) of this instant. As `jti` it tells the moment of issue to the millisecond.
#[must_use]
pub fn uuid_v7(now: UnixTime) -> String {
    let (seconds, millis) = (now.millis().div_euclid(1000), now.millis().rem_euclid(1000));
    let nanos = u32::try_from(millis).unwrap_or(0) * 1_000_000;
    let timestamp = Timestamp::from_unix(uuid::NoContext, u64::try_from(seconds).unwrap_or(0), nanos);
    Uuid::new_v7(timestamp).to_string()
}

/// The millisecond that a `UUIDv7` was made in; `None` for any other text.
#[must_use]
pub fn issued_at(jti: &str) -> Option<UnixTime> {
    let (seconds, nanos) = Uuid::try_parse(jti).ok().filter(|id| id.get_version_num() == 7)?.get_timestamp()?.to_unix();
    Some(UnixTime::from_millis(i64::try_from(seconds).ok()?.checked_mul(1000)? + i64::from(nanos / 1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jti_tells_the_millisecond_of_issue() {
        let now = UnixTime::from_millis(1_700_000_000_123);
        assert_eq!(issued_at(&uuid_v7(now)), Some(now));
        assert_eq!(issued_at(&Uuid::new_v4().to_string()), None);
        assert_eq!(issued_at("x"), None);
    }

    #[test]
    fn s19_a_client_and_a_person_never_share_an_identifier() {
        assert!(ClientId::random().as_str().starts_with("client_"));
        assert!(Uuid::try_parse(UserId::random().as_str()).is_ok());
    }
}
