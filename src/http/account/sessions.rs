//! Where the person is signed in, and ending it.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::flow::Context;
use crate::flow::account::{end_other_sessions, end_session, sessions, untold};
use crate::protocol::params::Params;

use super::pages::{SessionRow, SessionsPage, UntoldRow};
use super::{done, failed, moment, notice, show, visit, visit_by_form};
use crate::http::request::PageForm;

pub const PATH: &str = "/account/sessions";

pub async fn get(request: HttpRequest, ctx: web::Data<Context>) -> HttpResponse {
    list(&request, &ctx).await.unwrap_or_else(|response| response)
}

async fn list(request: &HttpRequest, ctx: &Context) -> Result<HttpResponse, HttpResponse> {
    let visit = visit(request, ctx, PATH).await?;
    let sessions = sessions(ctx, &visit.signed_in, ctx.now()).await.map_err(failed(ctx))?;
    let untold = untold(ctx, &visit.signed_in).await.map_err(failed(ctx))?;
    let zone = visit.zone();
    let row = |session: crate::store::OpenSession| SessionRow {
        device: session.origin.device(),
        this_one: session.id == visit.signed_in.session.id,
        first_seen: moment(&zone, session.created_at),
        first_address: session.created_address,
        last_seen: moment(&zone, session.last_seen_at),
        last_address: session.origin.address,
        id: session.id.as_str().to_owned(),
    };
    let body = SessionsPage {
        csrf: &visit.csrf(PATH),
        notice: notice(
            request,
            &[
                ("ended", "That browser is signed out."),
                ("gone", "That sign-in had ended already."),
                ("others-ended", "Every other browser is signed out."),
            ],
        ),
        zone: zone.name(),
        sessions: sessions.into_iter().map(row).collect(),
        untold: untold.into_iter().map(|(name, at)| UntoldRow { name, ended: moment(&zone, at) }).collect(),
    };
    Ok(show(ctx, &visit, &body, None))
}

pub async fn post(request: HttpRequest, ctx: web::Data<Context>, PageForm(form): PageForm) -> HttpResponse {
    end(&request, &ctx, &form).await.unwrap_or_else(|response| response)
}

async fn end(request: &HttpRequest, ctx: &Context, form: &Params) -> Result<HttpResponse, HttpResponse> {
    let visit = visit_by_form(request, ctx, PATH, form).await?;
    let now = ctx.now();
    let word = match form.get("session") {
        Some("others") => {
            end_other_sessions(ctx, &visit.signed_in, &visit.browser, now).await.map_err(failed(ctx))?;
            "others-ended"
        }
        // This very session ends by signing out, which also takes the cookie back.
        Some(session) if session != visit.signed_in.session.id.as_str() => {
            let ended = end_session(ctx, &visit.signed_in, session, &visit.browser, now).await.map_err(failed(ctx))?;
            if ended { "ended" } else { "gone" }
        }
        _ => "gone",
    };
    Ok(done(ctx, PATH, word))
}
