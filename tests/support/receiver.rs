//! A receiver of logout tokens on loopback, well-behaved or not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openssl::pkey::PKey;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::X509;
use url::form_urlencoded;

use super::Certificate;

/// What a receiver does with a request, once it has read it.
#[derive(Clone, Debug)]
pub enum Manner {
    Answer(u16),
    /// Answers 200, late.
    After(Duration),
    /// The same, at one path; at once at others.
    AfterAt(&'static str, Duration),
    Redirect(String),
    /// 200, and a body that never ends.
    Endless,
}

#[derive(Clone, Debug)]
pub struct Received {
    pub path: String,
    pub content_type: String,
    /// The form field `logout_token`.
    pub token: String,
    pub at: Instant,
}

pub struct Receiver {
    pub port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    manner: Arc<Mutex<Manner>>,
    open: Arc<Mutex<usize>>,
}

impl Receiver {
    pub fn start(manner: Manner) -> Self {
        Self::start_as(manner, None)
    }

    /// One that is reached at `https://localhost` and shows this certificate.
    pub fn start_tls(manner: Manner, certificate: &Certificate) -> Self {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        builder.set_private_key(&PKey::private_key_from_pem(&certificate.key).unwrap()).unwrap();
        builder.set_certificate(&X509::from_pem(&certificate.pem).unwrap()).unwrap();
        Self::start_as(manner, Some(builder.build()))
    }

    fn start_as(manner: Manner, tls: Option<SslAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self {
            port: listener.local_addr().unwrap().port(),
            received: Arc::default(),
            manner: Arc::new(Mutex::new(manner)),
            open: Arc::default(),
        };
        let (received, manner, open) = (Arc::clone(&own.received), Arc::clone(&own.manner), Arc::clone(&own.open));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (received, manner, open) = (Arc::clone(&received), Arc::clone(&manner), Arc::clone(&open));
                let tls = tls.clone();
                std::thread::spawn(move || {
                    *open.lock().unwrap() += 1;
                    // Whoever hangs up in the middle has gone, and so has who does not like the certificate.
                    let _ = match tls {
                        None => serve(stream, &received, &manner),
                        Some(tls) => tls.accept(stream).map_or(Ok(()), |stream| serve(stream, &received, &manner)),
                    };
                    *open.lock().unwrap() -= 1;
                });
            }
        });
        own
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Where one with a certificate is.
    pub fn tls_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Connections that are open just now.
    pub fn open(&self) -> usize {
        *self.open.lock().unwrap()
    }
}

fn serve(
    mut stream: impl Read + Write,
    received: &Mutex<Vec<Received>>,
    manner: &Mutex<Manner>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let head_end = loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value.trim())
            .to_owned()
    };
    let length: usize = header("content-length").parse().unwrap_or(0);
    while bytes.len() < head_end + length {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
    let token = form_urlencoded::parse(&bytes[head_end..])
        .find(|(name, _)| name == "logout_token")
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let manner = match manner.lock().unwrap().clone() {
        Manner::AfterAt(slow, span) if path == slow => Manner::After(span),
        Manner::AfterAt(..) => Manner::Answer(200),
        other => other,
    };
    received.lock().unwrap().push(Received { path, content_type: header("content-type"), token, at: Instant::now() });
    let answer = |status: u16, more: &str| {
        format!("HTTP/1.1 {status} Whatever\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n")
    };
    match manner {
        Manner::Answer(status) => stream.write_all(answer(status, "").as_bytes()),
        Manner::After(span) | Manner::AfterAt(_, span) => {
            std::thread::sleep(span);
            stream.write_all(answer(200, "").as_bytes())
        }
        Manner::Redirect(to) => stream.write_all(answer(302, &format!("location: {to}\r\n")).as_bytes()),
        Manner::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            loop {
                stream.write_all(b"1000\r\n")?;
                stream.write_all(&[b'x'; 0x1000])?;
                stream.write_all(b"\r\n")?;
            }
        }
    }
}
