//! Each key by name: its parser, its bounds, its default, and what must hold between keys.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ipnet::IpNet;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use crate::protocol::acr::{AcrNames, Class};

use super::mail::{breach_url, mail, registration};
use super::postgres;
use super::read::{self, Parsed, Raw, Reader, short};
use super::{
    AccessTokenConfig, AuthorizationCodeConfig, Config, DatabaseUrl, HostPort, IdTokenConfig, Issuer, KeySource,
    LogConfig, LogFormat, LogLevel, MfaConfig, MfaRequired, OutboundConfig, PasswordConfig, RefreshTokenConfig,
    ServerConfig, SessionConfig, SidScope, SigningKeyConfig, Tls,
};

const WANTED_KEY: &str = "is not base64 of 32 bytes; make one with: openssl rand -base64 32";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const LONGEST: Duration = Duration::from_hours(3_650 * 24);

/// Takes every key. After a problem with one key its default stands in, so that the others are still judged.
/// `None` only after a problem.
pub(super) fn read(reader: &mut Reader) -> Option<Config> {
    let cores = available_parallelism().map_or(1, usize::from).min(256);
    let listen = reader.take("listen", address).unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080));
    let tls = tls(reader);
    let proxies = reader.take("trusted_proxies", read::list(read::network));
    let (issuer, development) = identity(reader, listen, proxies.as_deref());
    let data_dir = reader.take("data_dir", directory).unwrap_or_else(|| "data".into());
    let database_url = postgres::database(reader);
    let audience = reader.take("access_token.audience", audience);
    let mfa = mfa(reader);
    let mail = mail(reader, issuer.as_ref(), development, &data_dir);
    let publish_ahead = reader.take("signing_key.publish_ahead", read::span(Duration::ZERO..=30 * DAY));
    Some(Config {
        database_url: database_url.unwrap_or_else(|| DatabaseUrl::Sqlite(data_dir.join("countersign.db"))),
        tls,
        trusted_proxies: proxies.unwrap_or_default(),
        key_encryption_key: key_source(reader, &data_dir),
        access_token: AccessTokenConfig {
            lifetime: reader.take("access_token.lifetime", read::span(SECOND..=DAY)).unwrap_or(10 * MINUTE),
            audience: audience.or_else(|| issuer.as_ref().map(|issuer| issuer.text.clone())).unwrap_or_default(),
        },
        id_token: IdTokenConfig {
            lifetime: reader.take("id_token.lifetime", read::span(SECOND..=DAY)).unwrap_or(HOUR),
        },
        authorization_code: AuthorizationCodeConfig {
            lifetime: reader.take("authorization_code.lifetime", read::span(SECOND..=MINUTE)).unwrap_or(MINUTE),
        },
        refresh_token: refresh_token(reader),
        session: session(reader),
        signing_key: SigningKeyConfig {
            publish_ahead: publish_ahead.unwrap_or(if development { Duration::ZERO } else { HOUR }),
        },
        password: password(reader, cores, mfa.required),
        registration: registration(reader, mail.is_some()),
        mail,
        mfa,
        acr: acr(reader),
        server: ServerConfig { workers: reader.take("server.workers", read::number(1..=256)).unwrap_or(cores) },
        log: LogConfig {
            level: reader.take("log.level", log_level).unwrap_or(LogLevel::Info),
            format: reader.take("log.format", log_format).unwrap_or(LogFormat::Text),
        },
        metrics_listen: metrics_listen(reader, listen),
        otlp_endpoint: reader.take("otlp.endpoint", collector),
        outbound: OutboundConfig {
            allow: reader.take("outbound.allow", read::list(host_port)).unwrap_or_default(),
            allow_private: reader.take("outbound.allow_private", read::boolean).unwrap_or(false),
            ca_file: {
                let reads = reader.reads_files;
                reader.take("outbound.ca_file", read::judged_file(reads, certificates))
            },
        },
        development,
        listen,
        data_dir,
        // Last: by now every key has been taken.
        issuer: issuer?,
    })
}

/// Issuer and mode.
fn identity(reader: &mut Reader, listen: SocketAddr, proxies: Option<&[IpNet]>) -> (Option<Issuer>, bool) {
    let unset = !reader.is_set("issuer");
    // What is set but wrong has a line of its own already.
    let own_tls = reader.is_set("tls.certificate") || reader.is_set("tls.key");
    let behind_proxy = proxies.map_or(reader.is_set("trusted_proxies"), |proxies| !proxies.is_empty());
    let given = reader.take("issuer", |raw| Issuer::parse(&read::text(raw)?));
    let development = reader.take("development", read::boolean).unwrap_or(unset);
    if let Some(issuer) = given.as_ref().filter(|issuer| issuer.is_https()) {
        if development {
            reader.problem(
                "development",
                format!("must not be true for the issuer {issuer}; it is for this machine only"),
            );
        }
        if !own_tls && !behind_proxy {
            reader.problem(
                "issuer",
                "is https, but nothing serves TLS; set tls.certificate and tls.key, or trusted_proxies to the proxy that does",
            );
        }
    } else if (given.is_some() || unset) && reader.is_set("tls.certificate") {
        reader.problem("tls.certificate", "is set, so issuer must be set and begin with https://");
    }
    if unset && !development {
        reader.problem("development", r#"is false, so issuer must be set, for example to "https://id.example.com""#);
    }
    if unset && listen.port() == 0 {
        reader.problem("listen", format!("{listen} lets the system choose the port, so issuer must be set"));
    }
    if development && !listen.ip().is_loopback() {
        let why = "in development mode we listen on this machine only";
        let right = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port());
        reader.problem(
            "listen",
            format!("{listen} is open to others; {why}: write \"{right}\", or set issuer and no development"),
        );
    }
    let issuer = if unset { reader.keep("issuer", Issuer::development(listen.port())) } else { given };
    (issuer, development)
}

fn tls(reader: &mut Reader) -> Option<Tls> {
    let reads = reader.reads_files;
    let certificate = reader.take("tls.certificate", read::judged_file(reads, certificates));
    let key = reader.take("tls.key", read::judged_file(reads, private_key));
    match (reader.is_set("tls.certificate"), reader.is_set("tls.key")) {
        (true, false) => reader.problem("tls.certificate", "is set, but tls.key is not; set both or neither"),
        (false, true) => reader.problem("tls.key", "is set, but tls.certificate is not; set both or neither"),
        _ => {}
    }
    let files = Tls { certificate: certificate?, key: key? };
    if reads
        && files.key.is_file()
        && files.certificate.is_file()
        && let Err(error) = pair(&files)
    {
        reader.problem("tls.key", format!("does not fit tls.certificate: {error}"));
    }
    Some(files)
}

/// A file of certificates, of which there is one at least.
fn certificates(path: &Path) -> Parsed<()> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if !found.is_empty() => Ok(()),
        Ok(_) => Err(format!("{} holds no certificate; write one in PEM, from BEGIN CERTIFICATE on", path.display())),
        Err(error) => Err(format!("{} holds no certificate in PEM: {error}", path.display())),
    }
}

fn private_key(path: &Path) -> Parsed<()> {
    let read = PrivateKeyDer::from_pem_file(path).map(drop);
    read.map_err(|error| format!("{} holds no private key in PEM: {error}", path.display()))
}

fn pair(files: &Tls) -> Result<CertifiedKey, Box<dyn std::error::Error>> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&files.key)?;
    Ok(CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?)
}

fn key_source(reader: &mut Reader, data_dir: &Path) -> KeySource {
    let inline = reader.take("key_encryption_key", key_encryption_key);
    let reads = reader.reads_files;
    let file = reader.take("key_encryption_key_file", read::judged_file(reads, key_encryption_key_file));
    if reader.is_set("key_encryption_key") && reader.is_set("key_encryption_key_file") {
        reader.problem("key_encryption_key_file", "is set, and so is key_encryption_key; set one of the two");
    }
    let file = || KeySource::File(file.unwrap_or_else(|| data_dir.join("key-encryption.key")));
    inline.map_or_else(file, KeySource::Inline)
}

fn refresh_token(reader: &mut Reader) -> RefreshTokenConfig {
    let (lifetime, idle) =
        lifetime_and_idle(reader, ("refresh_token.lifetime", 90 * DAY), ("refresh_token.idle", 30 * DAY));
    let reuse_leeway = reader.take("refresh_token.reuse_leeway", read::span(Duration::ZERO..=MINUTE));
    RefreshTokenConfig { lifetime, idle, reuse_leeway: reuse_leeway.unwrap_or(10 * SECOND) }
}

fn session(reader: &mut Reader) -> SessionConfig {
    let (lifetime, idle) = lifetime_and_idle(reader, ("session.lifetime", 7 * DAY), ("session.idle", DAY));
    let keep = reader.take("session.keep", read::span(Duration::ZERO..=LONGEST)).unwrap_or((30 * DAY).max(lifetime));
    if keep < lifetime && !keep.is_zero() {
        let (given, least) = (short(keep), short(lifetime));
        reader.problem(
            "session.keep",
            format!(
                r#""{given}" is shorter than session.lifetime; write "{least}" or more, or "0s" for no such choice"#
            ),
        );
    }
    SessionConfig {
        lifetime,
        idle,
        keep,
        sid: reader.take("session.sid", sid_scope).unwrap_or(SidScope::Shared),
        management: reader.take("session.management", read::boolean).unwrap_or(false),
    }
}

fn sid_scope(raw: Raw) -> Parsed<SidScope> {
    match read::text(raw)?.as_str() {
        "shared" => Ok(SidScope::Shared),
        "per_client" => Ok(SidScope::PerClient),
        other => Err(format!("{other:?} is not a choice; write shared or per_client")),
    }
}

/// Two keys with their defaults, of which the second may not exceed the first.
fn lifetime_and_idle(
    reader: &mut Reader,
    lifetime: (&'static str, Duration),
    idle: (&'static str, Duration),
) -> (Duration, Duration) {
    let most = reader.take(lifetime.0, read::span(SECOND..=LONGEST)).unwrap_or(lifetime.1);
    let given = reader.take(idle.0, read::span(SECOND..=LONGEST)).unwrap_or(idle.1.min(most));
    if given > most {
        let (given, most) = (short(given), short(most));
        reader.problem(idle.0, format!(r#""{given}" is longer than {}; write "{most}" or less"#, lifetime.0));
    }
    (most, given)
}

fn password(reader: &mut Reader, cores: usize, second_factor: MfaRequired) -> PasswordConfig {
    // NIST SP 800-63B-4 section 3.1.1.2: a password that stands alone must be longer.
    let min_length = if second_factor == MfaRequired::Always { 8 } else { 15 };
    let config = PasswordConfig {
        memory_kib: reader.take("password.memory", read::number(7_168..=4_194_304)).unwrap_or(19_456),
        iterations: reader.take("password.iterations", read::number(1..=100)).unwrap_or(2),
        parallelism: reader.take("password.parallelism", read::number(1..=64)).unwrap_or(1),
        threads: reader.take("password.threads", read::number(1..=256)).unwrap_or(cores),
        queue: reader.take("password.queue", read::number(1..=10_000)).unwrap_or(64),
        min_length: reader.take("password.min_length", read::number(8..=64)).unwrap_or(min_length),
        breach_url: reader.take("password.breach_url", breach_url),
    };
    // OWASP Password Storage Cheat Sheet, Argon2id: these are of equal strength.
    let least = match config.iterations {
        0 | 1 => 47_104,
        2 => 19_456,
        3 => 12_288,
        4 => 9_216,
        _ => 7_168,
    };
    if config.memory_kib < least {
        let at_fault = if reader.is_set("password.memory") { "password.memory" } else { "password.iterations" };
        let (memory, passes) = (config.memory_kib, config.iterations);
        reader.problem(
            at_fault,
            format!("{memory} KiB with {passes} iterations is too weak; write password.memory = {least} or more, or raise password.iterations"),
        );
    }
    config
}

fn mfa(reader: &mut Reader) -> MfaConfig {
    let config = MfaConfig {
        required: reader.take("mfa.required", mfa_required).unwrap_or(MfaRequired::Optional),
        required_for_admins: reader.take("mfa.required_for_admins", read::boolean).unwrap_or(false),
        trust_browser: reader.take("mfa.trust_browser", read::span(Duration::ZERO..=90 * DAY)).unwrap_or_default(),
    };
    if config.required == MfaRequired::Never && config.required_for_admins {
        reader.problem("mfa.required_for_admins", r#"is true, but mfa.required is "never"; write "optional" there"#);
    }
    config
}

fn mfa_required(raw: Raw) -> Parsed<MfaRequired> {
    match read::text(raw)?.as_str() {
        "never" => Ok(MfaRequired::Never),
        "optional" => Ok(MfaRequired::Optional),
        "always" => Ok(MfaRequired::Always),
        other => Err(format!("{other:?} is not one of never, optional and always")),
    }
}

fn acr(reader: &mut Reader) -> AcrNames {
    let names = AcrNames {
        password: reader.take("acr.password_aliases", read::list(acr_name)).unwrap_or_default(),
        mfa: reader.take("acr.mfa_aliases", read::list(acr_name)).unwrap_or_default(),
    };
    let mut all = names.list(Class::ALL);
    all.sort_unstable();
    let doubled = all.iter().zip(all.iter().skip(1)).find(|(one, next)| one == next).map(|(one, _)| (*one).to_owned());
    if let Some(doubled) = doubled {
        reader.problem("acr.mfa_aliases", format!("{doubled:?} stands for two things; every name has one meaning"));
    }
    names
}

/// `acr_values` separates names by spaces.
fn acr_name(text: &str) -> Parsed<String> {
    let legal = !text.is_empty() && text.len() <= 200 && text.bytes().all(|byte| byte.is_ascii_graphic());
    legal.then(|| text.to_owned()).ok_or_else(|| format!("{text:?} is not a name of 1 to 200 letters without spaces"))
}

fn address(raw: Raw) -> Parsed<SocketAddr> {
    let text = read::text(raw)?;
    let wrong = || format!(r#"{text:?} is not an address with a port; write one such as "127.0.0.1:8080""#);
    text.trim().parse().ok().ok_or_else(wrong)
}

fn directory(raw: Raw) -> Parsed<PathBuf> {
    let path = read::path(raw)?;
    if path.exists() && !path.is_dir() {
        return Err(format!("{} is not a directory", path.display()));
    }
    Ok(path)
}

/// Never shows the value.
fn key_encryption_key(raw: Raw) -> Parsed<SecretString> {
    let key = SecretString::from(read::text(raw)?.trim());
    let bytes = BASE64.decode(key.expose_secret()).map(Zeroizing::new);
    let right = bytes.is_ok_and(|bytes| bytes.len() == 32);
    right.then_some(key).ok_or_else(|| WANTED_KEY.to_owned())
}

fn key_encryption_key_file(path: &Path) -> Parsed<()> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("{shown} cannot be read: {error}");
    if std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(format!("{shown} can be read by others; chmod 600 {shown}"));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
    let bytes = BASE64.decode(text.trim()).map(Zeroizing::new);
    let right = bytes.is_ok_and(|bytes| bytes.len() == 32);
    right.then_some(()).ok_or_else(|| format!("{shown} {WANTED_KEY}"))
}

fn metrics_listen(reader: &mut Reader, listen: SocketAddr) -> Option<SocketAddr> {
    let metrics = reader.take("metrics.listen", |raw| {
        let text = read::text(raw)?;
        let wrong = || format!(r#"{text:?} is not an address with a port; write one such as "127.0.0.1:9464""#);
        text.trim().parse().ok().ok_or_else(wrong)
    });
    if metrics == Some(listen) && listen.port() != 0 {
        reader.problem("metrics.listen", format!("{listen} is what listen says too; give it a port of its own"));
    }
    metrics
}

fn audience(raw: Raw) -> Parsed<String> {
    let text = read::text(raw)?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!(r#"{text:?} holds white space; write one identifier such as "https://api.example.com""#));
    }
    Ok(text)
}

fn log_level(raw: Raw) -> Parsed<LogLevel> {
    let text = read::text(raw)?;
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let found = levels.into_iter().find(|level| level.as_str() == text);
    found.ok_or_else(|| format!("{text:?} is not a level; write error, warn, info, debug or trace"))
}

/// Shows nothing of a wrong value: there may be a password in it.
fn collector(raw: Raw) -> Parsed<Url> {
    let wanted = || r#"is not the address of a collector; write one such as "http://127.0.0.1:4318""#.to_owned();
    let url = Url::parse(&read::text(raw)?).map_err(|_not_a_url| wanted())?;
    let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    (plain && bare).then_some(url).ok_or_else(wanted)
}

fn log_format(raw: Raw) -> Parsed<LogFormat> {
    match read::text(raw)?.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is not a format; write text or json")),
    }
}

fn host_port(text: &str) -> Parsed<HostPort> {
    let wrong = || format!(r#"{text:?} is not host:port; write one such as "idp.internal:443""#);
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = Host::parse(host).ok().ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
    Ok(HostPort { host, port })
}
