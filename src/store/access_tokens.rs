//! Judging access tokens: each by one indexed read of the grant that it hangs on.

use diesel::dsl::{exists, not};
use diesel::prelude::*;

use crate::clock::UnixTime;
use crate::domain::grant::GrantDetails;
use crate::domain::ids::{ClientId, GrantId};
use crate::domain::user::User;
use crate::protocol::claims::ClaimsRequest;

use super::conn::{fixed, on_backend};
use super::grants::{grant_spared, parents_live, session_lives};
use super::revocations::{CLIENT, ISSUER, SESSION, TOKEN, USER as OF_USER, spared};
use super::schema::{grants, revocations, sessions, users};
use super::users::{USER, UserRow};
use super::{Store, StoreError};

/// How a grant stands, for judging an access token of it.
pub struct TokenState {
    pub username: Option<String>,
    pub living: bool,
}

/// An access token of a person's grant, as far as it is judged by the database.
pub struct PersonsToken {
    pub grant: GrantId,
    pub jti: String,
    pub issued_at: UnixTime,
}

/// Whether an access token was ended by itself.
macro_rules! ended_alone {
    ($jti:expr) => {
        exists(revocations::table.filter(revocations::kind.eq(TOKEN)).filter(revocations::target.eq($jti)))
    };
}

/// Names of statements whose text never changes; see [`fixed`].
struct JudgeToken;
struct ReadUserInfo;
struct JudgeClientToken;

impl Store {
    /// How the grant of an access token stands: one read judges the token itself, its grant, person, client and session, each
    /// by its row and by the log. A session's end ends every token issued in it before, also those of grants that live on
    /// without it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn token_state(&self, token: PersonsToken, now: UnixTime) -> Result<Option<TokenState>, StoreError> {
        self.read(move |conn| {
            let username = users::table.filter(users::user_id.eq(grants::user_id)).select(users::username);
            let query = grants::table.filter(grants::grant_id.eq(token.grant.as_str())).select((
                username.single_value(),
                grants::revoked_at.is_null().and(parents_live!(now.millis())).and(spared!(
                    SESSION,
                    grants::session_id,
                    token.issued_at.millis()
                )),
                ended_alone!(&token.jti),
            ));
            let row: Option<(Option<String>, bool, bool)> =
                on_backend!(conn, |c| fixed(JudgeToken, query).get_result(c).optional())
                    .map_err(StoreError::operation("judging a token"))?;
            Ok(row.map(|(username, living, revoked)| TokenState { username, living: living && !revoked }))
        })
        .await
    }

    /// The person behind a living access token and the claims that its grant asks for one by one; one read.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn userinfo(
        &self,
        token: PersonsToken,
        now: UnixTime,
    ) -> Result<Option<(User, ClaimsRequest)>, StoreError> {
        self.read(move |conn| {
            let query = users::table
                .inner_join(grants::table.on(grants::user_id.eq(users::user_id)))
                .filter(grants::grant_id.eq(token.grant.as_str()))
                .filter(grants::revoked_at.is_null())
                .filter(users::disabled_at.is_null())
                .filter(session_lives!(now.millis()))
                .filter(grant_spared!())
                .filter(spared!(SESSION, grants::session_id, token.issued_at.millis()))
                .filter(not(ended_alone!(&token.jti)))
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

    /// Whether the log spares an access token that a client was given for itself; one read.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_client_token_spared(
        &self,
        client: ClientId,
        jti: String,
        issued_at: UnixTime,
    ) -> Result<bool, StoreError> {
        self.read(move |conn| {
            let query = diesel::select(
                not(ended_alone!(&jti)).and(spared!(CLIENT, client.as_str(), issued_at.millis())).and(spared!(
                    ISSUER,
                    "",
                    issued_at.millis()
                )),
            );
            on_backend!(conn, |c| fixed(JudgeClientToken, query).get_result(c))
                .map_err(StoreError::operation("judging a token"))
        })
        .await
    }
}
