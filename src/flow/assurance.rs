//! How strong a sign-in must be, and whether it is: the one place that decides it, for every door (OWASP ASVS V6.3.4).

use crate::clock::UnixTime;
use crate::config::{Config, MfaConfig, MfaRequired};
use crate::domain::client::Client;
use crate::domain::grant::Grant;
use crate::domain::session::{Authentication, SignedIn};
use crate::domain::user::User;
use crate::protocol::acr::{AcrNames, Class};
use crate::protocol::authorization::AuthorizationRequest;
use crate::protocol::error::OAuthError;
use crate::store::StoreError;

use super::Context;
use super::session::Browser;

/// What is asked of a sign-in beyond what the policy asks of everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    Nothing,
    /// A second factor, of whoever has one.
    Wish,
    /// A second factor, or no answer.
    Must,
}

/// What a policy needs to know of a person.
#[derive(Clone, Copy, Debug)]
pub struct Person {
    pub has_second_factor: bool,
    pub is_admin: bool,
}

impl From<&User> for Person {
    fn from(user: &User) -> Self {
        Self { has_second_factor: user.has_second_factor, is_admin: user.is_admin }
    }
}

/// What a sign-in by password still lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Nothing,
    /// The second factor that the person has.
    SecondFactor,
    /// A second factor at all: it is to be set up now.
    Enrolment,
    /// A second factor, where nobody can have one.
    Unmeetable,
}

/// What is missing. `multi_factor`: a second factor was shown already; `trusted`: the person trusts this browser to need
/// none, which counts for what the policy asks of everybody and for nothing that was asked for by name.
#[must_use]
pub fn missing(policy: &MfaConfig, person: Person, demand: Demand, multi_factor: bool, trusted: bool) -> Missing {
    if multi_factor {
        return Missing::Nothing;
    }
    if policy.required == MfaRequired::Never {
        return if demand == Demand::Must { Missing::Unmeetable } else { Missing::Nothing };
    }
    let must = demand == Demand::Must || (policy.required_for_admins && person.is_admin);
    match person.has_second_factor {
        true if trusted && !must && demand == Demand::Nothing => Missing::Nothing,
        true => Missing::SecondFactor,
        false if must || policy.required == MfaRequired::Always => Missing::Enrolment,
        false => Missing::Nothing,
    }
}

/// Whether the policy lets a person go without any second factor.
#[must_use]
pub fn may_go_without(policy: &MfaConfig, person: Person) -> bool {
    let without = Person { has_second_factor: false, ..person };
    missing(policy, without, Demand::Nothing, false, false) == Missing::Nothing
}

fn offered(policy: &MfaConfig) -> impl Iterator<Item = Class> {
    let never = policy.required == MfaRequired::Never;
    Class::ALL.into_iter().filter(move |class| *class == Class::Password || !never)
}

/// `acr_values_supported`: what a sign-in here can reach, weakest first.
#[must_use]
pub fn acr_values(config: &Config) -> Vec<&str> {
    config.acr.list(offered(&config.mfa))
}

/// What a client and its request ask of a sign-in: what the client is registered for, an essential `acr` (OpenID Connect
/// Core section 5.5.1.1), or the class that its `acr_values` name first, which is a wish (section 3.1.2.1).
///
/// # Errors
/// `unmet_authentication_requirements` for an essential class that no sign-in here can reach.
pub fn demand(config: &Config, client: &Client, request: &AuthorizationRequest) -> Result<Demand, OAuthError> {
    let reachable =
        |name: &&str| config.acr.class_of(name).filter(|class| offered(&config.mfa).any(|own| own == *class));
    let of = |class: Option<Class>, demand: Demand| if class == Some(Class::Mfa) { demand } else { Demand::Nothing };
    let essential = match request.claims.essential_acr() {
        None => Demand::Nothing,
        Some(names) => match names.iter().filter_map(reachable).min() {
            None => return Err(unmet()),
            weakest => of(weakest, Demand::Must),
        },
    };
    let wished = wishes(request).iter().find_map(reachable);
    let registered = if client.metadata.require_mfa { Demand::Must } else { Demand::Nothing };
    Ok(essential.max(registered).max(of(wished, Demand::Wish)))
}

/// The answer to a client whose demand cannot be met.
#[must_use]
pub fn unmet() -> OAuthError {
    OAuthError::unmet_authentication_requirements("The sign-in cannot be made as strong as it is asked to be.")
}

fn wishes(request: &AuthorizationRequest) -> Vec<&str> {
    let by_parameter = request.acr_values.iter().map(String::as_str);
    by_parameter.chain(request.claims.wished_acr()).collect()
}

/// How a session's sign-in is told to a client: `acr` by the name that it was asked for by.
#[must_use]
pub fn told(names: &AcrNames, request: &AuthorizationRequest, authentication: &Authentication) -> Authentication {
    let class = if authentication.is_multi_factor() { Class::Mfa } else { Class::Password };
    let acr = names.answer(request.claims.essential_acr().as_deref(), &wishes(request), class);
    Authentication { acr, ..authentication.clone() }
}

/// Whether this browser is one that its person trusts; asked of the database only where the answer matters.
///
/// # Errors
/// When the database cannot be read.
pub async fn is_trusted(
    ctx: &Context,
    browser: &Browser,
    user_id: &crate::domain::ids::UserId,
    person: Person,
    now: UnixTime,
) -> Result<bool, StoreError> {
    match browser.trust {
        Some(token) if person.has_second_factor && !ctx.config.mfa.trust_browser.is_zero() => {
            ctx.store.is_trusted_browser(token, user_id.clone(), ctx.config.mfa.trust_browser, now).await
        }
        _ => Ok(false),
    }
}

/// The person signed in here, as far as their session is what the policy asks for. A session of before a second factor
/// was set up, or asked for, opens none of our own pages.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn sufficient(ctx: &Context, browser: &Browser, now: UnixTime) -> Result<Option<SignedIn>, StoreError> {
    let Some(signed_in) = super::session::current(ctx, browser, now).await? else { return Ok(None) };
    let lacks = lacks(ctx, browser, &signed_in, now).await?;
    Ok(Some(signed_in).filter(|_| lacks == Missing::Nothing))
}

/// What a session lacks for our own pages.
///
/// # Errors
/// When the database cannot be read.
pub async fn lacks(
    ctx: &Context,
    browser: &Browser,
    signed_in: &SignedIn,
    now: UnixTime,
) -> Result<Missing, StoreError> {
    let (person, multi_factor) = (Person::from(&signed_in.user), signed_in.session.authentication.is_multi_factor());
    let trusted = !multi_factor && is_trusted(ctx, browser, &signed_in.user.id, person, now).await?;
    Ok(missing(&ctx.config.mfa, person, Demand::Nothing, multi_factor, trusted))
}

/// Whether a grant may still be refreshed: what the policy and the client have come to demand, its sign-in has shown.
///
/// # Errors
/// When the database cannot be read.
pub async fn still_suffices(ctx: &Context, client: &Client, grant: &Grant) -> Result<bool, StoreError> {
    let (policy, by_password) = (&ctx.config.mfa, !grant.authentication.is_multi_factor());
    // The person is looked up only where the answer hangs on them.
    let person = if by_password && (policy.required == MfaRequired::Always || policy.required_for_admins) {
        ctx.store.find_user(grant.user_id.clone()).await?.as_ref().map(Person::from)
    } else {
        None
    };
    Ok(suffices(policy, client.metadata.require_mfa, by_password, person))
}

/// Whether what a password alone opened, or both factors, may go on. Whoever has a second factor and what goes on without it
/// gave that from a browser that they trust: all else ended when they set it up.
fn suffices(policy: &MfaConfig, client_demands: bool, by_password: bool, person: Option<Person>) -> bool {
    let admin = policy.required_for_admins && person.is_some_and(|person| person.is_admin);
    let trusting = !policy.trust_browser.is_zero() && person.is_some_and(|person| person.has_second_factor);
    !by_password || (!client_demands && !admin && (policy.required != MfaRequired::Always || trusting))
}

#[cfg(test)]
mod tests;
