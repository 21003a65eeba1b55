//! Where the database is: `database_url`, and for PostgreSQL `[database]`. No problem shows more of the URL than its scheme,
//! for there may be a password in it; and because libpq's own messages do show parts of a URL that it misreads, one that
//! could be misread is refused here.

use std::path::Path;
use std::time::Duration;

use secrecy::zeroize::Zeroizing;

use super::read::{self, Parsed, Raw, Reader};
use super::{DatabaseUrl, Postgres};

const SECOND: Duration = Duration::from_secs(1);

/// `None` where none was given, or a wrong one.
pub(super) fn database(reader: &mut Reader) -> Option<DatabaseUrl> {
    let reads = reader.reads_files;
    let url = reader.take("database_url", database_url);
    let password_file = reader.take("database.password_file", read::judged_file(reads, password_file));
    let connections = reader.take("database.connections", read::number(1..=500)).unwrap_or(16);
    let timeout = reader.take("database.statement_timeout", read::span(SECOND..=60 * SECOND)).unwrap_or(2 * SECOND);
    Some(match url? {
        DatabaseUrl::Postgres(found) => DatabaseUrl::Postgres(Postgres {
            password_file: password_file.or(found.password_file),
            connections,
            statement_timeout: timeout,
            url: found.url,
        }),
        sqlite @ DatabaseUrl::Sqlite(_) => sqlite,
    })
}

fn password_file(path: &Path) -> Parsed<()> {
    match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) if text.trim().is_empty() => Err(format!("{} is empty; it holds the password alone", path.display())),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

fn database_url(raw: Raw) -> Parsed<DatabaseUrl> {
    DatabaseUrl::parse(&read::text(raw)?)
}

impl DatabaseUrl {
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Parsed<Self> {
        match text.split_once("://") {
            Some(("sqlite", "" | ":memory:")) => Err("names no file; write sqlite://PATH".to_owned()),
            Some(("sqlite", path)) if path.contains('?') => Err("takes no parameters; write sqlite://PATH".to_owned()),
            Some(("sqlite", path)) => Ok(Self::Sqlite(path.into())),
            Some(("postgres" | "postgresql", rest)) => postgres(rest).map(|()| {
                Self::Postgres(Postgres {
                    url: text.into(),
                    password_file: None,
                    connections: 16,
                    statement_timeout: 2 * SECOND,
                })
            }),
            Some((scheme, _)) => {
                Err(format!("{scheme}:// is no database we know; write sqlite://PATH or postgres://…"))
            }
            None => Err("is not the URL of a database; write sqlite://PATH or postgres://…".to_owned()),
        }
    }
}

/// The form `[user[:password]@][host[:port][,…]][/name][?parameters]` of libpq.
fn postgres(rest: &str) -> Parsed<()> {
    let wrong = |what: &str| {
        Err(format!(
            "is not a URL that PostgreSQL understands ({what}); write %40 for @, %2F for / and so on in user name and \
             password, or use database.password_file"
        ))
    };
    let (before, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, name) = before.split_once('/').unwrap_or((before, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains('@') || name.contains('@') {
        return wrong(if user.contains('@') { "two @" } else { "an @ after the host" });
    }
    if rest.split('%').skip(1).any(|after| !starts_with_two_hex_digits(after)) {
        return wrong("a % that begins no code");
    }
    let host_names: Vec<&str> = hosts.split(',').map(|host| without_port(host).0).collect();
    if hosts.split(',').any(|host| !without_port(host).1.bytes().all(|digit| digit.is_ascii_digit())) {
        return wrong("a port that is no number");
    }
    let mut named = parameters.split('&').filter_map(|parameter| parameter.split_once('='));
    let of_parameters = named.clone().find(|(key, _)| matches!(*key, "host" | "hostaddr")).map(|(_, host)| host);
    let remote = of_parameters.map_or_else(|| host_names.iter().any(|host| !is_here(host)), |host| !is_here(host));
    // libpq's own default takes any certificate, and goes on without one: whoever stands in between reads everything.
    if remote && !named.any(|(key, _)| key == "sslmode") {
        return Err("crosses the network without sslmode; add ?sslmode=verify-full&sslrootcert=FILE, or another \
                    sslmode if you know better"
            .to_owned());
    }
    Ok(())
}

fn starts_with_two_hex_digits(text: &str) -> bool {
    let mut digits = text.bytes().take(2).take_while(u8::is_ascii_hexdigit);
    digits.next().is_some() && digits.next().is_some()
}

/// Host and port; the colons of an IPv6 address stand in brackets.
fn without_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    }
}

/// This machine: a socket's directory, or loopback.
fn is_here(host: &str) -> bool {
    host.is_empty() || host.starts_with('/') || host.starts_with("%2F") || host.starts_with("%2f") || {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}
