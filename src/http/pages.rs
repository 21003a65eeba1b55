//! What each page shows: one struct per file in `templates/pages/`.
//!
//! The structs hold only text that is ready to be read. askama escapes every field; whoever fills in a field that ends up
//! in an `href` or `action` has checked its scheme before (client metadata is checked when it is registered).
//!
//! Every page is written for `default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';
//! frame-ancestors 'none'`. Pages whose form ends at a client need that client's origin in `form-action` as well,
//! and [`FormPostPage`] needs `script-src 'self'`.

mod second_factor;

use askama::Template;

pub use second_factor::{
    MfaPage, QrPicture, RecoveryCodesPage, RecoveryPage, SecurityPage, ShownBrowser, ShownDevice, TotpEnrolPage,
};

/// A link with its text.
#[derive(Debug, Clone)]
pub struct Link {
    /// Where it leads.
    pub href: String,
    /// The words to click on.
    pub label: String,
}

/// Sign-in with user name and password. Posts `csrf`, `username`, `password` and `keep=yes` to `/flow/{flow_id}/sign-in`;
/// cancelling posts `csrf` to `/flow/{flow_id}/cancel`.
#[derive(Debug, Template)]
#[template(path = "pages/login.html")]
pub struct LoginPage<'a> {
    /// The flow that this sign-in belongs to.
    pub flow_id: &'a str,
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The application that asks; `None` when the person signs in to the home page, where there is nothing to cancel.
    pub client_name: Option<&'a str>,
    /// The user name to start with: the client's `login_hint`, or what was typed before. May be empty.
    pub username: &'a str,
    /// Whether "Keep me signed in" is ticked.
    pub keep: bool,
    /// How long a person can choose to stay signed in; `None` where that is not offered.
    pub keep_for: Option<String>,
    /// Whether a forgotten password can be reset by mail.
    pub can_reset: bool,
    /// Whether people can make an account themselves.
    pub can_register: bool,
    /// What was wrong with the last attempt, as a sentence.
    pub error: Option<&'a str>,
    /// Too many attempts: when to try again, as in "in 2 minutes". Shown in place of `error`.
    pub wait: Option<&'a str>,
}

/// The password of a known account once more. Posts `csrf` and `password` to `/flow/{flow_id}/sign-in`;
/// "use another account" posts `account=other` to `/flow/{flow_id}/account`.
#[derive(Debug, Template)]
#[template(path = "pages/reauth.html")]
pub struct ReauthPage<'a> {
    /// The flow that this sign-in belongs to.
    pub flow_id: &'a str,
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The application that asks; `None` when nobody does, and then there is nothing to cancel.
    pub client_name: Option<&'a str>,
    /// The user name of the account, shown as text.
    pub account_name: &'a str,
    /// Whether the person may choose another account instead.
    pub other_account: bool,
    /// What was wrong with the last attempt, as a sentence.
    pub error: Option<&'a str>,
    /// Too many attempts: when to try again, as in "in 2 minutes". Shown in place of `error`.
    pub wait: Option<&'a str>,
}

/// Which account to use (`prompt=select_account`). Posts `csrf` and `account`, which is `continue` or `other`,
/// to `/flow/{flow_id}/account`.
#[derive(Debug, Template)]
#[template(path = "pages/select.html")]
pub struct SelectPage<'a> {
    /// The flow that this choice belongs to.
    pub flow_id: &'a str,
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The application that asks; `None` when nobody does, and then there is nothing to cancel.
    pub client_name: Option<&'a str>,
    /// The user name of the account that is signed in.
    pub account_name: &'a str,
    /// Its e-mail address.
    pub account_email: Option<&'a str>,
}

/// What an application asks for. Posts `csrf` and `decision`, which is `allow` or `deny`, to `/flow/{flow_id}/consent`.
#[derive(Debug, Template)]
#[template(path = "pages/consent.html")]
pub struct ConsentPage<'a> {
    /// The flow that this decision belongs to.
    pub flow_id: &'a str,
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The application that asks.
    pub client_name: &'a str,
    /// The host the answer goes to, so that a borrowed name shows.
    pub client_host: Option<&'a str>,
    /// The application's own page.
    pub client_uri: Option<&'a str>,
    /// How the application treats data.
    pub policy_uri: Option<&'a str>,
    /// The application's terms.
    pub tos_uri: Option<&'a str>,
    /// The user name of the account that decides.
    pub account_name: &'a str,
    /// What the application could do, each as a verb phrase: "See your e-mail address".
    pub scopes: Vec<String>,
    /// The APIs the tokens are for.
    pub resources: Vec<ConsentResource>,
    /// Whether access goes on after the person has signed out.
    pub offline_access: bool,
}

/// An API on the consent page.
#[derive(Debug, Clone)]
pub struct ConsentResource {
    /// Its name, or its identifier where it has none.
    pub name: String,
    /// Its identifier URI.
    pub identifier: String,
    /// What the application could do there, each as a verb phrase.
    pub scopes: Vec<String>,
}

/// The page of a person who is signed in. Signing out posts `csrf` to `/sign-out`.
#[derive(Debug, Template)]
#[template(path = "pages/home.html")]
pub struct HomePage<'a> {
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The user name.
    pub account_name: &'a str,
    /// The e-mail address.
    pub account_email: Option<&'a str>,
    /// Whether this account administers the server.
    pub is_admin: bool,
    /// Where to go from here.
    pub links: Vec<Link>,
}

/// Something went wrong, and the person cannot be sent back to an application.
#[derive(Debug, Template)]
#[template(path = "pages/error.html")]
pub struct ErrorPage<'a> {
    /// The heading, in a few words.
    pub title: &'a str,
    /// What happened.
    pub what: &'a str,
    /// Why, as far as we know.
    pub why: Option<&'a str>,
    /// What the person can do.
    pub next: &'a str,
    /// The protocol's name for the error, for whoever has to look into it.
    pub code: Option<&'a str>,
    /// Where to go on.
    pub link: Option<Link>,
}

/// Asks whether to sign out. Posts `csrf`, `fields` and `decision`, which is `logout` or `stay`, to `action`.
#[derive(Debug, Template)]
#[template(path = "pages/logout.html")]
pub struct LogoutPage<'a> {
    /// Where the answer goes.
    pub action: &'a str,
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The user name of the account that is signed in.
    pub account_name: &'a str,
    /// The application that asks for it.
    pub client_name: Option<&'a str>,
    /// Whether it seems to mean another account than the one that is signed in.
    pub other_account: bool,
    /// The request's parameters, to be sent along.
    pub fields: Vec<(String, String)>,
}

/// The person is signed out.
#[derive(Debug, Template)]
#[template(path = "pages/logout_done.html")]
pub struct LogoutDonePage<'a> {
    /// The way back to the application that asked; where frames have to load first, our script follows it.
    pub back: Option<Link>,
    /// The applications that the sign-in was used at.
    pub applications: Vec<LogoutApplication>,
    /// Frames in which applications sign the person out.
    pub frames: &'a [String],
    /// Where to look again, while some could not be told.
    pub again: Option<String>,
}

/// An application on the page after signing out.
#[derive(Debug, Clone)]
pub struct LogoutApplication {
    /// What people call it.
    pub name: String,
    /// How far it is, as a sentence.
    pub state: &'static str,
}

/// Carries an authorization response to the client (`response_mode=form_post`): by script, or by its button.
#[derive(Debug, Template)]
#[template(path = "pages/form_post.html")]
pub struct FormPostPage<'a> {
    /// The client's `redirect_uri`.
    pub action: &'a str,
    /// The client's name.
    pub client_name: &'a str,
    /// The response's parameters.
    pub fields: Vec<(String, String)>,
}

/// The demo application before sign-in.
#[derive(Debug, Template)]
#[template(path = "pages/demo.html")]
pub struct DemoPage<'a> {
    /// The provider it uses.
    pub issuer: &'a str,
    /// Who it is there.
    pub client_id: &'a str,
    /// What just happened: signed out, tokens revoked.
    pub notice: Option<&'a str>,
    /// What went wrong.
    pub error: Option<&'a str>,
    /// Whether it still holds tokens, which `/demo/tokens` shows.
    pub has_tokens: bool,
}

/// The tokens of the demo application. Its buttons post `csrf` to `/demo/refresh`, `/demo/userinfo`, `/demo/revoke`
/// and `/demo/sign-out`.
#[derive(Debug, Template)]
#[template(path = "pages/demo_tokens.html")]
pub struct DemoTokensPage<'a> {
    /// The form token of the demo application.
    pub csrf: &'a str,
    /// Who signed in: a name, or the subject.
    pub account_name: &'a str,
    /// What just happened.
    pub notice: Option<&'a str>,
    /// What went wrong.
    pub error: Option<&'a str>,
    /// The tokens, in the order to show them.
    pub tokens: Vec<DemoToken>,
    /// The answer of the userinfo endpoint as indented JSON, once asked.
    pub userinfo: Option<String>,
    /// Whether there is a refresh token to use.
    pub can_refresh: bool,
}

/// One token on the demo page.
#[derive(Debug, Clone)]
pub struct DemoToken {
    /// The element's id: `id-token`, `access-token`, `refresh-token`.
    pub id: String,
    /// "ID token", "Access token", "Refresh token".
    pub name: String,
    /// What it is for, in a sentence.
    pub purpose: String,
    /// When it ends: "10:42:07 UTC, in 10 minutes".
    pub expires: Option<String>,
    /// The decoded header as indented JSON; `None` for an opaque token.
    pub header: Option<String>,
    /// The decoded claims as indented JSON; `None` for an opaque token.
    pub claims: Option<String>,
    /// The token as it is sent.
    pub raw: String,
}
