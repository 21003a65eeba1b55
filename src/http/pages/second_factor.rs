//! The pages of the second factor.

use askama::Template;

/// The code of an authenticator app. Posts `csrf`, `code` and `trust=yes` to `/flow/{flow_id}/code`.
#[derive(Debug, Template)]
#[template(path = "pages/mfa.html")]
pub struct MfaPage<'a> {
    /// The flow that this sign-in belongs to.
    pub flow_id: &'a str,
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The application that asks; `None` when nobody does, and then there is nothing to cancel.
    pub client_name: Option<&'a str>,
    /// Whose code it is.
    pub account_name: &'a str,
    /// For how long the browser can be trusted: "30 days". `None` where it cannot.
    pub trust_for: Option<String>,
    /// What was wrong with the last attempt, as a sentence.
    pub error: Option<&'a str>,
    /// Too many attempts: when to try again, as in "in 2 minutes". Shown in place of `error`.
    pub wait: Option<&'a str>,
}

/// A recovery code in place of an app's. Posts `csrf` and `recovery_code` to `/flow/{flow_id}/recovery`.
#[derive(Debug, Template)]
#[template(path = "pages/recovery.html")]
pub struct RecoveryPage<'a> {
    /// The flow that this sign-in belongs to.
    pub flow_id: &'a str,
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The application that asks; `None` when nobody does, and then there is nothing to cancel.
    pub client_name: Option<&'a str>,
    /// Whose code it is.
    pub account_name: &'a str,
    /// What was wrong with the last attempt, as a sentence.
    pub error: Option<&'a str>,
    /// Too many attempts: when to try again, as in "in 2 minutes". Shown in place of `error`.
    pub wait: Option<&'a str>,
}

/// Setting up an authenticator app. Posts `csrf`, `code`, `name` and, in the account, `end_others=yes` to `action`.
#[derive(Debug, Template)]
#[template(path = "pages/totp_enrol.html")]
pub struct TotpEnrolPage<'a> {
    /// The flow that this is a step of; `None` in the account.
    pub flow_id: Option<&'a str>,
    /// Where the form goes.
    pub action: &'a str,
    /// The form token of this browser.
    pub csrf: &'a str,
    /// The application that asks; `None` when nobody does.
    pub client_name: Option<&'a str>,
    /// Whether the account has none yet.
    pub is_first: bool,
    /// Whose app it will be.
    pub account_name: &'a str,
    /// The secret in base32, in groups.
    pub secret: &'a str,
    /// The `otpauth://` address.
    pub link: &'a str,
    /// The same as a picture.
    pub picture: QrPicture,
    /// What the person calls the app.
    pub name: &'a str,
    /// What was wrong with the last attempt, as a sentence.
    pub error: Option<&'a str>,
    /// Too many attempts: when to try again. Shown in place of `error`.
    pub wait: Option<&'a str>,
}

/// A QR code as one SVG path: its width in modules, the quiet zone among them, and the dark ones.
#[derive(Debug, Clone, Default)]
pub struct QrPicture {
    pub width: usize,
    pub path: String,
}

impl QrPicture {
    /// ISO/IEC 18004 asks for four light modules around the symbol.
    const QUIET: usize = 4;

    /// `None` for more text than such a picture holds.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        use std::fmt::Write as _;
        let code = qrcode::QrCode::new(text).ok()?;
        let width = code.width();
        let mut path = String::new();
        for (at, color) in code.to_colors().into_iter().enumerate() {
            if color == qrcode::Color::Dark {
                let (x, y) = (at % width + Self::QUIET, at / width + Self::QUIET);
                write!(path, "M{x} {y}h1v1h-1z").ok()?;
            }
        }
        Some(Self { width: width + 2 * Self::QUIET, path })
    }
}

/// New recovery codes, shown this once.
#[derive(Debug, Template)]
#[template(path = "pages/recovery_codes.html")]
pub struct RecoveryCodesPage<'a> {
    /// Whose they are, for the printed page.
    pub account_name: &'a str,
    /// Where the server lives, for the printed page.
    pub issuer: &'a str,
    /// What just happened, as a sentence.
    pub notice: &'a str,
    /// The codes.
    pub codes: Vec<&'a str>,
    /// Where to go on.
    pub next: &'a str,
}

/// The second factors of an account, recovery codes and trusted browsers.
#[derive(Debug, Template)]
#[template(path = "pages/security.html")]
pub struct SecurityPage<'a> {
    /// The form token of this browser.
    pub csrf: &'a str,
    /// Whose they are.
    pub account_name: &'a str,
    /// What just happened, as a sentence.
    pub notice: Option<&'a str>,
    /// What went wrong, as a sentence.
    pub error: Option<&'a str>,
    /// Whether an app can be added.
    pub can_add: bool,
    /// Whether the last app can be removed.
    pub can_remove_last: bool,
    /// The authenticator apps.
    pub devices: Vec<ShownDevice>,
    /// How many recovery codes are left.
    pub codes_left: i64,
    /// Whether browsers can be trusted here.
    pub trusts_browsers: bool,
    /// The browsers that need no code.
    pub browsers: Vec<ShownBrowser>,
}

/// An authenticator app on the security page.
#[derive(Debug, Clone)]
pub struct ShownDevice {
    pub id: String,
    pub name: String,
    /// An instant, as text.
    pub added: String,
    /// The same; `None` where it was not used since.
    pub used: Option<String>,
}

/// A trusted browser on the security page.
#[derive(Debug, Clone)]
pub struct ShownBrowser {
    pub id: String,
    /// What it says it is.
    pub name: String,
    pub address: String,
    pub since: String,
    pub until: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_quiet_zone_and_three_corners() {
        let picture = QrPicture::of("otpauth://totp/x:ada?secret=GEZDGNBVGY3TQOJQ").unwrap();
        assert!(picture.width >= 21 + 8, "{}", picture.width);
        let far = picture.width - 5;
        for corner in ["M4 4h", &format!("M{far} 4h"), &format!("M4 {far}h")] {
            assert!(picture.path.contains(corner), "{corner}");
        }
        assert!(!picture.path.contains("M3 ") && !picture.path.contains(" 3h"));
        assert!(QrPicture::of(&"x".repeat(5000)).is_none());
    }
}
