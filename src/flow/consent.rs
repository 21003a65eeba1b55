//! Consent: what is shown is what is granted, and nothing beyond it later without asking again.

use crate::clock::UnixTime;
use crate::domain::grant::Consent;
use crate::protocol::authorization::AuthorizationRequest;
use crate::protocol::claims::{claims_of_scope, is_standard_claim};
use crate::protocol::error::OAuthError;
use crate::store::Decision;

use super::Context;
use super::interaction::{Situation, Step};
use super::session::Browser;

/// What a request asks of the person.
#[must_use]
pub fn asked(request: &AuthorizationRequest) -> Consent {
    let by_scope: Vec<&str> = claims_of_scope(&request.scope).collect();
    let one_by_one = request.claims.userinfo.keys().chain(request.claims.id_token.keys());
    Consent {
        scope: request.scope.clone(),
        resources: request.resources.iter().cloned().collect(),
        claims: one_by_one
            .filter(|name| is_standard_claim(name) && !by_scope.contains(&name.as_str()))
            .cloned()
            .collect(),
    }
}

/// The person allowed what the page showed. Does nothing unless that page is what came next.
///
/// # Errors
/// When the database cannot be written.
pub async fn allow(ctx: &Context, situation: &Situation, browser: &Browser, now: UnixTime) -> Result<(), OAuthError> {
    let (Step::Consent(shown), Some(signed_in), Some(client)) =
        (&situation.step, &situation.signed_in, &situation.client)
    else {
        return Ok(());
    };
    let mut progress = situation.flow.progress.clone();
    if progress.session_id.as_ref() != Some(&signed_in.session.id) {
        progress =
            crate::domain::flow::Progress { session_id: Some(signed_in.session.id.clone()), ..Default::default() };
    }
    progress.consented = true;
    let decision = Decision {
        user: signed_in.user.id.clone(),
        client: client.id.clone(),
        client_name: client.name().to_owned(),
        allowed: shown.clone(),
        origin: browser.origin.clone(),
        flow: situation.id,
        progress,
    };
    ctx.store.record_consent(decision, now).await?;
    Ok(())
}
