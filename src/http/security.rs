//! `/account/security`: second factors, recovery codes and trusted browsers. Whoever opens it has just proven who they are.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::config::MfaRequired;
use crate::domain::activity::{Event, Origin};
use crate::domain::session::SignedIn;
use crate::domain::user::User;
use crate::domain::zone::Zone;
use crate::flow::Context;
use crate::flow::assurance::may_go_without;
use crate::flow::enrolment::{self, Confirmed};
use crate::flow::login::strong_mark;
use crate::flow::mail::notice;
use crate::flow::session::Browser;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;
use crate::store::{Added, FactorChange};

use super::answer::{PageOptions, error_page, forged, not_found, page, see_other, with_cookies};
use super::authorize::with_browser_cookie;
use super::flow::KNOWN_FOR;
use super::pages::{QrPicture, SecurityPage, ShownBrowser, ShownDevice, TotpEnrolPage};
use super::recent::recent;
use super::request::{CookieNames, PageForm, is_own_form, session_cookies};
use super::second_step::{WRONG_FIRST_CODE, codes_page};

const PAGE: &str = "/account/security";
const DONE: &str = "Your authenticator app is set up.";
const TOTP_PAGE: &str = "/account/totp";

/// What the forms of these pages are bound to, with the session that they were shown in.
fn purpose(signed_in: &SignedIn) -> String {
    format!("security\n{}", signed_in.session.id)
}

/// The address of a form, opened like a page.
pub async fn back(ctx: web::Data<Context>) -> HttpResponse {
    see_other(PAGE, ctx.config.issuer.is_https())
}

/// Somebody who may change their factors, here and now.
struct Owner {
    browser: Browser,
    signed_in: SignedIn,
}

async fn owner(request: &HttpRequest, ctx: &Context, page: &'static str) -> Result<Owner, HttpResponse> {
    if ctx.config.mfa.required == MfaRequired::Never {
        return Err(not_found().await);
    }
    let (browser, signed_in) = recent(request, ctx, page).await?;
    Ok(Owner { browser, signed_in })
}

/// The same for a form, which must come from the page.
async fn posted(
    request: &HttpRequest,
    ctx: &Context,
    page: &'static str,
    form: &Params,
) -> Result<Owner, HttpResponse> {
    let owner = owner(request, ctx, page).await?;
    if is_own_form(request, ctx, &owner.browser, form, &purpose(&owner.signed_in)) {
        Ok(owner)
    } else {
        Err(forged(ctx.config.issuer.is_https()))
    }
}

impl Owner {
    fn user(&self) -> &User {
        &self.signed_in.user
    }

    fn change(&self, ctx: &Context, form: &Params, event: Event, detail: &str) -> Result<FactorChange, OAuthError> {
        let notice = notice(ctx, self.user(), event, detail, &self.browser.origin, ctx.now())?;
        Ok(FactorChange {
            user: self.user().id.clone(),
            origin: self.browser.origin.clone(),
            session: self.signed_in.session.id.clone(),
            ends_others: form.get("end_others") == Some("yes"),
            notices: notice.into_iter().collect(),
        })
    }
}

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match owner(&request, &ctx, PAGE).await {
        Ok(owner) => show(&ctx, &owner, told(&request), None).await,
        Err(response) => response,
    }
}

/// What the page tells of a change just made: one of its own sentences, chosen by a word in the address.
fn told(request: &HttpRequest) -> Option<&'static str> {
    match request.query_string() {
        "added" => Some(DONE),
        "removed" => Some("The authenticator app is removed."),
        "distrusted" => Some("That browser will need a code again."),
        _ => None,
    }
}

async fn show(ctx: &Context, owner: &Owner, notice: Option<&str>, error: Option<&str>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let shown = async {
        let (user, now) = (owner.user(), ctx.now());
        let zone = Zone::of(user);
        let devices = ctx.store.list_totp_devices(user.id.clone()).await?;
        let browsers = ctx.store.list_trusted_browsers(user.id.clone(), ctx.config.mfa.trust_browser, now).await?;
        let body = SecurityPage {
            csrf: &owner.browser.csrf(&purpose(&owner.signed_in)),
            account_name: &user.label(),
            notice,
            error,
            can_add: devices.len() < crate::store::MOST_DEVICES,
            can_remove_last: may_go_without(&ctx.config.mfa, user.into()),
            devices: devices
                .into_iter()
                .map(|device| ShownDevice {
                    id: device.id,
                    name: device.name,
                    added: zone.words(device.created_at),
                    used: device.last_used_at.map(|at| zone.words(at)),
                })
                .collect(),
            codes_left: ctx.store.count_recovery_codes(user.id.clone()).await?,
            trusts_browsers: !ctx.config.mfa.trust_browser.is_zero(),
            browsers: browsers
                .into_iter()
                .map(|browser| ShownBrowser {
                    id: browser.id,
                    name: Origin { address: String::new(), user_agent: browser.user_agent }.device(),
                    address: browser.address,
                    since: zone.words(browser.created_at),
                    until: zone.words(browser.expires_at),
                })
                .collect(),
        };
        Ok(page(&body, &PageOptions { https, ..PageOptions::default() }))
    };
    let response = shown.await.unwrap_or_else(|error: OAuthError| error_page(&error, https));
    with_browser_cookie(response, &owner.browser, https)
}

fn place(owner: &Owner) -> String {
    format!("session {}", owner.signed_in.session.id)
}

pub async fn totp(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match owner(&request, &ctx, TOTP_PAGE).await {
        Ok(owner) => show_totp(&ctx, &owner, "", None).await,
        Err(response) => response,
    }
}

async fn show_totp(ctx: &Context, owner: &Owner, name: &str, error: Option<&str>) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let shown = async {
        let user = owner.user();
        let secret = enrolment::show(ctx, &user.id, &place(owner), ctx.now()).await?;
        let link = secret.link(ctx.config.issuer.url().authority(), &user.username)?;
        let body = TotpEnrolPage {
            flow_id: None,
            action: TOTP_PAGE,
            csrf: &owner.browser.csrf(&purpose(&owner.signed_in)),
            client_name: None,
            is_first: !user.has_second_factor,
            account_name: &user.label(),
            secret: &secret.text(),
            link: &link,
            picture: QrPicture::of(&link).unwrap_or_default(),
            name: if name.is_empty() { "My phone" } else { name },
            error,
            wait: None,
        };
        Ok(page(&body, &PageOptions { https, ..PageOptions::default() }))
    };
    shown.await.unwrap_or_else(|error: OAuthError| error_page(&error, https))
}

pub async fn add_totp(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let owner = match posted(&request, &ctx, TOTP_PAGE, &form).await {
        Ok(owner) => owner,
        Err(response) => return response,
    };
    let (code, name) = (form.get("code").unwrap_or_default(), form.get("name").unwrap_or_default());
    let added = async {
        let (user, now) = (owner.user(), ctx.now());
        let confirmed = enrolment::confirm(&ctx, &user.id, &place(&owner), code, name, now).await?;
        let Some(Confirmed { device, codes }) = confirmed else {
            return Ok(show_totp(&ctx, &owner, name, Some(WRONG_FIRST_CODE)).await);
        };
        let (rise, cookie) = enrolment::rise(&ctx, &owner.signed_in.session, now)?;
        let change = owner.change(&ctx, &form, Event::FactorAdded, &device.name)?;
        let added = ctx.store.add_totp_device(change, device, rise, now).await?;
        let response = match added {
            Added::Done { codes: true } => codes_page(&ctx, &user.label(), &codes, DONE, PAGE),
            Added::Done { codes: false } => see_other("/account/security?added", ctx.config.issuer.is_https()),
            Added::Gone => {
                let error = "Nothing was added: this secret was confirmed already, or you have ten apps.";
                return Ok(show(&ctx, &owner, None, Some(error)).await);
            }
        };
        let https = ctx.config.issuer.is_https();
        let names = CookieNames::new(https);
        let known = strong_mark(&ctx, &user.username).await?;
        let known = known.map(|known| names.set(names.known, &known, Some(KNOWN_FOR)));
        let session = cookie.iter().flat_map(|cookie| session_cookies(cookie, https));
        Ok(with_cookies(response, session.chain(known)))
    };
    added.await.unwrap_or_else(|error: OAuthError| error_page(&error, ctx.config.issuer.is_https()))
}

pub async fn remove_totp(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let owner = match posted(&request, &ctx, PAGE, &form).await {
        Ok(owner) => owner,
        Err(response) => return response,
    };
    let device = form.get("device").unwrap_or_default().to_owned();
    let last_must_stay = !may_go_without(&ctx.config.mfa, owner.user().into());
    let removed = async {
        let named =
            ctx.store.list_totp_devices(owner.user().id.clone()).await?.into_iter().find(|own| own.id == device);
        let name = named.map(|named| named.name).unwrap_or_default();
        let change = owner.change(&ctx, &form, Event::FactorRemoved, &name)?;
        Ok(if ctx.store.remove_totp_device(change, device, last_must_stay, ctx.now()).await? {
            see_other("/account/security?removed", ctx.config.issuer.is_https())
        } else {
            show(&ctx, &owner, None, Some("Nothing was removed.")).await
        })
    };
    removed.await.unwrap_or_else(|error: OAuthError| error_page(&error, ctx.config.issuer.is_https()))
}

pub async fn new_recovery_codes(
    request: HttpRequest,
    ctx: web::Data<Context>,
    PageForm(form): PageForm,
) -> HttpResponse {
    let owner = match posted(&request, &ctx, PAGE, &form).await {
        Ok(owner) => owner,
        Err(response) => return response,
    };
    let made = async {
        let user = owner.user();
        let (codes, digests) = enrolment::new_codes(&user.id)?;
        let change = owner.change(&ctx, &form, Event::RecoveryCodesMade, "")?;
        if ctx.store.replace_recovery_codes(change, digests, ctx.now()).await? {
            Ok(codes_page(&ctx, &user.label(), &codes, "These codes are new.", PAGE))
        } else {
            Ok(show(&ctx, &owner, None, Some("Recovery codes come with an authenticator app.")).await)
        }
    };
    made.await.unwrap_or_else(|error: OAuthError| error_page(&error, ctx.config.issuer.is_https()))
}

pub async fn distrust(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let owner = match posted(&request, &ctx, PAGE, &form).await {
        Ok(owner) => owner,
        Err(response) => return response,
    };
    let (browser_id, origin) = (form.get("browser").unwrap_or_default().to_owned(), owner.browser.origin.clone());
    match ctx.store.distrust_browsers(owner.user().id.clone(), browser_id, origin, ctx.now()).await {
        Ok(true) => see_other("/account/security?distrusted", ctx.config.issuer.is_https()),
        Ok(false) => see_other(PAGE, ctx.config.issuer.is_https()),
        Err(error) => error_page(&error.into(), ctx.config.issuer.is_https()),
    }
}
