//! An authenticator app: the secret that a page showed, and the codes that come of it.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use totp_rs::{Builder, Secret, Totp};

use super::{Browser, Page, TestServer};

pub struct Phone {
    totp: Totp,
    /// The last step whose code was given out: the server takes none up to it.
    last: Mutex<u64>,
}

impl Phone {
    /// Reads the secret that an enrolment page shows.
    #[track_caller]
    pub fn of(page: &Page) -> Self {
        page.is("totp-enrol-page");
        Self::with(&page.texts("id=\"totp-secret\"").remove(0))
    }

    /// The secret as a page shows it, in groups.
    pub fn with(secret: &str) -> Self {
        let secret = secret.replace(' ', "");
        let totp = Builder::new().with_secret(Secret::try_from_base32(secret).unwrap()).build_noncompliant();
        Self { totp, last: Mutex::new(0) }
    }

    pub fn secret(&self) -> Vec<u8> {
        self.totp.secret().as_bytes().to_vec()
    }

    /// A code that the server takes now: of this half minute, the one before or the one after, and none twice. Waits where
    /// all three were used.
    pub fn code(&self) -> String {
        let mut last = self.last.lock().unwrap();
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            // The one before is not sure to be taken when the half minute is about to end.
            let first = if now % 30 < 20 { now / 30 - 1 } else { now / 30 };
            let step = first.max(*last + 1);
            if step <= now / 30 + 1 {
                *last = step;
                return self.totp.generate(step * 30).to_string();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A code that is no right one now.
    pub fn wrong_code(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let right: Vec<String> =
            (now / 30 - 2..=now / 30 + 2).map(|step| self.totp.generate(step * 30).to_string()).collect();
        (0..10).map(|number| format!("{number:06}")).find(|code| !right.contains(code)).unwrap()
    }
}

/// Sets up an app in the account of a browser that has just signed in; the app, and the recovery codes.
#[track_caller]
pub fn enrol(server: &TestServer, browser: &Browser) -> (Phone, Vec<String>) {
    let page = browser.open(server.url("/account/totp"));
    let phone = Phone::of(&page);
    let done = browser.press(&page, "totp-confirm", &[("code", &phone.code())]);
    done.is("recovery-codes-page");
    (phone, done.texts("class=\"recovery-code\""))
}
