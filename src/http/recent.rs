//! The gate before pages that change an account.

use actix_web::{HttpRequest, HttpResponse};
use secrecy::ExposeSecret as _;

use crate::domain::session::SignedIn;
use crate::flow::Context;
use crate::flow::recent::{Standing, standing};
use crate::flow::session::Browser;

use super::answer::{error_page, see_other};
use super::authorize::with_browser_cookie;
use super::request::browser;

/// The person, if they have just proven who they are; else the answer that sends them to do so and back to `page`.
pub async fn recent(
    request: &HttpRequest,
    ctx: &Context,
    page: &'static str,
) -> Result<(Browser, SignedIn), HttpResponse> {
    let https = ctx.config.issuer.is_https();
    let browser = browser(request, ctx).map_err(|error| error_page(&error, https))?;
    match standing(ctx, &browser, page, ctx.now()).await.map_err(|error| error_page(&error, https))? {
        Standing::Recent(signed_in) => Ok((browser, *signed_in)),
        Standing::Prove(flow) => {
            let to_flow = see_other(&format!("/flow/{}", flow.expose_secret()), https);
            Err(with_browser_cookie(to_flow, &browser, https))
        }
    }
}
