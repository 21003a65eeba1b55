//! Another mail address: asked for here, in force once the link that goes there is opened (`http/email_change`).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::Context;
use crate::flow::email_change::{Asking, ask};
use crate::protocol::params::Params;

use super::pages::EmailPage;
use super::{Visit, done, failed, notice, recent_visit, recent_visit_by_form, show};
use crate::http::links;
use crate::http::request::PageForm;

pub const PATH: &str = "/account/email";

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    match recent_visit(&request, &ctx, PATH).await {
        Ok(visit) => {
            let sent = "A mail is on its way to the new address. Open the link in it in this browser.";
            let proposed = visit.signed_in.user.email.clone().filter(|_| !visit.signed_in.user.email_verified);
            form(&ctx, &visit, &proposed.unwrap_or_default(), notice(&request, &[("sent", sent)]), None)
        }
        Err(response) => response,
    }
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(typed): PageForm) -> HttpResponse {
    change(&request, &ctx, &typed).await.unwrap_or_else(|response| response)
}

async fn change(request: &HttpRequest, ctx: &Context, typed: &Params) -> Result<HttpResponse, HttpResponse> {
    let visit = recent_visit_by_form(request, ctx, PATH, typed).await?;
    let (email, now) = (typed.get("email").unwrap_or_default(), ctx.now());
    if ctx.config.mail.is_none() {
        return Ok(form(ctx, &visit, email, None, None));
    }
    Ok(match ask(ctx, &visit.signed_in.user, email, &visit.browser, now).await.map_err(failed(ctx))? {
        Asking::Sent => done(ctx, PATH, "sent"),
        Asking::Refused(why) => form(ctx, &visit, email, None, Some(why)),
        Asking::Wait(until) => links::wait(until, now, ctx.config.issuer.is_https()),
    })
}

fn form(ctx: &Context, visit: &Visit, email: &str, notice: Option<&str>, error: Option<&str>) -> HttpResponse {
    let user = &visit.signed_in.user;
    let body = EmailPage {
        csrf: &visit.csrf(PATH),
        notice,
        error,
        current: user.email.as_deref(),
        verified: user.email_verified,
        email,
        mail_goes_out: ctx.config.mail.is_some(),
    };
    show(ctx, visit, &body, error.map(|_| StatusCode::UNPROCESSABLE_ENTITY))
}
