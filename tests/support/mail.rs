//! Mailboxes: the directory that a server writes its mail to, and a mail server that takes what it is given.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use openssl::ssl::SslAcceptor;

use super::certificate::Certificate;
use super::{TestServer, wait_for};

/// Has a server write its mail to a directory beside its data.
pub const TO_DIRECTORY: (&str, &str) = ("COUNTERSIGN_MAIL__URL", "file://mail");

/// A mail as it was sent.
#[derive(Debug, Clone)]
pub struct Mail {
    pub name: String,
    pub raw: String,
    /// With what was quoted for its journey made plain again.
    pub text: String,
}

impl Mail {
    pub fn new(name: String, raw: String) -> Self {
        let text = unquote(&raw);
        Self { name, raw, text }
    }

    pub fn is_to(&self, address: &str) -> bool {
        self.raw.lines().any(|line| line.trim_end() == format!("To: {address}"))
    }

    /// The address with a secret in it.
    pub fn link(&self) -> String {
        let found = self.text.split_whitespace().find(|word| word.starts_with("http") && word.contains("token="));
        found.unwrap_or_else(|| panic!("no link: {}", self.text)).to_owned()
    }
}

fn unquote(raw: &str) -> String {
    let raw = raw.replace("=\r\n", "");
    let mut parts = raw.split('=');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let plain = if byte.is_some() { &part[2..] } else { part };
        bytes.push(byte.unwrap_or(b'='));
        bytes.extend_from_slice(plain.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl TestServer {
    /// All mail of [`TO_DIRECTORY`], in the order in which it was queued.
    pub fn mails(&self) -> Vec<Mail> {
        let Ok(entries) = std::fs::read_dir(self.home().join("mail")) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|ending| ending == "eml")).collect();
        paths.sort();
        let read = |path: std::path::PathBuf| {
            Mail::new(path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(path).unwrap())
        };
        paths.into_iter().map(read).collect()
    }

    /// The newest mail to this address once there are `count` of them.
    #[track_caller]
    pub fn mail_to(&self, address: &str, count: usize) -> Mail {
        wait_for(&format!("mail {count} to {address}"), || {
            let mails: Vec<Mail> = self.mails().into_iter().filter(|mail| mail.is_to(address)).collect();
            (mails.len() >= count).then(|| mails.last().unwrap().clone())
        })
    }
}

/// How a mail server takes TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    Never,
    FromTheStart,
    OnStartTls,
}

/// A mail server, on this machine.
pub struct Postmaster {
    pub port: u16,
    inbox: Arc<Inbox>,
}

#[derive(Default)]
struct Inbox {
    mails: Mutex<Vec<Mail>>,
    refusals: AtomicU32,
    permanent: AtomicU32,
    /// What was said in clear, and under TLS.
    heard: [Mutex<String>; 2],
}

impl Postmaster {
    pub fn start() -> Self {
        Self::with_tls(SmtpTls::Never, &Certificate::new())
    }

    pub fn with_tls(tls: SmtpTls, certificate: &Certificate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = Self { port, inbox: Arc::default() };
        let (inbox, acceptor) = (Arc::clone(&own.inbox), certificate.acceptor());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ended = receive(stream, tls, &acceptor, &inbox);
            }
        });
        own
    }

    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Has the next mails be refused for now.
    pub fn refuse(&self, times: u32) {
        self.inbox.refusals.store(times, Ordering::SeqCst);
    }

    /// Has the next mails be refused for good.
    pub fn refuse_for_good(&self, times: u32) {
        self.inbox.permanent.store(times, Ordering::SeqCst);
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.inbox.mails.lock().unwrap().clone()
    }

    /// What was said to it in clear.
    pub fn heard_in_clear(&self) -> String {
        self.inbox.heard[0].lock().unwrap().clone()
    }

    /// What was said to it under TLS.
    pub fn heard_under_tls(&self) -> String {
        self.inbox.heard[1].lock().unwrap().clone()
    }
}

fn take(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn receive(stream: TcpStream, tls: SmtpTls, acceptor: &SslAcceptor, inbox: &Inbox) -> std::io::Result<()> {
    let broken = |_handshake| std::io::Error::other("no handshake");
    if tls == SmtpTls::FromTheStart {
        return converse(acceptor.accept(stream).map_err(broken)?, true, "220 test", false, inbox).map(drop);
    }
    let asked = converse(stream, false, "220 test", tls == SmtpTls::OnStartTls, inbox)?;
    let Some(stream) = asked else { return Ok(()) };
    converse(acceptor.accept(stream).map_err(broken)?, true, "", false, inbox).map(drop)
}

/// One conversation of RFC 5321; gives the stream where it is to go on under TLS (RFC 3207).
fn converse<S: Read + Write>(
    stream: S,
    secure: bool,
    greeting: &str,
    offers_tls: bool,
    inbox: &Inbox,
) -> std::io::Result<Option<S>> {
    fn say<S: Read + Write>(stream: &mut BufReader<S>, text: &str) -> std::io::Result<()> {
        stream.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
        stream.get_mut().flush()
    }
    let mut stream = BufReader::new(stream);
    let hear = |stream: &mut BufReader<S>| {
        let mut line = String::new();
        let length = stream.read_line(&mut line)?;
        inbox.heard[usize::from(secure)].lock().unwrap().push_str(&line);
        Ok::<_, std::io::Error>((length > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
    };
    if !greeting.is_empty() {
        say(&mut stream, greeting)?;
    }
    while let Some(line) = hear(&mut stream)? {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" if offers_tls => say(&mut stream, "250-test\r\n250-AUTH PLAIN\r\n250 STARTTLS")?,
            "EHLO" => say(&mut stream, "250-test\r\n250 AUTH PLAIN")?,
            "STARTTLS" if offers_tls => {
                say(&mut stream, "220 go on")?;
                return Ok(Some(stream.into_inner()));
            }
            "AUTH" => say(&mut stream, "235 welcome")?,
            "MAIL" if take(&inbox.refusals) => say(&mut stream, "451 try again later")?,
            "RCPT" if take(&inbox.permanent) => say(&mut stream, "550 no such mailbox")?,
            "DATA" => {
                say(&mut stream, "354 go on")?;
                let mut raw = String::new();
                while let Some(line) = hear(&mut stream)?.filter(|line| line != ".") {
                    raw.push_str(line.strip_prefix('.').unwrap_or(&line));
                    raw.push_str("\r\n");
                }
                inbox.mails.lock().unwrap().push(Mail::new(String::new(), raw));
                say(&mut stream, "250 taken")?;
            }
            "QUIT" => {
                say(&mut stream, "221 bye")?;
                break;
            }
            _ => say(&mut stream, "250 fine")?,
        }
    }
    Ok(None)
}
