//! Changes in the account are for whoever has just proven who they are, with everything that the account has to prove it
//! with: a session left open somewhere changes nothing.

use std::time::Duration;

use secrecy::SecretString;

use crate::clock::UnixTime;
use crate::config::MfaConfig;
use crate::domain::flow::Destination;
use crate::domain::session::SignedIn;
use crate::protocol::error::OAuthError;

use super::Context;
use super::assurance::{Demand, Missing, missing};
use super::authorize::start_flow;
use super::session::{Browser, current};

/// How long a full sign-in is good for changes.
const RECENT: Duration = Duration::from_mins(5);

/// Whether a person may change their account: signed in a moment ago, with the second factor where they have one (OWASP
/// ASVS V7.5.1).
#[must_use]
pub fn is_recent(policy: &MfaConfig, signed_in: &SignedIn, now: UnixTime) -> bool {
    let multi_factor = signed_in.session.authentication.is_multi_factor();
    let lacks = missing(policy, (&signed_in.user).into(), Demand::Wish, multi_factor, false);
    lacks != Missing::SecondFactor && now.since(signed_in.session.proven_at) <= RECENT
}

/// The same, where everybody must have a second factor also of those who have none yet.
fn may_change(ctx: &Context, signed_in: &SignedIn, now: UnixTime) -> bool {
    let multi_factor = signed_in.session.authentication.is_multi_factor();
    let lacks = missing(&ctx.config.mfa, (&signed_in.user).into(), Demand::Wish, multi_factor, false);
    lacks != Missing::Enrolment && is_recent(&ctx.config.mfa, signed_in, now)
}

/// Who stands before a page of changes.
pub enum Standing {
    /// Somebody who may make them.
    Recent(Box<SignedIn>),
    /// Somebody who must prove first that it is them: in this flow, which comes back to the page.
    Prove(SecretString),
}

/// Lets a person through to a page of changes, or sends them through a sign-in that leads back there.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn standing(
    ctx: &Context,
    browser: &Browser,
    page: &'static str,
    now: UnixTime,
) -> Result<Standing, OAuthError> {
    match current(ctx, browser, now).await? {
        Some(signed_in) if may_change(ctx, &signed_in, now) => Ok(Standing::Recent(Box::new(signed_in))),
        _ => {
            let flow = start_flow(ctx, Destination::Account { page: page.to_owned() }, browser, now).await?;
            Ok(Standing::Prove(flow))
        }
    }
}
