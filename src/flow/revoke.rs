//! RFC 7009: a client gives a token back. The answer goes out after the commit.

use crate::clock::UnixTime;
use crate::crypto::opaque::{GrantSecret, REFRESH_TOKEN_PREFIX};
use crate::domain::client::Client;
use crate::protocol::error::OAuthError;
use crate::store::{Actor, Reason};

use super::Context;
use super::access_token::verify;

/// Revokes a token of this client. A refresh token, living or spent, ends its grant with every token of it; an access
/// token ends alone. A token that is not ours, or dead already, is no error (section 2.2).
///
/// # Errors
/// `unauthorized_client` for another client's token, which is left alone (section 2.1); 503 when nothing was written.
pub async fn revoke(ctx: &Context, client: &Client, token: &str, now: UnixTime) -> Result<(), OAuthError> {
    let foreign = || OAuthError::unauthorized_client("The token was issued to another client.");
    let cause = Reason::RevokedByClient.by(Actor::Client(client.id.clone()));
    if let Some(token) = GrantSecret::parse(REFRESH_TOKEN_PREFIX, token) {
        let Some((grant, _)) = ctx.store.find_grant(&token, now).await? else { return Ok(()) };
        if grant.client_id != client.id {
            return Err(foreign());
        }
        ctx.store.revoke_grant(grant.id, cause, now).await?;
        return Ok(());
    }
    let Some(claims) = verify(ctx, token, now) else { return Ok(()) };
    if claims.client_id != client.id.as_str() {
        return Err(foreign());
    }
    ctx.store.revoke_access_token(claims.jti.clone(), cause, now).await?;
    Ok(())
}
