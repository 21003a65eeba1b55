//! RFC 6749 section 4.4: a client for itself. No database: the client is in memory and the token stands by itself.

use crate::clock::UnixTime;
use crate::domain::client::Client;
use crate::protocol::error::OAuthError;
use crate::protocol::scope::{OIDC_SCOPES, Scope};
use crate::protocol::token::ClientCredentialsRequest;

use super::super::Context;
use super::super::access_token::{Speaker, issue};
use super::super::registry::Registry;
use super::Issued;

pub(super) fn exchange(
    ctx: &Context,
    client: &Client,
    request: &ClientCredentialsRequest,
    now: UnixTime,
) -> Result<Issued, OAuthError> {
    let registry = ctx.registry();
    let default_audience = &ctx.config.access_token.audience;
    let about_people = |scope: &str| OIDC_SCOPES.contains(&scope);
    let scope = match &request.scope {
        Some(scope) => {
            if let Some(foreign) =
                scope.iter().find(|scope| about_people(scope) || !client.metadata.allows_scope(scope))
            {
                return Err(OAuthError::invalid_scope(format!(
                    "This client cannot have the scope `{foreign}` for itself."
                )));
            }
            scope.clone()
        }
        // RFC 6749 section 3.3: without `scope`, all that it is registered for, people's scopes left out.
        None => client.metadata.scope.as_ref().map(|own| own.retain(|scope| !about_people(scope))).unwrap_or_default(),
    };
    let audience = match &request.resource {
        Some(resource) => {
            registry.check_resource(client, resource, default_audience)?;
            resource.as_str()
        }
        None => infer(&registry, client, &scope).unwrap_or(default_audience),
    };
    // RFC 6749 section 5.1: an answer says what scope was given instead of the one asked for, and cannot write "none".
    let asked = request.scope.as_ref().is_some_and(|asked| !asked.is_empty());
    if asked && registry.scope_for(audience, &scope).is_empty() {
        return Err(OAuthError::invalid_scope(
            "None of this scope belongs to a `resource` that is named or that the scope alone tells.",
        ));
    }
    let access = issue(&registry, &ctx.config, client, &Speaker::Client, audience, &scope, now)?;
    Ok(Issued { access, refresh_token: None, id_token: None })
}

fn infer<'a>(registry: &'a Registry, client: &'a Client, scope: &'a Scope) -> Option<&'a str> {
    let mut meant = registry.meant_resources(client, scope);
    // Of several the client must say which.
    meant.next().filter(|_| meant.next().is_none()).map(|resource| resource.identifier.as_str())
}
