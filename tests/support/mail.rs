//! Mailboxes: the directory that a server writes its mail to, and a mail server that takes what it is given.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

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

/// A mail server without TLS, on this machine.
pub struct Postmaster {
    pub port: u16,
    mails: Arc<Mutex<Vec<Mail>>>,
    refusals: Arc<AtomicU32>,
    permanent: Arc<AtomicU32>,
}

impl Postmaster {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = Self { port, mails: Arc::default(), refusals: Arc::default(), permanent: Arc::default() };
        let (mails, refusals, permanent) =
            (Arc::clone(&own.mails), Arc::clone(&own.refusals), Arc::clone(&own.permanent));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ended = converse(&stream, &mails, &refusals, &permanent);
            }
        });
        own
    }

    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Has the next mails be refused for now.
    pub fn refuse(&self, times: u32) {
        self.refusals.store(times, Ordering::SeqCst);
    }

    /// Has the next mails be refused for good.
    pub fn refuse_for_good(&self, times: u32) {
        self.permanent.store(times, Ordering::SeqCst);
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }
}

fn take(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// One conversation of RFC 5321.
fn converse(
    stream: &TcpStream,
    mails: &Mutex<Vec<Mail>>,
    refusals: &AtomicU32,
    permanent: &AtomicU32,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut stream = stream;
    let mut say = |text: &str| stream.write_all(format!("{text}\r\n").as_bytes());
    say("220 test")?;
    while let Some(line) = lines.next() {
        let line = line?;
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" | "HELO" => say("250 test")?,
            "MAIL" if take(refusals) => say("451 try again later")?,
            "RCPT" if take(permanent) => say("550 no such mailbox")?,
            "DATA" => {
                say("354 go on")?;
                let mut raw = String::new();
                for line in lines.by_ref() {
                    let line = line?;
                    if line == "." {
                        break;
                    }
                    raw.push_str(line.strip_prefix('.').unwrap_or(&line));
                    raw.push_str("\r\n");
                }
                mails.lock().unwrap().push(Mail::new(String::new(), raw));
                say("250 taken")?;
            }
            "QUIT" => {
                say("221 bye")?;
                break;
            }
            _ => say("250 fine")?,
        }
    }
    Ok(())
}
