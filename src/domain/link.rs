//! Links that mails carry: each proves that somebody reads a mailbox, for one purpose, once.

use std::time::Duration;

/// What a link is for. It is good for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    ResetPassword,
    /// Makes the account that was asked for.
    Register,
    /// Shows that a new address of an account is its owner's.
    ConfirmEmail,
    /// Deletes an account whose owner asked for it.
    DeleteAccount,
}

impl LinkKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ResetPassword => "reset_password",
            Self::Register => "register",
            Self::ConfirmEmail => "confirm_email",
            Self::DeleteAccount => "delete_account",
        }
    }

    /// A reset opens an account, so it is short (OWASP ASVS 5 V6.4.1).
    #[must_use]
    pub const fn lifetime(self) -> Duration {
        match self {
            Self::ResetPassword | Self::DeleteAccount => Duration::from_mins(15),
            Self::Register | Self::ConfirmEmail => Duration::from_hours(24),
        }
    }

    /// The address of its page.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::ResetPassword => "/password/reset",
            Self::Register => "/register/confirm",
            Self::ConfirmEmail => "/account/email/confirm",
            Self::DeleteAccount => "/account/delete/confirm",
        }
    }
}
