//! Who visits the demo application, by the random value of its cookie.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::CsrfToken;

use crate::crypto::opaque::same_text;
use crate::crypto::{CryptoError, random};

use super::client::{SignIn, Tokens};

/// A demo has few visitors; past this number the oldest is forgotten.
const MAX_VISITORS: usize = 100;
/// One for each tab; past this number the oldest is forgotten.
const MAX_SIGN_INS: usize = 8;

/// One browser.
#[derive(Default)]
pub struct Visitor {
    /// The sign-ins under way, the oldest first.
    sign_ins: VecDeque<SignIn>,
    /// The state of the sign-out that was started last.
    pub sign_out: Option<CsrfToken>,
    pub holding: Option<Holding>,
    /// For the next page.
    pub message: Option<Message>,
}

/// What the demo holds for a person who signed in.
#[derive(Clone)]
pub struct Holding {
    pub tokens: Tokens,
    pub account_name: String,
    /// The last answer of the userinfo endpoint.
    pub userinfo: Option<String>,
}

/// What just happened.
pub enum Message {
    Notice(&'static str),
    Error(String),
}

impl Message {
    pub const fn notice(&self) -> Option<&str> {
        match self {
            Self::Notice(text) => Some(text),
            Self::Error(_) => None,
        }
    }

    pub const fn error(&self) -> Option<&str> {
        match self {
            Self::Notice(_) => None,
            Self::Error(text) => Some(text.as_str()),
        }
    }
}

impl Visitor {
    /// The sign-in that an answer belongs to, which is spent by it.
    pub fn take_sign_in(&mut self, state: &str) -> Option<SignIn> {
        let position = self.sign_ins.iter().position(|own| same_text(own.state.secret(), state))?;
        self.sign_ins.remove(position)
    }

    fn start(&mut self, sign_in: SignIn) {
        if self.sign_ins.len() >= MAX_SIGN_INS {
            self.sign_ins.pop_front();
        }
        self.sign_ins.push_back(sign_in);
    }

    /// Keeps what an action left, unless the person signed out meanwhile.
    pub fn settle(&mut self, outcome: Result<(Holding, &'static str), Message>) {
        self.message = Some(match outcome {
            Ok((left, notice)) => {
                self.holding = self.holding.take().map(|_| left);
                Message::Notice(notice)
            }
            Err(message) => message,
        });
    }
}

/// The latest visitors, the oldest first.
#[derive(Default)]
pub struct Visitors(VecDeque<(String, Visitor)>);

impl Visitors {
    pub fn find(&mut self, id: &str) -> Option<&mut Visitor> {
        self.0.iter_mut().find(|(own, _)| own == id).map(|(_, visitor)| visitor)
    }

    /// A sign-in begins; the answer is what the cookie must be.
    pub fn begin(&mut self, id: &str, sign_in: SignIn) -> Result<String, CryptoError> {
        if let Some(visitor) = self.find(id) {
            visitor.start(sign_in);
            return Ok(id.to_owned());
        }
        self.add(Visitor { sign_ins: VecDeque::from([sign_in]), ..Visitor::default() })
    }

    /// Somebody comes back whom nothing here remembers; the answer is what the cookie must be.
    pub fn welcome_back(&mut self, notice: &'static str) -> Result<String, CryptoError> {
        self.add(Visitor { message: Some(Message::Notice(notice)), ..Visitor::default() })
    }

    /// A sign-in is complete; the visitor goes by a new id from here on, and other tabs may still finish theirs.
    pub fn admit(&mut self, id: &str, holding: Holding) -> Result<String, CryptoError> {
        let sign_ins = self.find(id).map(|visitor| std::mem::take(&mut visitor.sign_ins)).unwrap_or_default();
        self.forget(id);
        self.add(Visitor { holding: Some(holding), sign_ins, ..Visitor::default() })
    }

    pub fn forget(&mut self, id: &str) {
        self.0.retain(|(own, _)| own != id);
    }

    fn add(&mut self, visitor: Visitor) -> Result<String, CryptoError> {
        let id = URL_SAFE_NO_PAD.encode(random::<32>()?);
        if self.0.len() >= MAX_VISITORS {
            self.0.pop_front();
        }
        self.0.push_back((id.clone(), visitor));
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_visitor_is_forgotten() {
        let mut visitors = Visitors::default();
        let ids: Vec<String> = (0..=MAX_VISITORS).map(|_| visitors.add(Visitor::default()).unwrap()).collect();
        assert!(visitors.find(&ids[0]).is_none());
        assert!(ids[1..].iter().all(|id| visitors.find(id).is_some()));
        assert!(visitors.find("").is_none());
    }
}
