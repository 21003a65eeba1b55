//! What every test file shares: the real server ([`TestServer`]), a browser that keeps cookies and submits the real
//! forms ([`Browser`]), and the client's side of the protocol ([`App`]).
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]
#![allow(clippy::disallowed_methods, reason = "tests have a clock of their own, and wait")]
#![allow(clippy::print_stderr, reason = "a failed test shows what the server said")]

pub mod app;
pub mod browser;
pub mod certificate;
pub mod chromium;
pub mod clock;
pub mod gate;
pub mod ground;
pub mod http;
pub mod jose;
pub mod journal;
pub mod mail;
pub mod nginx;
pub mod pair;
pub mod phone;
pub mod postgres;
pub mod power;
pub mod receiver;
pub mod server;

pub use app::{App, PASSWORD, VERIFIER, World, challenge, world};
pub use browser::{Browser, Page};
pub use certificate::Certificate;
pub use http::{Answer, HTTP, form, get, post, send};
pub use jose::{ClientKey, claims, header, verify};
pub use mail::{Mail, Postmaster, TO_DIRECTORY};
pub use phone::Phone;
pub use server::TestServer;

use std::time::{Duration, Instant};

/// Asks until `probe` answers or ten seconds have passed.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited ten seconds for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Lets the clock run on until `at`; for what only the passing of time can bring about.
pub fn wait_until(at: Instant) {
    wait_for("the clock", || (Instant::now() >= at).then_some(()));
}

/// A random word, for names that must not meet those of another test.
pub fn word() -> String {
    let mut bytes = [0_u8; 6];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// The numbers of a seeded sequence (xorshift64), so that a failing run can be repeated.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
