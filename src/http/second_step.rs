//! The second step of a sign-in: the code's page, the recovery code's, and setting up the first app on the way.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::{ExposeSecret, SecretString};

use crate::clock::UnixTime;
use crate::flow::Context;
use crate::flow::enrolment;
use crate::flow::interaction::Step;
use crate::flow::second_factor::{self, Outcome, Shown, enrolment_place};
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;

use super::answer::{PageOptions, error_page, flow_gone, page, span_words, wait_words, with_cookies};
use super::flow::{Notice, Visit, back_to, enter, given, posted, show, visit};
use super::pages::{MfaPage, QrPicture, RecoveryCodesPage, RecoveryPage, TotpEnrolPage};
use super::request::PageForm;

pub fn code_page(ctx: &Context, visit: &Visit, notice: &Notice<'_>, options: &PageOptions<'_>) -> HttpResponse {
    let Some(person) = visit.situation.person() else { return flow_gone(options.https) };
    let body = MfaPage {
        flow_id: &visit.id,
        csrf: &visit.browser.csrf(&visit.purpose()),
        client_name: visit.situation.client.as_ref().map(|client| client.name()),
        account_name: &person.label(),
        trust_for: Some(ctx.config.mfa.trust_browser).filter(|span| !span.is_zero()).map(span_words),
        error: notice.error,
        wait: notice.wait,
    };
    page(&body, options)
}

fn recovery_code_page(visit: &Visit, notice: &Notice<'_>, https: bool) -> HttpResponse {
    let Some(person) = visit.situation.person() else { return flow_gone(https) };
    let body = RecoveryPage {
        flow_id: &visit.id,
        csrf: &visit.browser.csrf(&visit.purpose()),
        client_name: visit.situation.client.as_ref().map(|client| client.name()),
        account_name: &person.label(),
        error: notice.error,
        wait: notice.wait,
    };
    // Whoever cancels here goes back to the application.
    let target = visit.form_target();
    page(&body, &PageOptions { form_target: target, https, status: notice.status, ..PageOptions::default() })
}

pub async fn enrol_page(ctx: &Context, visit: &Visit, notice: &Notice<'_>, options: &PageOptions<'_>) -> HttpResponse {
    let Some(person) = visit.situation.person() else { return flow_gone(options.https) };
    let name = if notice.device.is_empty() { "My phone" } else { notice.device };
    let shown = async {
        let secret = enrolment::show(ctx, &person.id, &enrolment_place(&visit.situation), ctx.now()).await?;
        let link = secret.link(ctx.config.issuer.url().authority(), &person.username)?;
        let body = TotpEnrolPage {
            flow_id: Some(&visit.id),
            action: &format!("/flow/{}/enrol", visit.id),
            csrf: &visit.browser.csrf(&visit.purpose()),
            client_name: visit.situation.client.as_ref().map(|client| client.name()),
            is_first: true,
            account_name: &person.label(),
            secret: &secret.text(),
            link: &link,
            picture: QrPicture::of(&link).unwrap_or_default(),
            name,
            error: notice.error,
            wait: notice.wait,
        };
        Ok(page(&body, options))
    };
    shown.await.unwrap_or_else(|error: OAuthError| error_page(&error, options.https))
}

/// The address of the recovery code's form, opened like a page: that is how one comes to it.
pub async fn recovery_page(request: HttpRequest, ctx: web::Data<Context>, id: web::Path<String>) -> HttpResponse {
    match visit(&request, &ctx, id.into_inner()).await {
        Ok(visit) if matches!(visit.situation.step, Step::SecondFactor) => {
            recovery_code_page(&visit, &Notice::default(), ctx.config.issuer.is_https())
        }
        Ok(visit) => back_to(&ctx, &visit),
        Err(response) => response,
    }
}

pub async fn code(
    request: HttpRequest,
    ctx: web::Data<Context>,
    id: web::Path<String>,
    PageForm(form): PageForm,
) -> HttpResponse {
    let shown = Shown::Code { code: form.get("code").unwrap_or_default(), trust: form.get("trust") == Some("yes") };
    let wrong = "That code is not right, or was used already. Wait for the next one and type it.";
    take(&request, &ctx, id.into_inner(), &form, shown, wrong).await.unwrap_or_else(|response| response)
}

pub async fn recovery(
    request: HttpRequest,
    ctx: web::Data<Context>,
    id: web::Path<String>,
    PageForm(form): PageForm,
) -> HttpResponse {
    let shown = Shown::RecoveryCode(form.get("recovery_code").unwrap_or_default());
    let wrong = "That code is not one of yours, or was used already. Please try another.";
    take(&request, &ctx, id.into_inner(), &form, shown, wrong).await.unwrap_or_else(|response| response)
}

async fn take(
    request: &HttpRequest,
    ctx: &Context,
    id: String,
    form: &Params,
    shown: Shown<'_>,
    wrong: &'static str,
) -> Result<HttpResponse, HttpResponse> {
    let visit = of_this_step(request, ctx, id, form).await?;
    let (now, is_recovery) = (ctx.now(), matches!(shown, Shown::RecoveryCode(_)));
    let outcome = second_factor::show(ctx, &visit.situation, &visit.browser, shown, now).await;
    let Some(refused) = refused(ctx, &outcome, wrong, now) else { return Ok(onward(ctx, visit, outcome).await) };
    let notice = refused.notice();
    Ok(refused.told(if is_recovery {
        recovery_code_page(&visit, &notice, ctx.config.issuer.is_https())
    } else {
        show(ctx, &visit, &notice).await
    }))
}

pub async fn enrol(
    request: HttpRequest,
    ctx: web::Data<Context>,
    id: web::Path<String>,
    PageForm(form): PageForm,
) -> HttpResponse {
    let visit = match of_this_step(&request, &ctx, id.into_inner(), &form).await {
        Ok(visit) => visit,
        Err(response) => return response,
    };
    let now = ctx.now();
    let (code, name) = (form.get("code").unwrap_or_default(), form.get("name").unwrap_or_default());
    let outcome = second_factor::enrol(&ctx, &visit.situation, &visit.browser, code, name, now).await;
    match refused(&ctx, &outcome, WRONG_FIRST_CODE, now) {
        Some(refused) => {
            let notice = Notice { device: name, ..refused.notice() };
            refused.told(show(&ctx, &visit, &notice).await)
        }
        None => onward(&ctx, visit, outcome).await,
    }
}

/// The flow of a form that is of the step at which it stands; any other leads to where it is.
async fn of_this_step(request: &HttpRequest, ctx: &Context, id: String, form: &Params) -> Result<Visit, HttpResponse> {
    let visit = posted(request, ctx, id, form).await?;
    if visit.is_of_this_step(form) { Ok(visit) } else { Err(back_to(ctx, &visit)) }
}

pub const WRONG_FIRST_CODE: &str = "That code is not right. Check that the clock of your phone is set by itself, and type the code that the app shows now.";

/// Why the page is shown again.
enum Refused {
    Wrong(&'static str),
    Wait { words: String, seconds: u64 },
}

/// Counts what came of a code, and says whether its page is shown again.
fn refused(
    ctx: &Context,
    outcome: &Result<Outcome, OAuthError>,
    wrong: &'static str,
    now: UnixTime,
) -> Option<Refused> {
    ctx.metrics.sign_in(outcome.as_ref().map_or("failed", Outcome::as_str));
    match outcome {
        Ok(Outcome::Wrong) => Some(Refused::Wrong(wrong)),
        Ok(Outcome::Wait(until)) => {
            let (words, seconds) = wait_words(*until, now);
            Some(Refused::Wait { words, seconds })
        }
        _ => None,
    }
}

impl Refused {
    fn notice(&self) -> Notice<'_> {
        match self {
            Self::Wrong(error) => Notice { error: Some(error), ..Notice::default() },
            Self::Wait { words, .. } => {
                let status = Some(StatusCode::TOO_MANY_REQUESTS);
                Notice { wait: Some(words), status, ..Notice::default() }
            }
        }
    }

    /// RFC 6585 section 4: when to try again.
    fn told(&self, mut page: HttpResponse) -> HttpResponse {
        if let Self::Wait { seconds, .. } = self {
            page.headers_mut().insert(RETRY_AFTER, HeaderValue::from(*seconds));
        }
        page
    }
}

async fn onward(ctx: &Context, visit: Visit, outcome: Result<Outcome, OAuthError>) -> HttpResponse {
    match outcome {
        Ok(Outcome::SignedIn(entry)) => enter(ctx, visit, entry).await,
        Ok(Outcome::Enrolled(entry, codes)) => {
            let Some(person) = visit.situation.person().filter(|_| !codes.is_empty()) else {
                return enter(ctx, visit, entry).await;
            };
            let lines = given(ctx, &visit, &entry);
            let (next, notice) = (format!("/flow/{}", visit.id), "Your authenticator app is set up.");
            with_cookies(codes_page(ctx, &person.label(), &codes, notice, &next), lines)
        }
        Ok(_) => back_to(ctx, &visit),
        Err(error) => error_page(&error, ctx.config.issuer.is_https()),
    }
}

/// New recovery codes, in the answer to the form that made them: nowhere else are they ever readable.
pub fn codes_page(ctx: &Context, account_name: &str, codes: &[SecretString], notice: &str, next: &str) -> HttpResponse {
    let codes = codes.iter().map(ExposeSecret::expose_secret).collect();
    let body = RecoveryCodesPage { account_name, issuer: ctx.issuer(), notice, codes, next };
    page(&body, &PageOptions { https: ctx.config.issuer.is_https(), ..PageOptions::default() })
}
