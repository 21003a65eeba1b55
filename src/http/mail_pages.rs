//! The pages around mail: a forgotten password, an account of one's own, a new address. As in [`super::pages`], one struct
//! per file in `templates/pages/`.

use askama::Template;

/// Asks for a link by mail. Posts `csrf` and `email`, an address or a user name, to `/password/forgot`.
#[derive(Debug, Template)]
#[template(path = "pages/forgot.html")]
pub struct ForgotPage<'a> {
    /// The form token of this browser.
    pub csrf: &'a str,
    /// What was typed before.
    pub typed: &'a str,
    /// What was wrong with it, as a sentence.
    pub error: Option<&'a str>,
}

/// Sets a new password. Posts `csrf` and `new_password` to `/password/reset`.
#[derive(Debug, Template)]
#[template(path = "pages/reset.html")]
pub struct ResetPage<'a> {
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The user name of the account, shown as text.
    pub account_name: &'a str,
    /// Characters at least.
    pub least: usize,
    /// What was wrong with the last one, as a sentence.
    pub error: Option<&'a str>,
}

/// Asks for an account. Posts `csrf`, `username`, `email` and `password` to `/register`.
#[derive(Debug, Template)]
#[template(path = "pages/register.html")]
pub struct RegisterPage<'a> {
    /// The form token of this browser.
    pub csrf: &'a str,
    /// What was typed before.
    pub username: &'a str,
    /// What was typed before.
    pub email: &'a str,
    /// Characters of a password at least.
    pub least: usize,
    /// The field that is not right: `username`, `email`, `password`, or none.
    pub wrong: &'a str,
    /// What was wrong with it, as a sentence.
    pub error: Option<&'a str>,
}

/// Confirms an account. Posts `csrf` and, from another browser than the one that asked, `password` to `/register/confirm`.
#[derive(Debug, Template)]
#[template(path = "pages/register_confirm.html")]
pub struct RegisterConfirmPage<'a> {
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The user name of the account to be.
    pub account_name: &'a str,
    /// Its address.
    pub email: &'a str,
    /// Whether the password must be shown.
    pub ask_password: bool,
    /// What was wrong with the last one, as a sentence.
    pub error: Option<&'a str>,
}

/// Confirms a new address. Posts `csrf` to `/account/email/confirm`.
#[derive(Debug, Template)]
#[template(path = "pages/email_confirm.html")]
pub struct EmailConfirmPage<'a> {
    /// The form token of this browser.
    pub csrf: &'a str,
    /// What the account is called.
    pub account_name: &'a str,
    /// The new address.
    pub email: &'a str,
}

/// Something was done or is on its way.
#[derive(Debug, Template)]
#[template(path = "pages/message.html")]
pub struct MessagePage<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The heading, in a few words.
    pub title: &'a str,
    /// What happened.
    pub lead: &'a str,
    /// What else to know.
    pub more: Option<&'a str>,
    /// Where to go on, and the words to click on.
    pub link: Option<(&'a str, &'a str)>,
}
