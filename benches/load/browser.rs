//! A browser without a window: cookies, redirects, and the sign-in form.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::http::{Answer, Connection, write_get, write_post};
use crate::server::{Client, Endpoint, PASSWORD, REDIRECT_URI};

/// One `code_verifier` serves every flow: the server cannot tell, and the client saves a digest for each.
pub const CODE_VERIFIER: &str = "a-code-verifier-as-long-as-RFC-7636-asks-for";

/// Fresh for every sign-in; its cookies are the session.
#[derive(Default)]
pub struct Browser {
    cookies: BTreeMap<String, String>,
}

/// How a sign-in ended.
pub enum SignIn {
    Code(String),
    /// The form was answered with this status and no redirect.
    Refused {
        status: u16,
        retry_after: Option<u64>,
    },
}

/// Where following redirects ends.
enum Stop {
    Code(String),
    /// The request that sends the page's form, filled in.
    Form(Vec<u8>),
}

/// The target of an authorization request.
pub fn authorize_target(client: &Client) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(CODE_VERIFIER));
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("response_type", "code")
        .append_pair("client_id", &client.id)
        .append_pair("redirect_uri", REDIRECT_URI)
        .append_pair("scope", "openid profile email offline_access")
        .append_pair("state", "a-state-of-the-usual-length")
        .append_pair("nonce", "a-nonce-of-the-usual-length")
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256")
        .finish();
    format!("/authorize?{query}")
}

/// The code in a redirect to the client.
pub fn code_of(location: &str) -> Result<&str> {
    let query = location.strip_prefix(REDIRECT_URI).with_context(|| format!("redirect to {location}"))?;
    let code = query.split(['?', '&']).find_map(|pair| pair.strip_prefix("code="));
    code.with_context(|| format!("no code in {location}"))
}

impl Browser {
    /// The Cookie line.
    pub fn cookie_header(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.cookies {
            let before = if line.is_empty() { "Cookie: " } else { "; " };
            let _ = write!(line, "{before}{name}={value}");
        }
        if !line.is_empty() {
            line.push_str("\r\n");
        }
        line
    }

    /// From the authorization request to the code, as a person would.
    pub async fn sign_in(
        &mut self,
        endpoint: Endpoint,
        connection: &mut Connection,
        client: &Client,
        user: &str,
    ) -> Result<SignIn> {
        let mut target = authorize_target(client);
        for _ in 0..4 {
            let form = match self.follow(endpoint, connection, &mut target, user).await? {
                Stop::Code(code) => return Ok(SignIn::Code(code)),
                Stop::Form(form) => form,
            };
            let answer = self.send(connection, &form).await?;
            if !(300..400).contains(&answer.status) {
                let retry_after = answer.header("retry-after").and_then(|seconds| seconds.parse().ok());
                return Ok(SignIn::Refused { status: answer.status, retry_after });
            }
            answer.header("location").context("Location")?.clone_into(&mut target);
        }
        bail!("the flow does not end; last target {target}")
    }

    /// The request that the sign-in button sends, from a page of its own.
    pub async fn sign_in_form(
        &mut self,
        endpoint: Endpoint,
        connection: &mut Connection,
        client: &Client,
        user: &str,
    ) -> Result<Vec<u8>> {
        match self.follow(endpoint, connection, &mut authorize_target(client), user).await? {
            Stop::Form(form) => Ok(form),
            Stop::Code(_) => bail!("signed in without a page"),
        }
    }

    async fn send<'a>(&mut self, connection: &'a mut Connection, request: &[u8]) -> Result<Answer<'a>> {
        let answer = connection.exchange(request).await?;
        for cookie in answer.headers("set-cookie") {
            self.keep(cookie);
        }
        Ok(answer)
    }

    /// Goes where it is sent until there is a code, or a form to send.
    async fn follow(
        &mut self,
        endpoint: Endpoint,
        connection: &mut Connection,
        target: &mut String,
        user: &str,
    ) -> Result<Stop> {
        let (host, issuer) = (endpoint.host(), endpoint.issuer());
        let mut request = Vec::new();
        for _ in 0..8 {
            if target.starts_with(REDIRECT_URI) {
                return Ok(Stop::Code(code_of(target)?.to_owned()));
            }
            let path = target.strip_prefix(&issuer).unwrap_or(target);
            write_get(&mut request, &host, path, &self.cookie_header());
            let answer = self.send(connection, &request).await?;
            if (300..400).contains(&answer.status) {
                answer.header("location").context("Location")?.clone_into(target);
                continue;
            }
            answer.expect(200).with_context(|| target.clone())?;
            let page = std::str::from_utf8(answer.body)?;
            let csrf = hidden_value(page, "csrf").context("no csrf input on the page")?;
            let mut fields = form_urlencoded::Serializer::new(String::new());
            fields.append_pair("csrf", csrf);
            let path = path.split('?').next().unwrap_or_default();
            let action = if page.contains("login-form") {
                fields.append_pair("username", user).append_pair("password", PASSWORD);
                format!("{path}/sign-in")
            } else if page.contains("consent-form") {
                fields.append_pair("decision", "allow");
                format!("{path}/consent")
            } else {
                bail!("neither a sign-in nor a consent page at {target}");
            };
            let headers = format!("Origin: {issuer}\r\nSec-Fetch-Site: same-origin\r\n{}", self.cookie_header());
            write_post(&mut request, &host, &action, &headers, &fields.finish());
            return Ok(Stop::Form(request));
        }
        bail!("the flow does not end; last target {target}")
    }

    /// Signs out by the page that asks; the time that the answer to the person's word took.
    pub async fn sign_out(&mut self, endpoint: Endpoint) -> Result<Duration> {
        let (host, issuer) = (endpoint.host(), endpoint.issuer());
        let mut connection = Connection::new(endpoint.address);
        let mut request = Vec::new();
        let cookies = self.cookie_header();
        write_get(&mut request, &host, "/logout", &cookies);
        let answer = connection.exchange(&request).await?;
        answer.expect(200)?;
        let page = std::str::from_utf8(answer.body)?;
        let csrf = hidden_value(page, "csrf").context("no csrf input on the page that asks")?;
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("csrf", csrf)
            .append_pair("decision", "logout")
            .finish();
        let headers = format!("Origin: {issuer}\r\nSec-Fetch-Site: same-origin\r\n{cookies}");
        write_post(&mut request, &host, "/logout/confirm", &headers, &form);
        let start = Instant::now();
        let answer = connection.exchange(&request).await?;
        let took = start.elapsed();
        if !matches!(answer.status, 200 | 303) {
            answer.expect(200)?;
        }
        Ok(took)
    }

    fn keep(&mut self, set_cookie: &str) {
        let mut parts = set_cookie.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { return };
        let ends = parts.any(|attribute| attribute.eq_ignore_ascii_case("max-age=0"));
        if ends || value.is_empty() {
            self.cookies.remove(name);
        } else {
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn hidden_value<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let marker = format!("name=\"{name}\"");
    let tag = page.split('<').find(|tag| tag.starts_with("input") && tag.contains(&marker))?;
    tag.split_once("value=\"")?.1.split('"').next()
}
