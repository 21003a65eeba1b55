//! What each page of the account shows: one struct per file `templates/pages/account*.html`. See [`crate::http`]'s other
//! pages for the rules they keep. Forms post `csrf` and what is named here to the address of their own page.

use askama::Template;

use crate::http::pages::ConsentResource;

/// An instant, for machines and for the person.
pub struct Moment {
    pub iso: String,
    pub words: String,
}

/// Where to go. Signing out posts `csrf` to `/sign-out`.
#[derive(Template)]
#[template(path = "pages/account.html")]
pub struct AccountPage<'a> {
    pub csrf: &'a str,
    /// What was just done.
    pub notice: Option<&'a str>,
    pub account_name: &'a str,
    pub account_email: Option<&'a str>,
    pub is_admin: bool,
    /// Whether there are second factors here at all.
    pub second_step: bool,
}

/// The claims that people write themselves. Posts each by its name.
#[derive(Template)]
#[template(path = "pages/account_profile.html")]
pub struct ProfilePage<'a> {
    pub csrf: &'a str,
    pub notice: Option<&'a str>,
    /// What was wrong with what was typed.
    pub error: Option<&'a str>,
    /// The field that it was wrong in, or "".
    pub wrong: &'a str,
    pub account_name: &'a str,
    pub account_email: Option<&'a str>,
    pub email_verified: bool,
    pub name: &'a str,
    pub given_name: &'a str,
    pub family_name: &'a str,
    pub locale: &'a str,
    pub zoneinfo: &'a str,
    /// The zones to choose from.
    pub zones: Vec<String>,
}

/// A new password. Posts `password`, `again` and, where chosen, `end_others=yes`.
#[derive(Template)]
#[template(path = "pages/account_password.html")]
pub struct PasswordPage<'a> {
    pub csrf: &'a str,
    pub error: Option<&'a str>,
    pub account_name: &'a str,
    pub min_length: usize,
    pub end_others: bool,
}

/// Where the person is signed in. Posts `session`, or `session=others`.
#[derive(Template)]
#[template(path = "pages/account_sessions.html")]
pub struct SessionsPage<'a> {
    pub csrf: &'a str,
    pub notice: Option<&'a str>,
    pub zone: &'a str,
    pub sessions: Vec<SessionRow>,
    /// Applications that may not know that a session has ended.
    pub untold: Vec<UntoldRow>,
}

pub struct UntoldRow {
    pub name: String,
    pub ended: Moment,
}

pub struct SessionRow {
    pub id: String,
    pub device: String,
    pub this_one: bool,
    pub first_seen: Moment,
    pub first_address: String,
    pub last_seen: Moment,
    pub last_address: String,
}

/// What applications may do. Posts `client_id`.
#[derive(Template)]
#[template(path = "pages/account_applications.html")]
pub struct ApplicationsPage<'a> {
    pub csrf: &'a str,
    pub notice: Option<&'a str>,
    pub zone: &'a str,
    pub applications: Vec<ApplicationRow>,
}

pub struct ApplicationRow {
    pub client_id: String,
    pub name: String,
    /// The host its answers go to, so that a borrowed name shows.
    pub host: Option<String>,
    pub scopes: Vec<String>,
    pub resources: Vec<ConsentResource>,
    pub offline_access: bool,
    pub since: Moment,
    pub by_consent: bool,
}

/// What happened to the account.
#[derive(Template)]
#[template(path = "pages/account_activity.html")]
pub struct ActivityPage<'a> {
    pub zone: &'a str,
    pub entries: Vec<ActivityRow>,
    /// Whether there is more than is shown.
    pub more: bool,
}

pub struct ActivityRow {
    pub what: &'static str,
    pub detail: String,
    /// Whether the owner should look at it twice.
    pub failure: bool,
    pub at: Moment,
    /// Empty for what the people who run this service did.
    pub address: String,
    pub device: String,
}

/// The person's data, to take away. Posts nothing but `csrf`; the answer is the file.
#[derive(Template)]
#[template(path = "pages/account_data.html")]
pub struct DataPage<'a> {
    pub csrf: &'a str,
}

/// The end of the account. Posts `username`.
#[derive(Template)]
#[template(path = "pages/account_delete.html")]
pub struct DeletePage<'a> {
    pub csrf: &'a str,
    pub notice: Option<&'a str>,
    pub error: Option<&'a str>,
    pub account_name: &'a str,
}

/// The link of the mail was opened.
#[derive(Template)]
#[template(path = "pages/account_delete_confirm.html")]
pub struct DeleteConfirmPage<'a> {
    pub csrf: &'a str,
    pub account_name: &'a str,
}

/// Another mail address. Posts `email`.
#[derive(Template)]
#[template(path = "pages/account_email.html")]
pub struct EmailPage<'a> {
    pub csrf: &'a str,
    pub notice: Option<&'a str>,
    pub error: Option<&'a str>,
    /// The address as it is.
    pub current: Option<&'a str>,
    pub verified: bool,
    /// What to start with.
    pub email: &'a str,
    /// Whether this server sends mail at all.
    pub mail_goes_out: bool,
}

/// The account is gone.
#[derive(Template)]
#[template(path = "pages/account_deleted.html")]
pub struct DeletedPage;
