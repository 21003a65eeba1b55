//! RFC 6749 section 6 with the rotation of RFC 9700 section 4.14.2: each refresh token is good once, its successor takes
//! its place, and a spent one that comes back ends the grant.

use secrecy::ExposeSecret as _;

use crate::clock::UnixTime;
use crate::crypto::opaque::{GrantSecret, REFRESH_TOKEN_PREFIX};
use crate::domain::client::Client;
use crate::protocol::error::OAuthError;
use crate::protocol::metadata::NetworkBinding;
use crate::protocol::token::RefreshTokenRequest;
use crate::store::{Rotation, RotationRequest};

use super::super::{Context, assurance};
use super::{Issued, check_target, issue_for_grant, may_need_resource};

pub(super) async fn exchange(
    ctx: &Context,
    client: &Client,
    request: RefreshTokenRequest,
    address: &str,
    now: UnixTime,
) -> Result<Issued, OAuthError> {
    let unknown = || OAuthError::invalid_grant("The refresh token is not valid.");
    let presented =
        GrantSecret::parse(REFRESH_TOKEN_PREFIX, request.refresh_token.expose_secret()).ok_or_else(unknown)?;
    if request.scope.is_some() || request.resource.is_some() || may_need_resource(ctx, client) {
        check_request(ctx, client, &presented, &request, now).await?;
    }
    let config = &ctx.config.refresh_token;
    let rotation = RotationRequest {
        presented,
        client_id: client.id.clone(),
        network: client.network_of(address),
        network_decides: matches!(client.metadata.network_binding, NetworkBinding::Ask | NetworkBinding::Refuse),
        idle: config.idle,
        reuse_leeway: config.reuse_leeway,
    };
    let (rotation, successor) = ctx.store.rotate_refresh_token(rotation, ctx.rotation_key.clone(), now).await?;
    let grant = match rotation {
        Rotation::Rotated(grant) | Rotation::Repeated(grant) => grant,
        Rotation::Reused(grant) => {
            tracing::warn!(client.id = %client.id, grant.id = %grant, "a spent refresh token came back; its grant has been revoked");
            return Err(OAuthError::invalid_grant("The refresh token was used before; its grant has been revoked."));
        }
        // The token is not spent: at home it is still good, and whoever took it elsewhere cannot end it there.
        Rotation::Elsewhere(grant) => {
            tracing::warn!(client.id = %client.id, grant.id = %grant, "a refresh token was refused in another network");
            return Err(OAuthError::invalid_grant(
                "The refresh token is bound to the network that it was issued to; ask the person to sign in again.",
            ));
        }
        Rotation::Dead => {
            return Err(OAuthError::invalid_grant(
                "The refresh token has expired, was revoked, or its session has ended.",
            ));
        }
        Rotation::Unknown => return Err(unknown()),
    };
    if !assurance::still_suffices(ctx, client, &grant).await? {
        return Err(OAuthError::invalid_grant("The sign-in behind it is not as strong as it must be by now."));
    }
    let bound = client.metadata.network_binding != NetworkBinding::Off;
    if bound && grant.network.as_ref().is_some_and(|network| *network != client.network_of(address)) {
        tracing::warn!(client.id = %client.id, grant.id = %grant.id, "a refresh token is used from another network");
    }
    let scope = request.scope.as_ref().unwrap_or(&grant.scope);
    let (access, id_token) =
        issue_for_grant(ctx, client, &grant, scope, request.resource.as_deref(), None, now).await?;
    Ok(Issued { access, id_token, refresh_token: Some(successor.reveal(REFRESH_TOKEN_PREFIX)) })
}

/// A narrower scope or one of the granted resources may be asked for, nothing beyond (RFC 6749 section 6).
async fn check_request(
    ctx: &Context,
    client: &Client,
    presented: &GrantSecret,
    request: &RefreshTokenRequest,
    now: UnixTime,
) -> Result<(), OAuthError> {
    let Some((grant, _)) = ctx.store.find_grant(presented, now).await? else { return Ok(()) };
    if grant.client_id != client.id {
        return Ok(());
    }
    if request.scope.as_ref().is_some_and(|scope| !scope.is_subset_of(&grant.scope)) {
        return Err(OAuthError::invalid_scope("The scope is wider than what was granted."));
    }
    let scope = request.scope.as_ref().unwrap_or(&grant.scope);
    check_target(ctx, client, &grant, request.resource.as_deref(), scope)
}
