//! What happened to an account, as its owner reads it: sign-ins, failures, changes, and where each came from.

use crate::clock::UnixTime;

/// Where a request came from, as far as the request says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The address it came from. Empty for what the people who run this service did by command.
    pub address: String,
    /// The browser's own description, bounded and without control characters.
    pub user_agent: String,
}

impl Origin {
    /// The browser and its system in words of our own: what a stranger calls theirs goes into nobody's mail.
    #[must_use]
    pub fn device(&self) -> String {
        // The first that fits: browsers name each other in their descriptions.
        let first = |names: &[(&str, &'static str)]| {
            names.iter().find(|(mark, _)| self.user_agent.contains(mark)).map(|(_, name)| *name)
        };
        let browser = first(&[
            ("Edg", "Edge"),
            ("OPR/", "Opera"),
            ("SamsungBrowser/", "Samsung Internet"),
            ("Firefox/", "Firefox"),
            ("FxiOS/", "Firefox"),
            ("Chrom", "Chrome"),
            ("CriOS/", "Chrome"),
            ("Safari/", "Safari"),
        ]);
        let system = first(&[
            ("Android", "Android"),
            ("iPhone", "iPhone"),
            ("iPad", "iPad"),
            ("Windows", "Windows"),
            ("Mac OS X", "macOS"),
            ("CrOS", "ChromeOS"),
            ("Linux", "Linux"),
        ]);
        match (browser, system) {
            (Some(browser), Some(system)) => format!("{browser} on {system}"),
            (Some(one), None) | (None, Some(one)) => one.to_owned(),
            (None, None) => "an unknown browser".to_owned(),
        }
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident => $text:literal),* $(,)?) => {
        /// What can happen to an account.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $name),*
        }

        impl Event {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// `None` for a kind that a newer version wrote.
            #[must_use]
            pub fn from_stored(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|event| event.as_str() == text)
            }
        }
    };
}

events! {
    AccountCreated => "account_created",
    SignedIn => "signed_in",
    /// A wrong password, code or recovery code.
    SignInFailed => "sign_in_failed",
    SignedOut => "signed_out",
    /// A session was ended from another one, or by the operator.
    SessionEnded => "session_ended",
    ProfileChanged => "profile_changed",
    /// A new address was asked for and waits for its confirmation.
    EmailChangeAsked => "email_change_asked",
    EmailChanged => "email_changed",
    PasswordChanged => "password_changed",
    /// By the link of a mail.
    PasswordReset => "password_reset",
    PasswordResetAsked => "password_reset_asked",
    FactorAdded => "factor_added",
    FactorRemoved => "factor_removed",
    RecoveryCodesMade => "recovery_codes_made",
    RecoveryCodeUsed => "recovery_code_used",
    BrowserTrusted => "browser_trusted",
    BrowserDistrusted => "browser_distrusted",
    /// The detail is the application's name.
    ConsentGiven => "consent_given",
    /// The detail is the application's name.
    ConsentRevoked => "consent_revoked",
    DataDownloaded => "data_downloaded",
    DeletionAsked => "deletion_asked",
    AccountDisabled => "account_disabled",
    AccountEnabled => "account_enabled",
    /// Told by mail alone: with the account its activity is gone.
    AccountDeleted => "account_deleted",
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    pub at: UnixTime,
    pub event: Event,
    pub origin: Origin,
    /// What it was about, in words: an application's name, a factor's name. Never a secret.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_named_in_our_own_words() {
        let named = |user_agent: &str| Origin { address: String::new(), user_agent: user_agent.to_owned() }.device();
        let chrome =
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
        assert_eq!(named(chrome), "Chrome on Linux");
        assert_eq!(named(&format!("{chrome} Edg/140.0")), "Edge on Linux");
        assert_eq!(named("Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0"), "Firefox on Android");
        assert_eq!(named("buy at http://evil.example"), "an unknown browser");
    }

    #[test]
    fn every_event_reads_back_and_none_shares_its_word() {
        for event in Event::ALL {
            assert_eq!(Event::from_stored(event.as_str()), Some(*event));
        }
        assert_eq!(Event::from_stored("x"), None);
    }
}
