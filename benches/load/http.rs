//! A keep-alive HTTP/1.1 client that costs little, for it shares the cores with the server it measures.
//! It understands what this server sends (a status, headers, a Content-Length) and nothing more.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection, reopened when the server closed it or an exchange failed.
pub struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    inbox: Vec<u8>,
}

/// An answer, lying in the connection's buffer until the next exchange.
pub struct Answer<'a> {
    pub status: u16,
    head: &'a str,
    pub body: &'a [u8],
}

impl Connection {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, inbox: Vec::with_capacity(16 * 1024) }
    }

    /// Lets a kept connection go that the server has closed.
    pub fn forget_closed(&mut self) {
        let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let still_open = |stream: &TcpStream| recv(stream, &mut [0_u8], look) == Err(Errno::WOULDBLOCK);
        self.stream = self.stream.take().filter(still_open);
    }

    /// Sends the request and waits for the whole answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        let mut stream = if let Some(stream) = self.stream.take() {
            stream
        } else {
            let stream = TcpStream::connect(self.address).await.context("connecting")?;
            stream.set_nodelay(true)?;
            stream
        };
        stream.write_all(request).await.context("sending")?;
        self.inbox.clear();
        let head_end = loop {
            let searched = self.inbox.len().saturating_sub(3);
            read_some(&mut stream, &mut self.inbox).await?;
            let fresh = self.inbox.get(searched..).unwrap_or_default();
            if let Some(at) = fresh.windows(4).position(|window| window == b"\r\n\r\n") {
                break searched + at;
            }
        };
        let head = self.inbox.get(..head_end).unwrap_or_default();
        let head = std::str::from_utf8(head).context("head of the answer")?;
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).context("status line")?;
        let length = match header(head, "content-length") {
            Some(length) => length.parse().context("Content-Length")?,
            None if status == 204 || status == 304 => 0,
            None => bail!("answer without Content-Length: {head}"),
        };
        let keep = !header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let body_start = head_end + 4;
        while self.inbox.len() < body_start + length {
            read_some(&mut stream, &mut self.inbox).await?;
        }
        if keep {
            self.stream = Some(stream);
        }
        let head = self.inbox.get(..head_end).unwrap_or_default();
        Ok(Answer {
            status,
            head: std::str::from_utf8(head)?,
            body: self.inbox.get(body_start..body_start + length).unwrap_or_default(),
        })
    }
}

async fn read_some(stream: &mut TcpStream, inbox: &mut Vec<u8>) -> Result<()> {
    if stream.read_buf(inbox).await.context("reading")? == 0 {
        bail!("the server closed the connection");
    }
    Ok(())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    headers(head, name).next()
}

fn headers<'a>(head: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    head.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

impl<'a> Answer<'a> {
    pub fn header(&self, name: &str) -> Option<&'a str> {
        header(self.head, name)
    }

    pub fn headers(&self, name: &str) -> impl Iterator<Item = &'a str> {
        headers(self.head, name)
    }

    /// The string member `name` of a JSON body. Tokens hold no escapes, so a search is enough.
    pub fn json_string(&self, name: &str) -> Option<&'a str> {
        json_string(self.body, name)
    }

    pub fn expect(&self, status: u16) -> Result<()> {
        if self.status != status {
            let body: String = String::from_utf8_lossy(self.body).chars().take(300).collect();
            bail!("expected {status}, got {}: {body}", self.status);
        }
        Ok(())
    }
}

pub fn json_string<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(body).ok()?;
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once(name)?;
        rest = after;
        if let Some(value) = after.strip_prefix("\":") {
            return value.trim_start().strip_prefix('"')?.split('"').next();
        }
    }
}

/// Writes a GET; `headers` are whole lines, each with its line end.
pub fn write_get(into: &mut Vec<u8>, host: &str, target: &str, headers: &str) {
    into.clear();
    // Writing to a Vec cannot fail.
    let _ = write!(into, "GET {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
}

/// Writes a form POST; `headers` are whole lines, each with its line end.
pub fn write_post(into: &mut Vec<u8>, host: &str, target: &str, headers: &str, form: &str) {
    into.clear();
    let _ = write!(
        into,
        "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n{headers}\r\n{form}",
        form.len()
    );
}

/// The Authorization line of `client_secret_basic`, both halves form-encoded first (RFC 6749 2.3.1).
pub fn basic(client_id: &str, client_secret: &str) -> String {
    use base64::Engine as _;
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encode(client_id), encode(client_secret));
    format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(pair))
}
