//! The requests of each operation. Credentials that one operation wins are the next one's input, in `Pool`s.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::{Context, Result};

use crate::browser::{CODE_VERIFIER, code_of};
use crate::drive::Operation;
use crate::http::{Answer, write_get, write_post};
use crate::server::{Client, REDIRECT_URI};

/// Values one operation leaves for another; keeps the newest.
#[derive(Clone)]
pub struct Pool {
    values: Rc<RefCell<VecDeque<String>>>,
    most: usize,
}

impl Pool {
    pub fn of(most: usize) -> Self {
        Self { values: Rc::default(), most }
    }

    pub fn put(&self, value: &str) {
        let mut values = self.values.borrow_mut();
        if values.len() >= self.most {
            values.pop_front();
        }
        values.push_back(value.to_owned());
    }

    pub fn take(&self) -> Option<String> {
        self.values.borrow_mut().pop_front()
    }

    pub fn len(&self) -> usize {
        self.values.borrow().len()
    }

    /// The newer half, as a pool of its own.
    pub fn split(&self) -> Self {
        let mut values = self.values.borrow_mut();
        let half = values.len() / 2;
        Self { values: Rc::new(RefCell::new(values.split_off(half))), most: self.most }
    }
}

/// A POST of a form by an authenticated client.
struct Post {
    host: String,
    target: &'static str,
    authorization: String,
}

impl Post {
    fn new(host: &str, target: &'static str, client: &Client) -> Self {
        Self { host: host.to_owned(), target, authorization: client.authorization.clone() }
    }

    fn write(&self, into: &mut Vec<u8>, form: &str) {
        write_post(into, &self.host, self.target, &self.authorization, form);
    }
}

/// `client_credentials`.
pub struct ClientCredentials(Post);

impl ClientCredentials {
    pub fn new(host: &str, machine: &Client) -> Self {
        Self(Post::new(host, "/token", machine))
    }
}

impl Operation for ClientCredentials {
    fn request(&mut self, into: &mut Vec<u8>) -> bool {
        self.0.write(into, "grant_type=client_credentials");
        true
    }

    fn answer(&mut self, answer: &Answer<'_>) -> Result<()> {
        answer.expect(200)?;
        answer.json_string("access_token").context("access_token").map(drop)
    }
}

/// The authorization request of a signed-in browser, answered with a code.
pub struct Authorize {
    pub request: Vec<u8>,
    pub codes: Pool,
}

impl Operation for Authorize {
    fn request(&mut self, into: &mut Vec<u8>) -> bool {
        into.clear();
        into.extend_from_slice(&self.request);
        true
    }

    fn answer(&mut self, answer: &Answer<'_>) -> Result<()> {
        answer.expect(303)?;
        self.codes.put(code_of(answer.header("location").context("Location")?)?);
        Ok(())
    }
}

/// Spends the codes of a pool.
pub struct Exchange {
    post: Post,
    codes: Pool,
    refresh_tokens: Pool,
}

impl Exchange {
    pub fn new(host: &str, web: &Client, codes: &Pool, refresh_tokens: &Pool) -> Self {
        Self { post: Post::new(host, "/token", web), codes: codes.clone(), refresh_tokens: refresh_tokens.clone() }
    }
}

impl Operation for Exchange {
    fn request(&mut self, into: &mut Vec<u8>) -> bool {
        let Some(code) = self.codes.take() else { return false };
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "authorization_code")
            .append_pair("code", &code)
            .append_pair("redirect_uri", REDIRECT_URI)
            .append_pair("code_verifier", CODE_VERIFIER)
            .finish();
        self.post.write(into, &form);
        true
    }

    fn answer(&mut self, answer: &Answer<'_>) -> Result<()> {
        answer.expect(200)?;
        answer.json_string("id_token").context("no id_token")?;
        self.refresh_tokens.put(answer.json_string("refresh_token").context("no refresh_token")?);
        Ok(())
    }
}

/// Rotates the chains of a pool in turn. A chain is out of the pool while its answer is awaited.
pub struct Refresh {
    post: Post,
    chains: Pool,
    access_tokens: Pool,
}

impl Refresh {
    pub fn new(host: &str, web: &Client, chains: &Pool, access_tokens: &Pool) -> Self {
        Self { post: Post::new(host, "/token", web), chains: chains.clone(), access_tokens: access_tokens.clone() }
    }
}

impl Operation for Refresh {
    fn request(&mut self, into: &mut Vec<u8>) -> bool {
        let Some(token) = self.chains.take() else { return false };
        self.post.write(into, &format!("grant_type=refresh_token&refresh_token={token}"));
        true
    }

    fn answer(&mut self, answer: &Answer<'_>) -> Result<()> {
        answer.expect(200)?;
        answer.json_string("id_token").context("no id_token")?;
        self.access_tokens.put(answer.json_string("access_token").context("no access_token")?);
        self.chains.put(answer.json_string("refresh_token").context("no refresh_token")?);
        Ok(())
    }
}

/// Which access tokens an operation presents.
#[derive(Clone)]
pub enum Tokens {
    One(String),
    /// Each only once.
    Distinct(Pool),
}

impl Tokens {
    fn next(&self) -> Option<String> {
        match self {
            Self::One(token) => Some(token.clone()),
            Self::Distinct(pool) => pool.take(),
        }
    }
}

/// Introspection by the client the tokens were issued to.
pub struct Introspect {
    post: Post,
    tokens: Tokens,
}

impl Introspect {
    pub fn new(host: &str, web: &Client, tokens: &Tokens) -> Self {
        Self { post: Post::new(host, "/introspect", web), tokens: tokens.clone() }
    }
}

impl Operation for Introspect {
    fn request(&mut self, into: &mut Vec<u8>) -> bool {
        let Some(token) = self.tokens.next() else { return false };
        self.post.write(into, &format!("token={token}"));
        true
    }

    fn answer(&mut self, answer: &Answer<'_>) -> Result<()> {
        answer.expect(200)?;
        let body = std::str::from_utf8(answer.body)?;
        anyhow::ensure!(body.contains("\"active\":true"), "not active: {body}");
        Ok(())
    }
}

/// `UserInfo` with a bearer token.
pub struct UserInfo {
    pub host: String,
    pub tokens: Tokens,
}

impl Operation for UserInfo {
    fn request(&mut self, into: &mut Vec<u8>) -> bool {
        let Some(token) = self.tokens.next() else { return false };
        write_get(into, &self.host, "/userinfo", &format!("Authorization: Bearer {token}\r\n"));
        true
    }

    fn answer(&mut self, answer: &Answer<'_>) -> Result<()> {
        answer.expect(200)?;
        answer.json_string("sub").context("no sub").map(drop)
    }
}
