//! The authorization endpoint: client and redirect URI first, then the rest, then whatever the person still has to do.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::clock::UnixTime;
use crate::crypto::opaque::FlowId;
use crate::domain::client::Client;
use crate::domain::flow::{ClientDestination, Destination, Flow, Progress};
use crate::domain::ids::UserId;
use crate::protocol::authorization::{AuthorizationRequest, ResponseTarget};
use crate::protocol::error::OAuthError;
use crate::protocol::metadata::GrantType;
use crate::protocol::params::Params;
use crate::protocol::response_mode::AuthorizationResponse;
use crate::protocol::scope::{OFFLINE_ACCESS, OIDC_SCOPES, OPENID, Scope};

use super::interaction::{Here, Step, is_trusted_by, next_step};
use super::issue::Issued;
use super::registry::Registry;
use super::session::{Browser, current};
use super::{Context, consent, issue};

/// How long a person may take from the first page to the last.
const FLOW_LIFETIME: Duration = Duration::from_mins(30);

/// How an authorization request went on.
pub enum Outcome {
    /// An answer for the client.
    Respond(AuthorizationResponse),
    /// Pages come first; the flow's name.
    Interact(SecretString),
}

/// Why an authorization request did not. The target is only there once it is proven, so nothing can be redirected to an
/// address that is not the client's.
pub enum AuthorizeError {
    Page(OAuthError),
    Redirect(AuthorizationResponse, OAuthError),
}

/// Answers an authorization request.
///
/// # Errors
/// [`AuthorizeError::Page`] while there is nowhere safe to send an answer, [`AuthorizeError::Redirect`] after.
pub async fn begin(
    ctx: &Context,
    params: &Params,
    browser: &Browser,
    now: UnixTime,
) -> Result<Outcome, AuthorizeError> {
    let client = find_client(ctx, params).map_err(AuthorizeError::Page)?;
    let target = ResponseTarget::prove(params, &client.metadata).map_err(AuthorizeError::Page)?;
    proceed(ctx, params, &client, target.clone(), browser, now)
        .await
        .map_err(|error| AuthorizeError::Redirect(target.refuse(ctx.issuer(), &error), error))
}

fn find_client(ctx: &Context, params: &Params) -> Result<Arc<Client>, OAuthError> {
    if params.is_repeated("client_id") {
        return Err(OAuthError::invalid_request("`client_id` was sent more than once."));
    }
    let id = params.require("client_id")?;
    let client = ctx.registry.load().client(id).cloned();
    client.ok_or_else(|| OAuthError::invalid_request("No app is registered under this `client_id`."))
}

async fn proceed(
    ctx: &Context,
    params: &Params,
    client: &Client,
    target: ResponseTarget,
    browser: &Browser,
    now: UnixTime,
) -> Result<Outcome, OAuthError> {
    let registry = ctx.registry();
    let mut request = AuthorizationRequest::parse(params, target, &client.metadata)?;
    request.claims.retain(|name| client.metadata.allows_claim(name));
    let asked = std::mem::take(&mut request.scope);
    request.scope = permitted_scope(&registry, client, &asked)?;
    request.resources = permitted_resources(ctx, &registry, client, &request)?;
    // Nothing is granted that no token could carry, so that the page shows all that is granted.
    request.scope = registry.scope_within(client, &request.resources, &request.scope);
    if !asked.is_empty() && !is_carried(ctx, &registry, &request) {
        return Err(OAuthError::invalid_scope("None of this scope belongs to a resource that the request is for."));
    }
    let required_user = params.get("id_token_hint").map(|hint| hinted_user(ctx, hint)).transpose()?;
    if let Some(named) = request.claims.required_subjects()
        && required_user.as_ref().map_or(named.is_empty(), |hinted| !named.contains(&hinted.as_str()))
    {
        return Err(OAuthError::invalid_request("There is nobody whom all of `claims` and `id_token_hint` name."));
    }
    // One is one by either way, also for a node of an older version that goes on with this flow.
    let required_user = required_user.or_else(|| match request.claims.required_subjects()?.as_slice() {
        [only] => Some(UserId::from_stored(*only)),
        _ => None,
    });
    let destination = ClientDestination { client_id: client.id.clone(), request, required_user };

    let signed_in = current(ctx, browser, now).await?;
    let trusted = is_trusted_by(ctx, browser, signed_in.as_ref(), now).await?;
    let here = Here { progress: &Progress::default(), half: None, signed_in: signed_in.as_ref(), trusted };
    match decide(ctx, client, &destination, here, now).await? {
        Step::Refuse(error) => return Err(error),
        Step::Issue => {
            let signed_in = signed_in.ok_or_else(|| OAuthError::login_required("Nobody is signed in."))?;
            match issue::code(ctx, client, &destination, &signed_in, None, now).await? {
                Issued::Answer(response) => return Ok(Outcome::Respond(response)),
                Issued::Gone => return Err(OAuthError::login_required("The session has ended.")),
                Issued::Outdated => {}
            }
        }
        _ => {}
    }
    start_flow(ctx, Destination::Client(Box::new(destination)), browser, now).await.map(Outcome::Interact)
}

/// Reads the remembered consent where there is somebody to have one, and decides what comes next.
///
/// # Errors
/// When the database cannot be read.
pub async fn decide(
    ctx: &Context,
    client: &Client,
    destination: &ClientDestination,
    here: Here<'_>,
    now: UnixTime,
) -> Result<Step, OAuthError> {
    let remembered = match here.signed_in {
        Some(signed_in) if !client.metadata.skip_consent => {
            ctx.store.find_consent(signed_in.user.id.clone(), client.id.clone()).await?
        }
        _ => None,
    };
    if let Some(signed_in) = here.signed_in.filter(|signed_in| client.sees_elsewhere(signed_in)) {
        tracing::warn!(client.id = %client.id, user.id = %signed_in.user.id, binding = ?client.metadata.network_binding, "a session is used from another network");
    }
    let asked = consent::asked(&destination.request);
    Ok(next_step(&ctx.config, client, destination, here, remembered.as_ref(), &asked, now))
}

/// Stores where the person is going, under a name that only this browser can use.
///
/// # Errors
/// When the database cannot be written.
pub async fn start_flow(
    ctx: &Context,
    destination: Destination,
    browser: &Browser,
    now: UnixTime,
) -> Result<SecretString, OAuthError> {
    let id = FlowId::mint()?;
    let flow = Flow { destination, progress: Progress::default(), created_at: now };
    ctx.store.create_flow(id.digest(), browser.digest(), flow, now.plus(FLOW_LIFETIME)).await?;
    Ok(id.reveal())
}

/// What the client may have of the scope that it asks for. Scopes that mean nothing here are ignored in an OpenID Connect
/// request (Core section 3.1.2.1) and an error in a plain OAuth one; those that are somebody else's are an error in both.
fn permitted_scope(registry: &Registry, client: &Client, asked: &Scope) -> Result<Scope, OAuthError> {
    let openid = asked.contains(OPENID);
    for scope in asked.iter() {
        let means_something =
            OIDC_SCOPES.contains(&scope) || registry.knows_scope(scope) || client.metadata.allows_scope(scope);
        let allowed = client.metadata.allows_scope(scope) || (scope == OFFLINE_ACCESS && openid);
        if !allowed && (means_something || !openid) {
            return Err(OAuthError::invalid_scope(format!("This client is not registered for the scope `{scope}`.")));
        }
    }
    // Core section 11: without a refresh token there is no access while the person is away.
    let offline = openid && client.metadata.grants(GrantType::RefreshToken);
    Ok(asked.retain(|scope| client.metadata.allows_scope(scope) && (scope != OFFLINE_ACCESS || offline)))
}

fn permitted_resources(
    ctx: &Context,
    registry: &Registry,
    client: &Client,
    request: &AuthorizationRequest,
) -> Result<Vec<String>, OAuthError> {
    for resource in &request.resources {
        registry.check_resource(client, resource, &ctx.config.access_token.audience)?;
    }
    if !request.resources.is_empty() {
        let mut resources = request.resources.clone();
        resources.sort_unstable();
        resources.dedup();
        return Ok(resources);
    }
    // Without `resource` the scopes say which APIs are meant. An OpenID Connect client has its first token for UserInfo all
    // the same, since most have never heard of `resource`; to them the default is granted beside.
    let meant = registry.meant_resources(client, &request.scope);
    let mut resources: Vec<String> = meant.map(|resource| resource.identifier.clone()).collect();
    if request.is_openid() && !resources.is_empty() {
        resources.push(ctx.config.access_token.audience.clone());
    }
    resources.sort_unstable();
    resources.dedup();
    Ok(resources)
}

/// Whether some token of this authorization carries some of its scope: an ID token carries `openid`.
fn is_carried(ctx: &Context, registry: &Registry, request: &AuthorizationRequest) -> bool {
    let default_audience = std::slice::from_ref(&ctx.config.access_token.audience);
    let audiences = if request.resources.is_empty() { default_audience } else { &request.resources };
    request.is_openid() || audiences.iter().any(|audience| !registry.scope_for(audience, &request.scope).is_empty())
}

/// The person that an ID token of ours, expired or not, is about (Core section 3.1.2.1).
fn hinted_user(ctx: &Context, hint: &str) -> Result<UserId, OAuthError> {
    let invalid = || OAuthError::invalid_request("`id_token_hint` is not an ID token of this server.");
    let payload = ctx.registry.load().keyring.verify_hint(hint, ctx.issuer()).ok_or_else(invalid)?;
    payload.get("sub").and_then(serde_json::Value::as_str).map(UserId::from_stored).ok_or_else(invalid)
}
