//! Sending the mails that wait in the outbox: each at least once, under a name that stays the same, so that a mailbox can
//! drop a double.
//!
//! The server that mail goes to is the operator's own choice and not a stranger's, so the fence around outbound requests
//! does not apply to it. Time is bounded, and mail leaves this machine under TLS only.

use std::borrow::Cow;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use secrecy::ExposeSecret as _;
use thiserror::Error;

use crate::clock::UnixTime;
use crate::config::{MailConfig, MailUrl, SmtpTls};
use crate::domain::user::domain_on_the_wire;
use crate::flow::Context;
use crate::flow::letters::write;
use crate::flow::mail::{Written, open};
use crate::store::{Lease, OutboxItem, OutboxKind, StoreError};

/// What another process queued is found by looking this often; what this one queued rings.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One conversation with the server, from the connection to its end.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than [`TIMEOUT`], so that nobody else sends while we still do.
const LEASE: Duration = Duration::from_secs(90);
const AT_ONCE: i64 = 4;
const FIRST_DELAY: Duration = Duration::from_secs(2);
const LONGEST_DELAY: Duration = Duration::from_hours(1);

/// Why mail cannot be sent at all.
#[derive(Debug, Error)]
pub enum MailError {
    #[error("{path}: the directory of mails cannot be made: {source}")]
    Directory { path: String, source: std::io::Error },
    #[error("{path}: the certificates cannot be read: {source}")]
    Certificates { path: String, source: std::io::Error },
    #[error("preparing TLS for the mail server failed")]
    Tls(#[source] lettre::transport::smtp::Error),
}

/// Why one mail was not sent.
#[derive(Debug, Error)]
enum Failure {
    /// Trying again changes nothing.
    #[error("{0}")]
    Hopeless(String),
    #[error("{0}")]
    ForNow(String),
}

/// The way that mail takes.
enum Route {
    Directory(PathBuf),
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
}

/// Sends mail, as configured.
pub struct Mailer {
    route: Route,
    from: Mailbox,
    /// What the names of messages end in.
    host: String,
}

impl Mailer {
    /// # Errors
    /// When the directory cannot be made or the certificates do not read.
    pub fn new(ctx: &Context, config: &MailConfig) -> Result<Self, MailError> {
        let host = ctx.config.issuer.url().host_str().unwrap_or("localhost").trim_matches(['[', ']']).to_owned();
        let route = match &config.url {
            MailUrl::Directory(path) => Route::Directory(make_directory(path)?),
            MailUrl::Smtp { host: server, port, tls, credentials } => {
                let parameters = || tls_parameters(server, ctx.config.outbound.ca_file.as_deref());
                let tls = match tls {
                    SmtpTls::Wrapped => Tls::Wrapper(parameters()?),
                    SmtpTls::Required => Tls::Required(parameters()?),
                    SmtpTls::Absent => Tls::None,
                };
                let mut smtp = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server)
                    .port(*port)
                    .tls(tls)
                    .timeout(Some(TIMEOUT))
                    .hello_name(ClientId::Domain(host.clone()));
                if let Some((user, password)) = credentials {
                    smtp = smtp.credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
                }
                Route::Smtp(smtp.build())
            }
        };
        Ok(Self { route, from: config.from.clone(), host })
    }

    /// Sends a mail; `name` is the same at each try.
    async fn send(&self, mail: &Written, name: &str, written_at: UnixTime) -> Result<(), Failure> {
        let hopeless = |why: &str| Failure::Hopeless(why.to_owned());
        let to =
            on_the_wire(&mail.to).parse().map_err(|_address| hopeless("the address is none that mail can go to"))?;
        let seconds = u64::try_from(written_at.seconds()).unwrap_or(0);
        let mut message = Message::builder()
            .message_id(Some(format!("<{name}@{}>", self.host)))
            .date(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(&mail.subject)
            .multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone()))
            .map_err(|error| Failure::Hopeless(format!("the message cannot be put together: {error}")))?;
        // RFC 3834 section 5: no out-of-office answers, please.
        let header = HeaderName::new_from_ascii_str("Auto-Submitted");
        message.headers_mut().insert_raw(HeaderValue::new(header, "auto-generated".to_owned()));
        match &self.route {
            Route::Directory(directory) => keep(directory, name, &message.formatted())
                .map_err(|error| Failure::ForNow(format!("writing to the directory of mails failed: {error}"))),
            Route::Smtp(smtp) => match tokio::time::timeout(TIMEOUT, smtp.send(message)).await {
                Ok(Ok(_response)) => Ok(()),
                // RFC 5321 section 4.2.1: the same command would fail again.
                Ok(Err(error)) if error.is_permanent() => Err(Failure::Hopeless(describe(&error))),
                Ok(Err(error)) => Err(Failure::ForNow(describe(&error))),
                Err(_elapsed) => Err(Failure::ForNow("the mail server took too long".to_owned())),
            },
        }
    }
}

/// The error and its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}

fn make_directory(path: &Path) -> Result<PathBuf, MailError> {
    use std::os::unix::fs::DirBuilderExt as _;
    // For its owner alone: mails hold links.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| MailError::Directory { path: path.display().to_string(), source })?;
    Ok(path.to_owned())
}

fn tls_parameters(server: &str, ca_file: Option<&Path>) -> Result<TlsParameters, MailError> {
    let mut parameters = TlsParameters::builder(server.to_owned());
    if let Some(path) = ca_file {
        let failed = |source| MailError::Certificates { path: path.display().to_string(), source };
        let pem = std::fs::read(path).map_err(failed)?;
        parameters = parameters.add_root_certificate(Certificate::from_pem(&pem).map_err(MailError::Tls)?);
    }
    parameters.build().map_err(MailError::Tls)
}

/// Writes one message beside its final name and moves it there, so that who looks finds it whole.
fn keep(directory: &Path, name: &str, message: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = directory.join(format!(".{name}.draft"));
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(message)?;
    file.sync_all()?;
    std::fs::rename(draft, directory.join(format!("{name}.eml")))
}

/// How long to wait after so many tries.
fn delay(attempts: i64) -> Duration {
    let steps = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    FIRST_DELAY.saturating_mul(4_u32.saturating_pow(steps)).min(LONGEST_DELAY)
}

/// Sends what waits, for as long as the server runs.
pub async fn send_mail(ctx: Arc<Context>, mailer: Mailer) {
    let mut queued = ctx.store.queued();
    let mut away = false;
    loop {
        match send_due(&ctx, &mailer).await {
            Ok(0) => {
                away = false;
                // Either way something may be due.
                let _either = tokio::time::timeout(LOOK_EVERY, queued.changed()).await;
            }
            Ok(_sent) => away = false,
            Err(error) => {
                if !away {
                    tracing::error!(error = &error as &dyn std::error::Error, "looking for mail failed; trying on");
                }
                away = true;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// Tries what is due; how many there were.
async fn send_due(ctx: &Context, mailer: &Mailer) -> Result<usize, StoreError> {
    let now = ctx.now();
    // What is leased at the end is handed back, so nothing more is taken then.
    if ctx.is_stopping() || ctx.store.due_destinations(OutboxKind::Mail, now).await?.is_empty() {
        return Ok(0);
    }
    for (_, error) in ctx.store.give_up_expired(OutboxKind::Mail, now).await? {
        tracing::warn!(error, "a mail was given up: it could not be sent for too long");
    }
    let lease = Lease {
        kind: OutboxKind::Mail,
        destination: String::new(),
        limit: AT_ONCE,
        node: ctx.node.clone(),
        until: now.plus(LEASE),
    };
    let items = ctx.store.lease_outbox(lease, now).await?;
    for settled in join_all(items.iter().map(|item| settle(ctx, mailer, item))).await {
        settled?;
    }
    Ok(items.len())
}

/// Tries one mail and notes what came of it. A mail that cannot be sent holds up no other.
async fn settle(ctx: &Context, mailer: &Mailer, item: &OutboxItem) -> Result<(), StoreError> {
    match try_one(ctx, mailer, item).await {
        Ok(()) => ctx.store.outbox_delivered(item.id.clone(), ctx.now()).await,
        Err(Failure::Hopeless(why)) => {
            tracing::warn!(mail.id = item.id, why, "a mail was given up");
            ctx.store.outbox_given_up(item.id.clone(), &why, ctx.now()).await
        }
        Err(Failure::ForNow(why)) => {
            tracing::warn!(mail.id = item.id, attempts = item.attempts, why, "a mail was not sent; trying again later");
            ctx.store.outbox_failed(item.id.clone(), &why, ctx.now().plus(delay(item.attempts))).await
        }
    }
}

async fn try_one(ctx: &Context, mailer: &Mailer, item: &OutboxItem) -> Result<(), Failure> {
    let letter = open(&ctx.sealing, item).map_err(|error| Failure::Hopeless(error.to_string()))?;
    let now = ctx.now();
    let mails = write(ctx, letter, item.attempts == 1, now).await;
    let mails = mails.map_err(|error| Failure::ForNow(describe(&error)))?;
    for (number, mail) in mails.iter().enumerate() {
        let name = if number == 0 { item.id.clone() } else { format!("{}-{number}", item.id) };
        mailer.send(mail, &name, now).await?;
    }
    Ok(())
}

/// An address with its domain as it is looked up (RFC 5891): letters of other alphabets there are for mail servers that offer
/// SMTPUTF8 (RFC 6531), which many do not.
fn on_the_wire(address: &str) -> Cow<'_, str> {
    match address.rsplit_once('@') {
        Some((local, domain)) if !domain.is_ascii() => format!("{local}@{}", domain_on_the_wire(domain)).into(),
        _ => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_further_and_further_apart() {
        let seconds: Vec<u64> = [1, 2, 3, 4, 8, 100].map(|attempts| delay(attempts).as_secs()).into();
        assert_eq!(seconds, [2, 8, 32, 128, 3600, 3600]);
    }

    #[test]
    fn a_domain_of_other_letters_is_written_as_it_is_looked_up() {
        assert_eq!(on_the_wire("ada@bücher.example"), "ada@xn--bcher-kva.example");
        assert_eq!(on_the_wire("ädä@example.com"), "ädä@example.com");
    }
}
