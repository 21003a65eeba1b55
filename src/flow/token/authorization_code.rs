//! RFC 6749 section 4.1.3 with RFC 7636: a code is spent once, by whom it was made for.

use crate::clock::UnixTime;
use crate::crypto::opaque::{CODE_PREFIX, GrantSecret, REFRESH_TOKEN_PREFIX};
use crate::domain::client::Client;
use crate::protocol::error::OAuthError;
use crate::protocol::metadata::{GrantType, NetworkBinding};
use crate::protocol::pkce::CodeChallenge;
use crate::protocol::token::AuthorizationCodeRequest;
use crate::store::{Exchange, FirstRefreshToken};

use super::super::Context;
use super::super::issue::code_binding;
use super::{Issued, check_target, issue_for_grant, may_need_resource};

pub(super) async fn exchange(
    ctx: &Context,
    client: &Client,
    request: AuthorizationCodeRequest,
    address: &str,
    now: UnixTime,
) -> Result<Issued, OAuthError> {
    let unknown = || OAuthError::invalid_grant("The code is not valid.");
    let presented = GrantSecret::parse(CODE_PREFIX, &request.code).ok_or_else(unknown)?;
    if (request.resource.is_some() || may_need_resource(ctx, client))
        && let Some((grant, _)) =
            ctx.store.find_grant(&presented, now).await?.filter(|(grant, _)| grant.client_id == client.id)
    {
        check_target(ctx, client, &grant, request.resource.as_deref(), &grant.scope)?;
    }
    let challenge = match request.code_verifier.as_deref().map(CodeChallenge::of_verifier) {
        Some(None) => {
            return Err(OAuthError::invalid_grant("`code_verifier` must have 43 to 128 unreserved characters."));
        }
        other => other.flatten(),
    };
    let binding = code_binding(request.redirect_uri.as_deref(), challenge.as_ref().map(CodeChallenge::as_str));

    let refreshes = client.metadata.grants(GrantType::RefreshToken);
    let first = GrantSecret::mint()?.with_handle_of(&presented);
    let config = &ctx.config.refresh_token;
    let bound = client.metadata.network_binding != NetworkBinding::Off;
    let refresh = refreshes.then(|| FirstRefreshToken {
        digest: first.digest(),
        idle_end: now.plus(config.idle),
        network: bound.then(|| client.network_of(address)),
    });
    let life = if refreshes { config.lifetime } else { ctx.config.access_token.lifetime };
    let outcome = ctx.store.exchange_code(presented, binding, client.id.clone(), refresh, now.plus(life), now);
    let grant = match outcome.await? {
        Exchange::Exchanged(grant) => grant,
        Exchange::Reused => {
            tracing::warn!(client.id = %client.id, "a code was used twice; its grant has been revoked");
            return Err(OAuthError::invalid_grant("The code was used before; everything it gave has been revoked."));
        }
        Exchange::Unbound => {
            return Err(OAuthError::invalid_grant(
                "`redirect_uri` or `code_verifier` does not fit the authorization request.",
            ));
        }
        Exchange::Dead => return Err(OAuthError::invalid_grant("The code has expired or its session has ended.")),
        Exchange::Unknown => return Err(unknown()),
    };
    let nonce = grant.details.nonce.as_deref();
    let (access, id_token) =
        issue_for_grant(ctx, client, &grant, &grant.scope, request.resource.as_deref(), nonce, now).await?;
    Ok(Issued { access, id_token, refresh_token: refreshes.then(|| first.reveal(REFRESH_TOKEN_PREFIX)) })
}
