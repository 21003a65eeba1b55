//! What happened to the account.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::domain::activity::{Activity, Event};
use crate::flow::Context;
use crate::flow::account::activity;

use super::pages::{ActivityPage, ActivityRow};
use super::{failed, moment, show, visit};

pub const PATH: &str = "/account/activity";
/// As many as a person looks through; the download has all.
const SHOWN: u32 = 100;

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    list(&request, &ctx).await.unwrap_or_else(|response| response)
}

async fn list(request: &HttpRequest, ctx: &Context) -> Result<HttpResponse, HttpResponse> {
    let visit = visit(request, ctx, PATH).await?;
    let mut entries = activity(ctx, &visit.signed_in, SHOWN + 1).await.map_err(failed(ctx))?;
    let more = entries.len() > SHOWN as usize;
    entries.truncate(SHOWN as usize);
    let zone = visit.zone();
    let row = |activity: Activity| ActivityRow {
        what: in_words(activity.event),
        failure: activity.event == Event::SignInFailed,
        at: moment(&zone, activity.at),
        device: activity.origin.device(),
        address: activity.origin.address,
        detail: activity.detail,
    };
    let body = ActivityPage { zone: zone.name(), entries: entries.into_iter().map(row).collect(), more };
    Ok(show(ctx, &visit, &body, None))
}

const fn in_words(event: Event) -> &'static str {
    match event {
        Event::AccountCreated => "Account created",
        Event::SignedIn => "Signed in",
        Event::SignInFailed => "Failed sign-in",
        Event::SignedOut => "Signed out",
        Event::SessionEnded => "Another browser signed out",
        Event::ProfileChanged => "Profile changed",
        Event::EmailChangeAsked => "New e-mail address asked for",
        Event::EmailChanged => "E-mail address changed",
        Event::PasswordChanged => "Password changed",
        Event::PasswordReset => "Password set anew by a link from a mail",
        Event::PasswordResetAsked => "Link for a new password asked for",
        Event::FactorAdded => "Second step added",
        Event::FactorRemoved => "Second step removed",
        Event::RecoveryCodesMade => "Recovery codes made",
        Event::RecoveryCodeUsed => "Recovery code used",
        Event::BrowserTrusted => "Browser trusted to skip the second step",
        Event::BrowserDistrusted => "Browser no longer trusted to skip the second step",
        Event::ConsentGiven => "Access given to an app",
        Event::ConsentRevoked => "Access taken back from an app",
        Event::DataDownloaded => "Data downloaded",
        Event::DeletionAsked => "Deletion of the account asked for",
        Event::AccountDisabled => "Account shut",
        Event::AccountEnabled => "Account opened again",
        Event::AccountDeleted => "Account deleted",
    }
}
