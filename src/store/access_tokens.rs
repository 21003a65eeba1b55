//! Judging access tokens: each by one indexed read of the grant that it hangs on.

use diesel::dsl::{exists, not};
use diesel::prelude::*;

use crate::clock::UnixTime;
use crate::domain::grant::GrantDetails;
use crate::domain::ids::GrantId;
use crate::domain::user::User;
use crate::protocol::claims::ClaimsRequest;

use super::conn::{fixed, on_backend};
use super::grants::{parents_live, session_lives};
use super::revocations::TOKEN;
use super::schema::{grants, revocations, sessions, users};
use super::users::{USER, UserRow};
use super::{Store, StoreError};

/// How a grant stands, for judging an access token of it.
pub struct TokenState {
    pub username: Option<String>,
    pub living: bool,
}

/// Names of statements whose text never changes; see [`fixed`].
struct JudgeToken;
struct ReadUserInfo;

impl Store {
    /// How the grant of an access token stands: one indexed read judges grant, person, session and the token itself.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn token_state(&self, id: GrantId, jti: String, now: UnixTime) -> Result<Option<TokenState>, StoreError> {
        self.read(move |conn| {
            let username = users::table.filter(users::user_id.eq(grants::user_id)).select(users::username);
            let query = grants::table.filter(grants::grant_id.eq(id.as_str())).select((
                username.single_value(),
                grants::revoked_at.is_null().and(parents_live!(now.millis())),
                exists(revocations::table.filter(revocations::kind.eq(TOKEN)).filter(revocations::target.eq(&jti))),
            ));
            let row: Option<(Option<String>, bool, bool)> =
                on_backend!(conn, |c| fixed(JudgeToken, query).get_result(c).optional())
                    .map_err(StoreError::operation("judging a token"))?;
            Ok(row.map(|(username, living, revoked)| TokenState { username, living: living && !revoked }))
        })
        .await
    }

    /// The person behind a living access token and the claims that its grant asks for one by one; one indexed read.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn userinfo(
        &self,
        id: GrantId,
        jti: String,
        now: UnixTime,
    ) -> Result<Option<(User, ClaimsRequest)>, StoreError> {
        self.read(move |conn| {
            let ended = revocations::table.filter(revocations::kind.eq(TOKEN)).filter(revocations::target.eq(jti));
            let query = users::table
                .inner_join(grants::table.on(grants::user_id.eq(users::user_id)))
                .filter(grants::grant_id.eq(id.as_str()))
                .filter(grants::revoked_at.is_null())
                .filter(users::disabled_at.is_null())
                .filter(session_lives!(now.millis()))
                .filter(not(exists(ended)))
                .select((USER, grants::details));
            let row: Option<(UserRow, String)> =
                on_backend!(conn, |c| fixed(ReadUserInfo, query).get_result(c).optional())
                    .map_err(StoreError::operation("reading UserInfo"))?;
            row.map(|(user, details)| {
                let details: GrantDetails =
                    serde_json::from_str(&details).map_err(|error| StoreError::corrupt("grant", error))?;
                Ok((User::try_from(user)?, details.claims))
            })
            .transpose()
        })
        .await
    }

    /// Whether one access token was ended by itself; for tokens of no grant.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_token_revoked(&self, jti: String) -> Result<bool, StoreError> {
        self.read(move |conn| {
            let entry = revocations::table.filter(revocations::kind.eq(TOKEN)).filter(revocations::target.eq(jti));
            on_backend!(conn, |c| diesel::select(exists(entry)).get_result(c))
                .map_err(StoreError::operation("judging a token"))
        })
        .await
    }
}
