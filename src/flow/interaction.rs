//! The one place that decides what a person still has to do before a client gets its answer. Pages and posts record
//! facts; they never decide, and never know each other.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::UnixTime;
use crate::config::Config;
use crate::crypto::opaque::Digest;
use crate::domain::client::Client;
use crate::domain::flow::{ClientDestination, Destination, Flow, Progress, ProvenPassword};
use crate::domain::grant::Consent;
use crate::domain::session::SignedIn;
use crate::domain::user::User;
use crate::protocol::error::OAuthError;
use crate::protocol::metadata::NetworkBinding;
use crate::protocol::response_mode::AuthorizationResponse;
use crate::store::StoreError;

use super::assurance::{Demand, Missing, missing};
use super::issue::{Issued, Prepared};
use super::recent::is_recent;
use super::session::{Browser, current};
use super::{Context, assurance, authorize, issue};

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Nobody is signed in, or somebody else must be.
    SignIn,
    /// The person signed in must prove once more that it is them.
    Reauthenticate,
    /// The password is proven, in this flow or in the session; the second factor is missing.
    SecondFactor,
    /// The same, of a person who has none yet and must set one up.
    Enrol,
    SelectAccount,
    Consent(Consent),
    Issue,
    Refuse(OAuthError),
}

/// Who is here, as far as this browser has proven it.
#[derive(Clone, Copy)]
pub struct Here<'a> {
    pub progress: &'a Progress,
    /// Whose password alone was proven, in this very flow.
    pub half: Option<&'a User>,
    pub signed_in: Option<&'a SignedIn>,
    /// Whether the person signed in trusts this browser to need no second factor.
    pub trusted: bool,
}

/// Judges `prompt`, `max_age`, `acr`, the hinted person and the consent (OpenID Connect Core section 3.1.2). Pure: the same
/// facts always give the same step.
#[must_use]
pub fn next_step(
    config: &Config,
    client: &Client,
    destination: &ClientDestination,
    here: Here<'_>,
    remembered: Option<&Consent>,
    asked: &Consent,
    now: UnixTime,
) -> Step {
    let Here { progress, half, signed_in, trusted } = here;
    let request = &destination.request;
    let ask = |step: Step, refusal: OAuthError| if request.prompt.none { Step::Refuse(refusal) } else { step };
    // Core section 5.5.1.1: an essential class that no sign-in here can reach is an error, not a page.
    let demand = match assurance::demand(config, client, request) {
        Ok(demand) => demand,
        Err(unmet) => return Step::Refuse(unmet),
    };
    if let Some(user) = half {
        if !destination.may_be_about(&user.id) {
            return Step::Refuse(OAuthError::login_required("Another person signed in than the one asked for."));
        }
        return after_password(config, user, demand);
    }
    let Some(signed_in) = signed_in.filter(|_| !progress.other_account) else {
        return ask(Step::SignIn, OAuthError::login_required("Nobody is signed in."));
    };
    // Steps proven in another session prove nothing here.
    let fresh = Progress::default();
    let progress = if progress.session_id.as_ref() == Some(&signed_in.session.id) { progress } else { &fresh };

    if !destination.may_be_about(&signed_in.user.id) {
        if progress.signed_in {
            return Step::Refuse(OAuthError::login_required("Another person signed in than the one asked for."));
        }
        return ask(Step::SignIn, OAuthError::login_required("Another person is signed in."));
    }
    let elsewhere = client.sees_elsewhere(signed_in);
    let ask_again = elsewhere && client.metadata.network_binding == NetworkBinding::Ask;
    if !progress.signed_in && (ask_again || must_prove_again(request.prompt.login, request.max_age, signed_in, now)) {
        return ask(Step::Reauthenticate, OAuthError::login_required("The sign-in is not recent enough."));
    }
    if elsewhere && client.metadata.network_binding == NetworkBinding::Refuse {
        return Step::Refuse(OAuthError::access_denied("The person signed in from another network than this one."));
    }
    if request.prompt.select_account && !progress.account_chosen && !progress.signed_in {
        return Step::SelectAccount;
    }
    // A wish is nothing to fail for.
    let demand = if request.prompt.none && demand == Demand::Wish { Demand::Nothing } else { demand };
    let multi_factor = signed_in.session.authentication.is_multi_factor();
    let too_weak = || OAuthError::login_required("A second factor is needed.");
    match missing(&config.mfa, (&signed_in.user).into(), demand, multi_factor, trusted) {
        Missing::Nothing => {}
        Missing::SecondFactor => return ask(Step::SecondFactor, too_weak()),
        // A first factor is for whoever has just proven who they are (SECURITY row 61): a session left open adds none.
        Missing::Enrolment if is_recent(&config.mfa, signed_in, now) => return ask(Step::Enrol, too_weak()),
        Missing::Enrolment => return ask(Step::Reauthenticate, too_weak()),
        Missing::Unmeetable => return Step::Refuse(assurance::unmet()),
    }
    if needs_consent(client, destination, progress, remembered, asked) {
        return ask(Step::Consent(asked.clone()), OAuthError::consent_required("The person has not allowed this yet."));
    }
    Step::Issue
}

/// What follows a password for which more was due. Should nothing be due any more, the sign-in begins anew: no session is
/// ever made of half a one.
fn after_password(config: &Config, user: &User, demand: Demand) -> Step {
    match missing(&config.mfa, user.into(), demand, false, false) {
        Missing::SecondFactor => Step::SecondFactor,
        Missing::Enrolment => Step::Enrol,
        Missing::Nothing | Missing::Unmeetable => Step::SignIn,
    }
}

/// The same for our own pages: home is for whoever is signed in, a change in the account for whoever has just proven it.
fn own_page(config: &Config, destination: &Destination, here: Here<'_>, now: UnixTime) -> Step {
    let is_change = matches!(destination, Destination::Account { .. });
    if let Some(user) = here.half {
        return after_password(config, user, own_demand(destination));
    }
    let Some(signed_in) = here.signed_in.filter(|_| !here.progress.other_account) else { return Step::SignIn };
    if is_change && !is_recent(&config.mfa, signed_in, now) {
        return Step::Reauthenticate;
    }
    let multi_factor = signed_in.session.authentication.is_multi_factor();
    match missing(&config.mfa, (&signed_in.user).into(), own_demand(destination), multi_factor, here.trusted) {
        Missing::SecondFactor => Step::SecondFactor,
        Missing::Enrolment if is_recent(&config.mfa, signed_in, now) => Step::Enrol,
        Missing::Enrolment => Step::Reauthenticate,
        Missing::Nothing | Missing::Unmeetable => Step::Issue,
    }
}

/// A change in the account asks for the second factor also where the browser is trusted.
fn own_demand(destination: &Destination) -> Demand {
    if matches!(destination, Destination::Account { .. }) { Demand::Wish } else { Demand::Nothing }
}

fn must_prove_again(prompt_login: bool, max_age: Option<u64>, signed_in: &SignedIn, now: UnixTime) -> bool {
    let age = now.since(signed_in.session.authentication.at);
    prompt_login || max_age.is_some_and(|seconds| age > Duration::from_secs(seconds))
}

fn needs_consent(
    client: &Client,
    destination: &ClientDestination,
    progress: &Progress,
    remembered: Option<&Consent>,
    asked: &Consent,
) -> bool {
    // Also what was allowed in this flow may have been taken back since.
    let known = client.metadata.skip_consent || remembered.is_some_and(|remembered| remembered.covers(asked));
    if progress.consented {
        return !known;
    }
    if destination.request.prompt.consent {
        return true;
    }
    // RFC 8252 section 8.6: anything on the person's machine can pose as a public client whose redirect URI is not https,
    // so it gets nothing without a person seeing it, first-party or not.
    let assured = !client.metadata.is_public() || destination.request.target.redirect_uri.starts_with("https:");
    !(assured && known)
}

/// A password proven in this flow by this browser, and whose it is.
pub struct Half {
    pub user: User,
    pub proof: ProvenPassword,
}

/// Where a flow stands in this browser.
pub struct Situation {
    pub id: Digest,
    pub flow: Flow,
    pub client: Option<std::sync::Arc<Client>>,
    pub half: Option<Half>,
    pub signed_in: Option<SignedIn>,
    /// What is asked of the sign-in beyond what is asked of everybody.
    pub demand: Demand,
    pub step: Step,
}

impl Situation {
    /// Who the next step is about.
    #[must_use]
    pub fn person(&self) -> Option<&User> {
        self.half.as_ref().map(|half| &half.user).or(self.signed_in.as_ref().map(|signed_in| &signed_in.user))
    }
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
    let half = half(ctx, &flow.progress, browser, now).await?;
    let trusted = is_trusted_by(ctx, browser, signed_in.as_ref(), now).await?;
    let (progress, signed_in_here) = (&flow.progress, signed_in.as_ref());
    let here = Here { progress, half: half.as_ref().map(|half| &half.user), signed_in: signed_in_here, trusted };
    let (client, demand, step) = match &flow.destination {
        Destination::Home | Destination::Account { .. } => {
            (None, own_demand(&flow.destination), own_page(&ctx.config, &flow.destination, here, now))
        }
        Destination::Client(destination) => {
            // One that was removed meanwhile, or its address: no answer goes to where none would begin any more.
            let registry = ctx.registry();
            let still_there = |client: &&Arc<Client>| {
                client.metadata.match_redirect_uri(&destination.request.target.redirect_uri).is_some()
            };
            let Some(client) = registry.client(destination.client_id.as_str()).filter(still_there).cloned() else {
                return Ok(None);
            };
            // A demand that cannot be met is what `next_step` refuses.
            let demand = assurance::demand(&ctx.config, &client, &destination.request).unwrap_or(Demand::Must);
            let step = authorize::decide(ctx, &client, destination, here, now).await?;
            (Some(client), demand, step)
        }
    };
    Ok(Some(Situation { id, flow, client, half, signed_in, demand, step }))
}

/// How long a password counts for the second step (SECURITY row 60: half a sign-in is short).
const HALF_LIFETIME: Duration = Duration::from_mins(10);

/// Whose password was proven in this flow, where this is the browser that did it, a moment ago.
async fn half(
    ctx: &Context,
    progress: &Progress,
    browser: &Browser,
    now: UnixTime,
) -> Result<Option<Half>, StoreError> {
    let held = |proof: &&ProvenPassword| browser.step.is_some_and(|step| step.equals(&proof.secret));
    let living = progress.password.as_ref().filter(held).filter(|proof| now.since(proof.at) < HALF_LIFETIME);
    let Some(proof) = living else { return Ok(None) };
    let user = ctx.store.find_user(proof.user_id.clone()).await?.filter(|user| user.disabled_at.is_none());
    Ok(user.map(|user| Half { user, proof: proof.clone() }))
}

/// Whether the person signed in trusts this browser; asked only where it matters.
///
/// # Errors
/// When the database cannot be read.
pub async fn is_trusted_by(
    ctx: &Context,
    browser: &Browser,
    signed_in: Option<&SignedIn>,
    now: UnixTime,
) -> Result<bool, StoreError> {
    match signed_in {
        Some(SignedIn { session, user, .. }) if !session.authentication.is_multi_factor() => {
            assurance::is_trusted(ctx, browser, &user.id, user.into(), now).await
        }
        _ => Ok(false),
    }
}

/// The client's answer, to be stored together with the sign-in that makes it due; `None` where more is left to do than this.
///
/// # Errors
/// When the machinery fails.
pub(super) async fn foreseen(
    ctx: &Context,
    situation: &Situation,
    signed_in: &SignedIn,
    progress: &Progress,
    trusted: bool,
    now: UnixTime,
) -> Result<Option<Prepared>, OAuthError> {
    let (Destination::Client(destination), Some(client)) = (&situation.flow.destination, &situation.client) else {
        return Ok(None);
    };
    let here = Here { progress, half: None, signed_in: Some(signed_in), trusted };
    match authorize::decide(ctx, client, destination, here, now).await? {
        Step::Issue => issue::prepare(ctx, client, destination, signed_in, Some(situation.id), now).map(Some),
        _ => Ok(None),
    }
}

/// Where a finished flow sends the browser.
pub enum Arrival {
    Client(AuthorizationResponse),
    Home,
    /// A page of the account.
    Account(String),
    /// The flow again: what its last step was decided by changed meanwhile.
    Again,
}

/// Ends a flow whose every step is done. `None` when it had ended already.
///
/// # Errors
/// When the machinery fails.
pub async fn arrive(ctx: &Context, situation: &Situation, now: UnixTime) -> Result<Option<Arrival>, OAuthError> {
    let Situation { flow, client, step, signed_in, .. } = situation;
    match (&flow.destination, step, signed_in) {
        (Destination::Home, Step::Issue, Some(_)) => {
            ctx.store.complete_flow(situation.id).await?;
            Ok(Some(Arrival::Home))
        }
        (Destination::Account { page }, Step::Issue, Some(_)) => {
            ctx.store.complete_flow(situation.id).await?;
            Ok(Some(Arrival::Account(page.clone())))
        }
        (Destination::Client(destination), Step::Issue, Some(signed_in)) => {
            let Some(client) = client else { return Ok(None) };
            Ok(match issue::code(ctx, client, destination, signed_in, Some(situation.id), now).await? {
                Issued::Answer(response) => Some(Arrival::Client(response)),
                Issued::Gone => None,
                Issued::Outdated => Some(Arrival::Again),
            })
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
    progress.password = None;
    progress.other_account = other;
    progress.account_chosen |= !other;
    ctx.store.record_progress(situation.id, progress).await
}

#[cfg(test)]
mod tests;
