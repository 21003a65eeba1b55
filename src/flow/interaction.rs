//! The one place that decides what a person still has to do before a client gets its answer. Pages and posts record
//! facts; they never decide, and never know each other.

use std::time::Duration;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::client::Client;
use crate::domain::flow::{ClientDestination, Destination, Flow, Progress};
use crate::domain::grant::Consent;
use crate::domain::session::SignedIn;
use crate::protocol::discovery::ACR_VALUES;
use crate::protocol::error::OAuthError;
use crate::protocol::response_mode::AuthorizationResponse;
use crate::store::StoreError;

use super::recent::is_recent;
use super::session::{Browser, current};
use super::{Context, authorize, issue};

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Nobody is signed in, or somebody else must be.
    SignIn,
    /// The person signed in must prove once more that it is them.
    Reauthenticate,
    SelectAccount,
    Consent(Consent),
    Issue,
    Refuse(OAuthError),
}

/// Judges `prompt`, `max_age`, `acr`, the hinted person and the consent (OpenID Connect Core section 3.1.2). Pure: the same
/// facts always give the same step.
#[must_use]
pub fn next_step(
    client: &Client,
    destination: &ClientDestination,
    progress: &Progress,
    signed_in: Option<&SignedIn>,
    remembered: Option<&Consent>,
    asked: &Consent,
    now: UnixTime,
) -> Step {
    let request = &destination.request;
    let ask = |step: Step, refusal: OAuthError| if request.prompt.none { Step::Refuse(refusal) } else { step };
    // Core section 5.5.1.1: an essential class that no sign-in here can reach is an error, not a page.
    if let Some(classes) = request.claims.essential_acr()
        && !classes.iter().any(|class| ACR_VALUES.contains(class))
    {
        return Step::Refuse(OAuthError::unmet_authentication_requirements("The requested `acr` cannot be met."));
    }
    let Some(signed_in) = signed_in.filter(|_| !progress.other_account) else {
        return ask(Step::SignIn, OAuthError::login_required("Nobody is signed in."));
    };
    // Steps proven in another session prove nothing here.
    let fresh = Progress::default();
    let progress = if progress.session_id.as_ref() == Some(&signed_in.session.id) { progress } else { &fresh };

    if destination.required_user.as_ref().is_some_and(|user| *user != signed_in.user.id) {
        if progress.signed_in {
            return Step::Refuse(OAuthError::login_required("Another person signed in than the one asked for."));
        }
        return ask(Step::SignIn, OAuthError::login_required("Another person is signed in."));
    }
    if !progress.signed_in && must_prove_again(request.prompt.login, request.max_age, signed_in, now) {
        return ask(Step::Reauthenticate, OAuthError::login_required("The sign-in is not recent enough."));
    }
    if request.prompt.select_account && !progress.account_chosen && !progress.signed_in {
        return Step::SelectAccount;
    }
    if !progress.consented && needs_consent(client, destination, remembered, asked) {
        return ask(Step::Consent(asked.clone()), OAuthError::consent_required("The person has not allowed this yet."));
    }
    Step::Issue
}

/// The same for our own pages: home is for whoever is signed in, a change in the account for whoever has just proven it.
fn own_page(destination: &Destination, progress: &Progress, signed_in: Option<&SignedIn>, now: UnixTime) -> Step {
    match signed_in.filter(|_| !progress.other_account) {
        None => Step::SignIn,
        Some(signed_in) if matches!(destination, Destination::Account { .. }) && !is_recent(signed_in, now) => {
            Step::Reauthenticate
        }
        Some(_) => Step::Issue,
    }
}

fn must_prove_again(prompt_login: bool, max_age: Option<u64>, signed_in: &SignedIn, now: UnixTime) -> bool {
    let age = now.since(signed_in.session.authentication.at);
    prompt_login || max_age.is_some_and(|seconds| age > Duration::from_secs(seconds))
}

fn needs_consent(
    client: &Client,
    destination: &ClientDestination,
    remembered: Option<&Consent>,
    asked: &Consent,
) -> bool {
    if destination.request.prompt.consent {
        return true;
    }
    // RFC 8252 section 8.6: anything on the person's machine can pose as a public client whose redirect URI is not https,
    // so it gets nothing without a person seeing it, first-party or not.
    let assured = !client.metadata.is_public() || destination.request.target.redirect_uri.starts_with("https:");
    let known = client.metadata.skip_consent || remembered.is_some_and(|remembered| remembered.covers(asked));
    !(assured && known)
}

/// Where a flow stands in this browser.
pub struct Situation {
    pub id: Digest,
    pub flow: Flow,
    pub client: Option<std::sync::Arc<Client>>,
    pub signed_in: Option<SignedIn>,
    pub step: Step,
}

/// Reads a flow, this browser's session and what they lead to. `None` for a flow that is not this browser's, has run
/// out, or was answered, and for a client that is gone.
///
/// # Errors
/// When the database cannot be read.
pub async fn situation(
    ctx: &Context,
    id: Digest,
    browser: &Browser,
    now: UnixTime,
) -> Result<Option<Situation>, OAuthError> {
    let Some(flow) = ctx.store.find_flow(id, browser.digest(), now).await? else { return Ok(None) };
    let signed_in = current(ctx, browser, now).await?;
    let (client, step) = match &flow.destination {
        Destination::Home | Destination::Account { .. } => {
            (None, own_page(&flow.destination, &flow.progress, signed_in.as_ref(), now))
        }
        Destination::Client(destination) => {
            let Some(client) = ctx.registry.load().client(destination.client_id.as_str()).cloned() else {
                return Ok(None);
            };
            let step = authorize::decide(ctx, &client, destination, &flow.progress, signed_in.as_ref(), now).await?;
            (Some(client), step)
        }
    };
    Ok(Some(Situation { id, flow, client, signed_in, step }))
}

/// Where a finished flow sends the browser.
pub enum Arrival {
    Client(AuthorizationResponse),
    Home,
    /// A page of the account.
    Account(String),
}

/// Ends a flow whose every step is done. `None` when it had ended already.
///
/// # Errors
/// When the machinery fails.
pub async fn arrive(ctx: &Context, situation: &Situation, now: UnixTime) -> Result<Option<Arrival>, OAuthError> {
    match (&situation.flow.destination, &situation.step, &situation.signed_in) {
        (Destination::Home, _, _) => {
            ctx.store.complete_flow(situation.id).await?;
            Ok(Some(Arrival::Home))
        }
        (Destination::Account { page }, Step::Issue, Some(_)) => {
            ctx.store.complete_flow(situation.id).await?;
            Ok(Some(Arrival::Account(page.clone())))
        }
        (Destination::Client(destination), Step::Issue, Some(signed_in)) => {
            Ok(issue::code(ctx, destination, signed_in, Some(situation.id), now).await?.map(Arrival::Client))
        }
        (Destination::Client(_), Step::Refuse(error), _) => refuse(ctx, situation, error).await,
        _ => Ok(None),
    }
}

/// Ends a flow with an error for its client: the person cancelled, or the request cannot be met.
///
/// # Errors
/// When the database cannot be written.
pub async fn refuse(ctx: &Context, situation: &Situation, error: &OAuthError) -> Result<Option<Arrival>, OAuthError> {
    if !ctx.store.complete_flow(situation.id).await? {
        return Ok(None);
    }
    Ok(Some(match &situation.flow.destination {
        Destination::Home | Destination::Account { .. } => Arrival::Home,
        Destination::Client(destination) => Arrival::Client(destination.request.target.refuse(ctx.issuer(), error)),
    }))
}

/// The person chose an account on the page that asks: the one signed in, or another.
///
/// # Errors
/// When the database cannot be written.
pub async fn choose_account(ctx: &Context, situation: &Situation, other: bool) -> Result<(), StoreError> {
    let session_id = situation.signed_in.as_ref().map(|signed_in| signed_in.session.id.clone());
    let mut progress = situation.flow.progress.clone();
    if progress.session_id != session_id {
        progress = Progress { session_id, ..Progress::default() };
    }
    progress.other_account = other;
    progress.account_chosen |= !other;
    ctx.store.record_progress(situation.id, progress).await
}

#[cfg(test)]
mod tests;
