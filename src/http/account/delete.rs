//! The end of an account, by its owner's word and by a link to their mailbox.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::crypto::opaque::Digest;
use crate::domain::link::LinkKind;
use crate::domain::user::normal_name;
use crate::flow::Context;
use crate::flow::account::{Leave, Leaving, delete, leave, open_leave};
use crate::protocol::params::Params;
use crate::store::Deletion;

use super::pages::{DeleteConfirmPage, DeletePage, DeletedPage};
use super::{Visit, done, failed, notice, recent_visit, recent_visit_by_form, show};
use crate::http::answer::with_cookies;
use crate::http::email_change::other_account;
use crate::http::links;
use crate::http::request::{CookieNames, PageForm, no_session_cookies};

pub const PATH: &str = "/account/delete";
pub const CONFIRM: &str = LinkKind::DeleteAccount.path();
const LAST: &str = "This is the last account that administers this service. Make somebody else an administrator first.";

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match recent_visit(&request, &ctx, PATH).await {
        Ok(visit) => {
            let sent = "A mail is on its way to you. Open the link in it in this browser; it works for 15 minutes.";
            form(&ctx, &visit, notice(&request, &[("sent", sent)]), None)
        }
        Err(response) => response,
    }
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(typed): PageForm) -> HttpResponse {
    ask(&request, &ctx, &typed).await.unwrap_or_else(|response| response)
}

async fn ask(request: &HttpRequest, ctx: &Context, typed: &Params) -> Result<HttpResponse, HttpResponse> {
    let visit = recent_visit_by_form(request, ctx, PATH, typed).await?;
    let named = typed.get("username").map(normal_name);
    if named != Some(normal_name(&visit.signed_in.user.username)) {
        let error = "That is not the user name of this account. Nothing was deleted.";
        return Ok(form(ctx, &visit, None, Some(error)));
    }
    let now = ctx.now();
    Ok(match leave(ctx, &visit.signed_in, &visit.browser, now).await.map_err(failed(ctx))? {
        Leaving::Asked => done(ctx, PATH, "sent"),
        Leaving::Deleted => deleted(ctx, &visit),
        Leaving::LastAdministrator => form(ctx, &visit, None, Some(LAST)),
        Leaving::Wait(until) => links::wait(until, now, ctx.config.issuer.is_https()),
    })
}

fn form(ctx: &Context, visit: &Visit, notice: Option<&str>, error: Option<&str>) -> HttpResponse {
    let account_name = &visit.signed_in.user.username;
    let body = DeletePage { csrf: &visit.csrf(PATH), notice, error, account_name };
    show(ctx, visit, &body, error.map(|_| StatusCode::UNPROCESSABLE_ENTITY))
}

fn deleted(ctx: &Context, visit: &Visit) -> HttpResponse {
    let names = CookieNames::new(ctx.config.issuer.is_https());
    let forget = no_session_cookies(ctx).chain([names.clear(names.known), names.clear(names.link)]);
    with_cookies(show(ctx, visit, &DeletedPage, None), forget)
}

/// The link, when it is for this person; else the answer that says why not.
async fn opened(ctx: &Context, visit: &Visit, secret: &str) -> Result<Digest, HttpResponse> {
    let (https, now) = (ctx.config.issuer.is_https(), ctx.now());
    let found = open_leave(ctx, &visit.signed_in, secret, &visit.browser, now).await.map_err(failed(ctx))?;
    match found {
        Leave::Open(link) => Ok(link),
        Leave::OtherAccount => Err(other_account(https)),
        Leave::Gone => Err(links::forget(links::gone(LinkKind::DeleteAccount, https), https)),
        Leave::Wait(until) => Err(links::wait(until, now, https)),
    }
}

pub async fn open(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    let secret = match links::brought(&request, &ctx, LinkKind::DeleteAccount) {
        Ok(secret) => secret,
        Err(response) => return *response,
    };
    let outcome = async {
        let visit = recent_visit(&request, &ctx, CONFIRM).await?;
        opened(&ctx, &visit, &secret).await?;
        let body = DeleteConfirmPage { csrf: &visit.csrf(CONFIRM), account_name: &visit.signed_in.user.label() };
        Ok(show(&ctx, &visit, &body, None))
    };
    outcome.await.unwrap_or_else(|response| response)
}

pub async fn confirm(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    let https = ctx.config.issuer.is_https();
    let secret = match links::posted(&request, &ctx, LinkKind::DeleteAccount) {
        Ok(secret) => secret,
        Err(response) => return *response,
    };
    let outcome = async {
        let visit = recent_visit_by_form(&request, &ctx, CONFIRM, &form).await?;
        let link = opened(&ctx, &visit, &secret).await?;
        let deletion = delete(&ctx, &visit.signed_in, Some(link), &visit.browser, ctx.now());
        Ok(match deletion.await.map_err(failed(&ctx))? {
            Deletion::Deleted => deleted(&ctx, &visit),
            Deletion::Gone => links::forget(links::gone(LinkKind::DeleteAccount, https), https),
            Deletion::LastAdministrator => self::form(&ctx, &visit, None, Some(LAST)),
        })
    };
    outcome.await.unwrap_or_else(|response| response)
}
