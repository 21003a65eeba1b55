//! Back-channel logout: what one client is told of the end of one session, and where.

use url::Url;

use crate::clock::UnixTime;
use crate::crypto::jwt::TokenType;
use crate::domain::ids::SessionId;
use crate::protocol::error::OAuthError;
use crate::protocol::logout_token::LogoutToken;
use crate::store::OutboxItem;

use super::Context;
use super::session::sid;

/// A logout token on its way, signed just now: a receiver may be reached a day after the sign-out.
pub struct LogoutNotice {
    pub address: Url,
    pub token: String,
}

/// The notice of a queued item. `None` where its client is gone, or wants no notices any more.
///
/// # Errors
/// When signing fails.
pub fn notice(ctx: &Context, item: &OutboxItem, now: UnixTime) -> Result<Option<LogoutNotice>, OAuthError> {
    let registry = ctx.registry();
    let Some(client) = registry.client(&item.subject) else { return Ok(None) };
    let address = client.metadata.backchannel_logout_uri.as_deref().and_then(|uri| Url::parse(uri).ok());
    let (Some(address), Some(session)) = (address, &item.session_id) else { return Ok(None) };
    let subject = String::from_utf8_lossy(&item.payload);
    let sid = sid(ctx, session, &client.id);
    let claims = LogoutToken::new(ctx.issuer(), &subject, client.id.as_str(), &item.id, &sid, now.seconds());
    let algorithm = client.metadata.id_token_signed_response_alg;
    let token = registry.keyring.sign(algorithm, TokenType::Logout, &claims, now)?;
    Ok(Some(LogoutNotice { address, token }))
}

/// The session of an item, as the log names it.
#[must_use]
pub fn session_of(item: &OutboxItem) -> &str {
    item.session_id.as_ref().map_or("", SessionId::as_str)
}
