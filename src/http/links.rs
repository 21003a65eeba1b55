//! Links of mails at the edge. The secret comes in the address once; it goes on in a cookie of this host, so that it stands
//! neither in the address bar nor in the history while the page is open (RFC 9700 section 4.2 says why).

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse};

use crate::clock::UnixTime;
use crate::crypto::opaque::MailLink;
use crate::domain::link::LinkKind;
use crate::flow::Context;
use crate::protocol::params::Params;

use super::answer::{PageOptions, page, see_other, wait_words, with_cookies};
use super::pages::{ErrorPage, Link};
use super::request::{CookieNames, cookie};

/// The secret of the link that this browser opened. While it is in the address, the answer takes it out of there.
pub fn brought(request: &HttpRequest, ctx: &Context, kind: LinkKind) -> Result<String, Box<HttpResponse>> {
    let https = ctx.config.issuer.is_https();
    let names = CookieNames::new(https);
    let query = Params::parse(request.query_string().as_bytes()).unwrap_or_default();
    match query.get("token") {
        Some(secret) if MailLink::parse(secret).is_some() => {
            let line = names.set(names.link, secret, Some(kind.lifetime()));
            Err(Box::new(with_cookies(see_other(kind.path(), https), [line])))
        }
        Some(_) => Err(Box::new(gone(kind, https))),
        None => posted(request, ctx, kind),
    }
}

/// The same for a form.
pub fn posted(request: &HttpRequest, ctx: &Context, kind: LinkKind) -> Result<String, Box<HttpResponse>> {
    let https = ctx.config.issuer.is_https();
    cookie(request, CookieNames::new(https).link).map(str::to_owned).ok_or_else(|| Box::new(gone(kind, https)))
}

/// What the form token of a link's page is for: the very link whose account the page showed. Another one that was opened
/// in this browser meanwhile, by its owner's hand or by another site's, is not used by that form.
pub fn purpose(kind: LinkKind, secret: &str) -> String {
    format!("{}\n{secret}", kind.path())
}

/// Has the browser forget a link that was used.
pub fn forget(response: HttpResponse, https: bool) -> HttpResponse {
    let names = CookieNames::new(https);
    with_cookies(response, [names.clear(names.link)])
}

/// The page for a link that cannot be used.
pub fn gone(kind: LinkKind, https: bool) -> HttpResponse {
    let (next, href, label) = match kind {
        LinkKind::ResetPassword => ("Ask for a new link.", "/password/forgot", "Ask for a new link"),
        LinkKind::Register => {
            ("If you have confirmed already, sign in. Otherwise start again.", "/register", "Start again")
        }
        LinkKind::ConfirmEmail => (
            "If you have confirmed already, there is nothing left to do. Otherwise ask for a new link in your account.",
            "/",
            "Go to your account",
        ),
        LinkKind::DeleteAccount => {
            ("Your account is as it was. If it is to be deleted, ask once more.", "/account/delete", "Ask once more")
        }
    };
    let body = ErrorPage {
        title: "This link does not work",
        what: "It was used already, is too old, a newer one was sent, or this browser keeps no cookies for this site.",
        why: None,
        next,
        code: None,
        link: Some(Link { href: href.to_owned(), label: label.to_owned() }),
    };
    page(&body, &PageOptions { status: Some(StatusCode::BAD_REQUEST), https, ..PageOptions::default() })
}

/// The page for too much of something.
pub fn wait(until: UnixTime, now: UnixTime, https: bool) -> HttpResponse {
    let (words, seconds) = wait_words(until, now);
    let next = format!("Please try again {words}.");
    let body = ErrorPage {
        title: "Too many attempts",
        what: "Too much was asked for in a short time, so we stopped for a while.",
        why: None,
        next: &next,
        code: None,
        link: None,
    };
    let options = PageOptions { status: Some(StatusCode::TOO_MANY_REQUESTS), https, ..PageOptions::default() };
    let mut response = page(&body, &options);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}
