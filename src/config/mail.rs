//! The keys of `[mail]` and `[registration]`.

use std::path::Path;

use lettre::message::Mailbox;
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Url};

use super::read::{self, Parsed, Raw, Reader};
use super::{Issuer, MailConfig, MailUrl, RegistrationConfig, SmtpTls};

/// Mail goes nowhere where no address is set, except in development mode, where it goes to a directory.
pub(super) fn mail(
    reader: &mut Reader,
    issuer: Option<&Issuer>,
    development: bool,
    data_dir: &Path,
) -> Option<MailConfig> {
    let url = reader.take("mail.url", mail_url);
    let from = reader.take("mail.from", mailbox);
    if !reader.is_set("mail.url") && !development && reader.is_set("mail.from") {
        reader.problem(
            "mail.from",
            r#"is set, but mail.url is not; set it, for example to "smtps://user:password@mail.example.com""#,
        );
    }
    if matches!(url, Some(MailUrl::Smtp { .. })) && !reader.is_set("mail.from") {
        reader.problem("mail.from", r#"must be set beside mail.url, for example to "Example <no-reply@example.com>""#);
    }
    let default = development.then(|| MailUrl::Directory(data_dir.join("mail")));
    let url = if reader.is_set("mail.url") { url } else { default };
    let host = issuer.and_then(|issuer| issuer.url().host_str());
    // A bare address has no place in a mail address; the name does, and nobody answers either.
    let host = host.filter(|host| host.contains(char::is_alphabetic) && !host.contains(':')).unwrap_or("localhost");
    let from = from.or_else(|| format!("Countersign <no-reply@{host}>").parse().ok());
    Some(MailConfig { url: url?, from: from? })
}

pub(super) fn registration(reader: &mut Reader, has_mail: bool) -> RegistrationConfig {
    let enabled = reader.take("registration.enabled", read::boolean).unwrap_or(false);
    let email_domains = reader.take("registration.email_domains", read::list(domain)).unwrap_or_default();
    if enabled && !has_mail {
        reader
            .problem("registration.enabled", "is true, but without mail.url no address can be confirmed; set mail.url");
    }
    if !enabled && !email_domains.is_empty() {
        reader.problem("registration.email_domains", "is set, but registration.enabled is not true");
    }
    RegistrationConfig { enabled, email_domains }
}

/// The address of a breach corpus, asked by the first five digits of a SHA-1.
pub(super) fn breach_url(raw: Raw) -> Parsed<Url> {
    const WANTED: &str = r#"write one such as "https://api.pwnedpasswords.com/range/""#;
    let text = read::text(raw)?;
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    let url = url.ok_or_else(|| format!("{text:?} is no web address; {WANTED}"))?;
    // As our only client for it has it: http reaches no further than this machine, for tests.
    let is_here = url.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() == "http" && !is_here {
        return Err(format!("{text:?} is not https; {WANTED}"));
    }
    if !url.path().ends_with('/') || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{text:?} must end with a slash, behind which the digits go; {WANTED}"));
    }
    Ok(url)
}

/// Never shows the value: there may be a password in it.
fn mail_url(raw: Raw) -> Parsed<MailUrl> {
    const WANTED: &str = "write smtps://user:password@host, smtp://user:password@host (STARTTLS) or file://DIRECTORY";
    let text = read::text(raw)?;
    if let Some(path) = text.strip_prefix("file://") {
        return if path.is_empty() {
            Err(format!("names no directory; {WANTED}"))
        } else {
            Ok(MailUrl::Directory(path.into()))
        };
    }
    let url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "smtp" | "smtps"));
    let url = url.ok_or_else(|| format!("is not the URL of a mail server; {WANTED}"))?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("takes no path and no parameters; {WANTED}"));
    }
    // `url` knows no SMTP, so it keeps the host as text.
    let host =
        url.host_str().and_then(|host| Host::parse(host).ok()).ok_or_else(|| format!("names no host; {WANTED}"))?;
    let loopback = match &host {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    let (tls, port) = match url.scheme() {
        "smtps" => (SmtpTls::Wrapped, 465),
        _ if loopback => (SmtpTls::Absent, 25),
        _ => (SmtpTls::Required, 587),
    };
    let decoded = |part: &str| {
        let text = percent_decode_str(part).decode_utf8();
        text.map(std::borrow::Cow::into_owned)
            .map_err(|_bytes| format!("holds a user or password that is not UTF-8; {WANTED}"))
    };
    let credentials = match (url.username(), url.password()) {
        ("", None) => None,
        (user, Some(password)) if !user.is_empty() => Some((decoded(user)?, SecretString::from(decoded(password)?))),
        _ => return Err(format!("must hold both a user name and a password, or neither; {WANTED}")),
    };
    // Without the brackets of a URL: this is connected to.
    let host = match host {
        Host::Ipv6(address) => address.to_string(),
        other => other.to_string(),
    };
    Ok(MailUrl::Smtp { host, port: url.port().unwrap_or(port), tls, credentials })
}

fn mailbox(raw: Raw) -> Parsed<Mailbox> {
    let text = read::text(raw)?;
    let wrong = || format!(r#"{text:?} is no mail address; write one such as "Example <no-reply@example.com>""#);
    text.parse().ok().ok_or_else(wrong)
}

fn domain(text: &str) -> Parsed<String> {
    let lower = text.to_lowercase();
    let legal = lower.contains('.') && !lower.contains(['@', '*', ' ', '/']);
    legal
        .then_some(lower)
        .ok_or_else(|| format!(r#"{text:?} is no domain of mail addresses; write one such as "example.com""#))
}
