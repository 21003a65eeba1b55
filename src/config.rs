//! The settings of the server: every key, its type, its default and its bounds. Read once at start from
//! `countersign.toml` and the environment; whoever holds a [`Config`] need check nothing again. All problems are
//! reported at once, and the server starts with none. Creates no file and opens none but to see that it can be read.

mod keys;
mod mail;
mod postgres;
mod read;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use url::{Host, Url};

use crate::protocol::acr::AcrNames;

pub use read::Problem;
use read::Reader;

/// The file that is read when no other is named.
pub const DEFAULT_FILE: &str = "countersign.toml";

/// All settings, checked against each other.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who we are: the `iss` of every token. `issuer`; when unset, development mode at `http://localhost:<port>`.
    pub issuer: Issuer,
    /// Development mode: loopback only, demo user and demo application. Default: true exactly when `issuer` is unset.
    pub development: bool,
    /// The address to listen on. Default: `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Where the database and the key file lie unless told otherwise. Made at start. Default: `data`.
    pub data_dir: PathBuf,
    /// Default: `sqlite://<data_dir>/countersign.db`.
    pub database_url: DatabaseUrl,
    /// Certificate and key, when we serve TLS ourselves. Default: none.
    pub tls: Option<Tls>,
    /// Peers whose `Forwarded` and `X-Forwarded-*` headers are believed; nobody else's are. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// What encrypts private signing keys at rest (`key_encryption_key`, `key_encryption_key_file`).
    pub key_encryption_key: KeySource,
    /// `[access_token]`
    pub access_token: AccessTokenConfig,
    /// `[id_token]`
    pub id_token: IdTokenConfig,
    /// `[authorization_code]`
    pub authorization_code: AuthorizationCodeConfig,
    /// `[refresh_token]`
    pub refresh_token: RefreshTokenConfig,
    /// `[session]`
    pub session: SessionConfig,
    /// `[signing_key]`
    pub signing_key: SigningKeyConfig,
    /// `[password]`
    pub password: PasswordConfig,
    /// `[mail]`; `None` where mail goes nowhere, and with it all that needs a mailbox.
    pub mail: Option<MailConfig>,
    /// `[registration]`
    pub registration: RegistrationConfig,
    /// `[mfa]`
    pub mfa: MfaConfig,
    /// `[acr]`: other names of the authentication context classes.
    pub acr: AcrNames,
    /// `[server]`
    pub server: ServerConfig,
    /// `[log]`
    pub log: LogConfig,
    /// Where the operator's own listener is: metrics and health. `metrics.listen`. Default: none.
    pub metrics_listen: Option<SocketAddr>,
    /// The collector that traces are sent to. `otlp.endpoint`. Default: none.
    pub otlp_endpoint: Option<Url>,
    /// `[outbound]`
    pub outbound: OutboundConfig,
}

/// The issuer identifier (OIDC Core 1.2, RFC 8414 2): an origin without a trailing slash, https or loopback http.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    text: String,
    url: Url,
}

/// The database.
#[derive(Debug, Clone)]
pub enum DatabaseUrl {
    /// `sqlite://PATH`; the file is made at start.
    Sqlite(PathBuf),
    /// `postgres://…`, for as many servers as one likes.
    Postgres(Postgres),
}

/// How PostgreSQL is reached (`database_url` and `[database]`).
#[derive(Debug, Clone)]
pub struct Postgres {
    /// As libpq takes it; secret because it may hold a password.
    pub url: SecretString,
    /// Holds the password alone; read again for each new connection. `database.password_file`. Default: none.
    pub password_file: Option<PathBuf>,
    /// Connections of this server, and so statements at once. `database.connections`. Default: 16. From 1 to 500.
    pub connections: usize,
    /// What takes longer is given up and answered 503. `database.statement_timeout`. Default: 2s. From 1s to 60s.
    pub statement_timeout: Duration,
}

/// Serving TLS ourselves; both files are PEM and were readable at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, the server's own first. `tls.certificate`.
    pub certificate: PathBuf,
    /// Its private key. `tls.key`.
    pub key: PathBuf,
}

/// Where the key-encryption key is found.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// Base64 of 32 bytes, checked. `key_encryption_key`.
    Inline(SecretString),
    /// A file that holds base64 of 32 bytes. `key_encryption_key_file`, which must be there; by default
    /// `<data_dir>/key-encryption.key`, which the first start makes with mode 0600.
    File(PathBuf),
}

/// Access tokens (RFC 9068).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessTokenConfig {
    /// From issue to `exp`; a resource may have its own. Default: 10m. From 1s to 24h: nobody has to ask us before
    /// believing the token, so a stolen one lives this long.
    pub lifetime: Duration,
    /// `aud` when the client named no resource (RFC 9068 3). Default: the issuer.
    pub audience: String,
}

/// ID tokens (OIDC Core 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdTokenConfig {
    /// From issue to `exp`. Default: 1h. From 1s to 24h.
    pub lifetime: Duration,
}

/// Authorization codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationCodeConfig {
    /// Default: 60s, also the most; stricter than the 10 minutes of RFC 6749 4.1.2, for no client needs longer.
    pub lifetime: Duration,
}

/// Refresh tokens (RFC 9700 4.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshTokenConfig {
    /// From the grant to the end of its last refresh token. Default: 90d. From 1s to 3650d.
    pub lifetime: Duration,
    /// From one use to the next. Default: 30d, or `lifetime` where that is shorter.
    pub idle: Duration,
    /// For so long after its use a spent token may come again, its first answer lost. Default: 10s. `0s` (off) to 60s.
    pub reuse_leeway: Duration,
}

/// A person's sign-in in one browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// From sign-in to its end. Default: 7d. From 1s to 3650d.
    pub lifetime: Duration,
    /// From one use to the next. Default: 1d, or `lifetime` where that is shorter.
    pub idle: Duration,
    /// From sign-in to the end where the person chose to stay signed in; such a session has no idle end. Default: 30d, or
    /// `lifetime` where that is longer. `0s`: the choice is not offered.
    pub keep: Duration,
    /// Who shares a `sid`. Default: shared.
    pub sid: SidScope,
    /// Whether `session_state` and the `check_session_iframe` of OpenID Connect Session Management are offered. Default:
    /// false.
    pub management: bool,
}

/// Whom a `sid` tells that they serve one and the same sign-in (OpenID Connect Front-Channel Logout 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SidScope {
    /// All clients of the session see one value.
    Shared,
    /// Each client sees a value of its own.
    PerClient,
}

/// The keys that sign tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyConfig {
    /// A new key is in the JWKS for so long before it signs. Default: 1h, in development mode 0s. From 0s to 30d.
    pub publish_ahead: Duration,
}

/// Passwords: Argon2id (RFC 9106) and who may compute it when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordConfig {
    /// Memory of one hash in KiB. `password.memory`. Default: 19456. At least what OWASP asks for the `iterations`.
    pub memory_kib: u32,
    /// Passes over that memory. Default: 2. From 1 to 100.
    pub iterations: u32,
    /// Lanes of one hash. Default: 1. From 1 to 64.
    pub parallelism: u32,
    /// Hashes computed at the same time, each with its memory. Default: the number of cores. From 1 to 256.
    pub threads: usize,
    /// Hashes that may wait; one more is answered 503. Default: 64. From 1 to 10000.
    pub queue: usize,
    /// Characters of a new password at least (NIST SP 800-63B-4 3.1.1.2). Default: 15; 8 where `mfa.required` is `always`.
    /// From 8 to 64.
    pub min_length: usize,
    /// Where new passwords are looked up in a breach corpus (k-anonymity range look-up). Default: nowhere.
    pub breach_url: Option<Url>,
}

/// Mail that we send.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// `mail.url`. Default in development mode: the directory `mail` in `data_dir`.
    pub url: MailUrl,
    /// The sender. `mail.from`; must be set beside a mail server.
    pub from: lettre::message::Mailbox,
}

/// Where mail goes.
#[derive(Debug, Clone)]
pub enum MailUrl {
    /// `file://DIRECTORY`: one file each, for development.
    Directory(PathBuf),
    /// `smtp://` or `smtps://`. The operator's own server, so the fence around outbound requests does not apply to it.
    Smtp {
        /// A name or an address.
        host: String,
        /// Default: 465 for smtps, 587 for smtp, 25 on this machine.
        port: u16,
        /// Whether and how the way there is encrypted.
        tls: SmtpTls,
        /// User name and password.
        credentials: Option<(String, SecretString)>,
    },
}

/// Mails hold links that open accounts, so they leave this machine under TLS only (RFC 8314).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// From the first byte (`smtps://`).
    Wrapped,
    /// By STARTTLS, without which nothing is sent (`smtp://`).
    Required,
    /// `smtp://` to this very machine.
    Absent,
}

/// Accounts that people make themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrationConfig {
    /// Default: false.
    pub enabled: bool,
    /// Only addresses of these domains, in lower case; empty for any. Default: empty.
    pub email_domains: Vec<String>,
}

/// The second factor: of whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MfaConfig {
    /// Default: `optional`.
    pub required: MfaRequired,
    /// Whether administrators must have one and show it in whatever browser. Default: false.
    pub required_for_admins: bool,
    /// For so long a browser may go without the code, if its person says so. Default: `0s` (off). To 90d.
    pub trust_browser: Duration,
}

/// Of whom a second factor is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MfaRequired {
    /// Of nobody; nobody can set one up.
    Never,
    /// Of whoever has set one up.
    Optional,
    /// Of everybody; who has none sets one up at the next sign-in.
    Always,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Threads that answer requests. Default: the number of cores. From 1 to 256.
    pub workers: usize,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Default: `info`.
    pub level: LogLevel,
    /// Default: `text`.
    pub format: LogFormat,
}

/// For whom a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// How much is logged. Five words and no filter by module: a library's debug output may hold what ours never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures of our own.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And the course of things.
    Info,
    /// And every refused request with its reason.
    Debug,
    /// And all the rest.
    Trace,
}

/// Requests that we make ourselves, to a client's `jwks_uri` above all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundConfig {
    /// Destinations that may be reached although their address is private. Default: none.
    pub allow: Vec<HostPort>,
    /// Whether every private address may be reached: for closed networks. Default: false.
    pub allow_private: bool,
    /// PEM certificates to trust beside the usual ones. Default: none.
    pub ca_file: Option<PathBuf>,
}

/// `host:port`, the host in lower case, an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// As in a URL.
    pub host: Host<String>,
    /// From 1 to 65535.
    pub port: u16,
}

/// Everything that is wrong with the settings, a line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(Vec<Problem>);

impl Config {
    /// Reads `path`, or [`DEFAULT_FILE`] where there is one, and lays the `COUNTERSIGN_*` variables over it. Whoever serves
    /// `reads_files` that are named, to judge what is in them; a command that has no use for them goes on without.
    ///
    /// # Errors
    /// All problems found, in the order of the keys.
    pub fn load(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        reads_files: bool,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(environment, reads_files);
        reader.open(path.unwrap_or(Path::new(DEFAULT_FILE)), path.is_some());
        Self::from_reader(reader)
    }

    fn from_reader(mut reader: Reader) -> Result<Self, ConfigErrors> {
        let config = keys::read(&mut reader);
        let problems = reader.finish();
        config.filter(|_| problems.is_empty()).ok_or(ConfigErrors(problems))
    }
}

/// The process's environment for [`Config::load`]. Unlike `std::env::vars` it does not panic at other people's
/// variables; what is not Unicode in ours becomes U+FFFD, which no key accepts as it stands.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

impl ConfigErrors {
    /// Each problem, which displays as one line.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Issuer {
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WANTED: &str = r#"write one such as "https://id.example.com""#;
        let Ok(url) = Url::parse(text) else {
            return Err(format!("{text:?} is not a URL; {WANTED}"));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("must not hold a user name or password; {WANTED}"));
        }
        let origin = url.origin().ascii_serialization();
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("{text:?} must begin with https://; {WANTED}"));
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            let right = origin.replacen("http", "https", 1);
            return Err(format!("{text:?} must begin with https:// (http is for this machine only); write {right:?}"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("{text:?} must hold no query and no fragment; write {origin:?}"));
        }
        if url.path() != "/" {
            return Err(format!("{text:?} must hold no path, for we answer at the root of a host; write {origin:?}"));
        }
        if text.ends_with('/') {
            return Err(format!("{text:?} must not end with a slash; write {origin:?}"));
        }
        // `iss` is compared byte by byte, so there is one spelling only: no default port, no capitals.
        if text != origin {
            return Err(format!("{text:?} is another spelling of {origin:?}; write that"));
        }
        Ok(Self { text: origin, url })
    }

    fn development(port: u16) -> Result<Self, String> {
        Self::parse(&if port == 80 { "http://localhost".to_owned() } else { format!("http://localhost:{port}") })
    }

    /// As it stands in tokens: without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As a URL, whose path is `/`.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether cookies can be `Secure` and `__Host-`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The URL of a path of ours, which begins with a slash.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl LogLevel {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests;
