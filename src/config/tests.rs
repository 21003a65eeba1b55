use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::LazyLock;

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::X509;
use tempfile::TempDir;

use super::*;

const EXAMPLE: &str = include_str!("../../countersign.example.toml");
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A certificate and its key, another key, a key-encryption key, the same for everybody to read, and nothing.
static FILES: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::with_prefix("countersign-config-").unwrap();
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = || PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let own = key();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.set_pubkey(&own).unwrap();
    builder.sign(&own, MessageDigest::sha256()).unwrap();
    let write = |name: &str, bytes: &[u8], mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("own.pem", &builder.build().to_pem().unwrap(), 0o644);
    write("own.key", &own.private_key_to_pem_pkcs8().unwrap(), 0o600);
    write("other.key", &key().private_key_to_pem_pkcs8().unwrap(), 0o600);
    write("sealing.key", KEY.as_bytes(), 0o600);
    write("open.key", KEY.as_bytes(), 0o644);
    write("short.key", b"abc", 0o600);
    write("empty", b"", 0o600);
    folder
});

fn reader(file: &str, environment: &[(&str, &str)]) -> Reader {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut reader = Reader::new(environment, true);
    reader.parse_file("countersign.toml".to_owned(), &placed(file));
    reader
}

/// With the folder of [`FILES`] in the place of `@`.
fn placed(text: &str) -> String {
    text.replace("@/", &format!("{}/", FILES.path().display()))
}

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    Config::from_reader(reader(file, environment))
        .map_err(|errors| errors.to_string().lines().map(str::to_owned).collect())
}

fn good(file: &str, environment: &[(&str, &str)]) -> Config {
    load(file, environment).unwrap_or_else(|problems| panic!("{file} {environment:?}: {problems:?}"))
}

fn problems(file: &str, environment: &[(&str, &str)]) -> Vec<String> {
    load(file, environment).expect_err(file)
}

#[test]
fn with_no_settings_it_is_development_mode_on_loopback() {
    let config = good("", &[]);
    assert!(config.development);
    assert_eq!(config.issuer.as_str(), "http://localhost:8080");
    assert_eq!(config.issuer.at("/jwks"), "http://localhost:8080/jwks");
    assert!(!config.issuer.is_https());
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.signing_key.publish_ahead, Duration::ZERO);
    assert_eq!(config.access_token.audience, "http://localhost:8080");
    assert!(matches!(config.database_url, DatabaseUrl::Sqlite(path) if path == Path::new("data/countersign.db")));
    assert!(matches!(config.key_encryption_key, KeySource::File(path) if path == Path::new("data/key-encryption.key")));
    assert!(config.tls.is_none() && config.trusted_proxies.is_empty() && config.outbound.allow.is_empty());
}

#[test]
fn a_named_issuer_ends_development_mode() {
    let config = good("", &[("COUNTERSIGN_ISSUER", "http://127.0.0.1:9"), ("COUNTERSIGN_LISTEN", "127.0.0.1:9")]);
    assert!(!config.development);
    assert_eq!(config.signing_key.publish_ahead, Duration::from_hours(1));
    let config = good("development = true", &[("COUNTERSIGN_ISSUER", "http://[::1]:9")]);
    assert!(config.development);
}

#[test]
fn the_environment_wins_over_the_file() {
    let file = "issuer = 'https://id.example.com'\ntrusted_proxies = ['10.0.0.1']\n[access_token]\nlifetime = '5m'\n[password]\nqueue = 7";
    let environment = [
        ("COUNTERSIGN_ACCESS_TOKEN__LIFETIME", "7m"),
        ("COUNTERSIGN_TRUSTED_PROXIES", "192.0.2.1, 2001:db8::5/32"),
        ("COUNTERSIGN_PASSWORD__QUEUE", "9"),
        ("COUNTERSIGN_OUTBOUND__ALLOW_PRIVATE", "true"),
        ("COUNTERSIGN_OUTBOUND__ALLOW", "App.internal:443,[::1]:80"),
        ("COUNTERSIGN_DATA_DIR", "/var/lib/countersign"),
        ("PATH", "/bin"),
    ];
    let config = good(file, &environment);
    assert_eq!(config.issuer.as_str(), "https://id.example.com");
    assert_eq!(config.access_token.lifetime, Duration::from_mins(7));
    assert_eq!(
        config.trusted_proxies.iter().map(IpNet::to_string).collect::<Vec<_>>(),
        ["192.0.2.1/32", "2001:db8::/32"]
    );
    assert_eq!(config.password.queue, 9);
    assert!(config.outbound.allow_private);
    assert_eq!(
        config.outbound.allow.iter().map(HostPort::to_string).collect::<Vec<_>>(),
        ["app.internal:443", "[::1]:80"]
    );
    assert!(
        matches!(config.database_url, DatabaseUrl::Sqlite(path) if path == Path::new("/var/lib/countersign/countersign.db"))
    );
}

#[test]
fn an_idle_span_left_out_is_no_longer_than_the_lifetime() {
    let config = good("[refresh_token]\nlifetime = '1d'\n[session]\nlifetime = '1h'", &[]);
    assert_eq!(config.refresh_token.idle, config.refresh_token.lifetime);
    assert_eq!(config.session.idle, config.session.lifetime);
}

#[test]
fn all_problems_are_told_at_once() {
    let file = "listen = 8080\nissuer = 'https://id.example.com/'\n[access_token]\nlifetime = '10 minuts'";
    let told = problems(file, &[("COUNTERSIGN_LOG__LEVEL", "loud")]);
    assert_eq!(
        told,
        [
            "countersign.toml: listen: is of type integer; write text in quotes",
            r#"countersign.toml: issuer: "https://id.example.com/" must not end with a slash; write "https://id.example.com""#,
            r#"countersign.toml: access_token.lifetime: "10 minuts" is not a span of time; write one such as "10m" or "30d""#,
            r#"COUNTERSIGN_LOG__LEVEL: "loud" is not a level; write error, warn, info, debug or trace"#,
        ]
    );
}

/// What the file says, and the line that answers it without the name of the file.
#[rustfmt::skip]
const WRONG_IN_THE_FILE: &[(&str, &str)] = &[
    // Issuer.
    ("issuer = 'id.example.com'", r#"issuer: "id.example.com" is not a URL; write one such as "https://id.example.com""#),
    ("issuer = 'http://id.example.com'", r#"issuer: "http://id.example.com" must begin with https:// (http is for this machine only); write "https://id.example.com""#),
    ("issuer = 'http://localhost.example.com'", r#"issuer: "http://localhost.example.com" must begin with https:// (http is for this machine only); write "https://localhost.example.com""#),
    ("issuer = 'ftp://id.example.com'", r#"issuer: "ftp://id.example.com" must begin with https://; write one such as "https://id.example.com""#),
    ("issuer = 'https://id.example.com/realm'", r#"issuer: "https://id.example.com/realm" must hold no path, for we answer at the root of a host; write "https://id.example.com""#),
    ("issuer = 'https://id.example.com?a=b'", r#"issuer: "https://id.example.com?a=b" must hold no query and no fragment; write "https://id.example.com""#),
    ("issuer = 'https://id.example.com#a'", r#"issuer: "https://id.example.com#a" must hold no query and no fragment; write "https://id.example.com""#),
    ("issuer = 'https://me:hush@id.example.com'", r#"issuer: must not hold a user name or password; write one such as "https://id.example.com""#),
    ("issuer = 'https://ID.example.com:443'", r#"issuer: "https://ID.example.com:443" is another spelling of "https://id.example.com"; write that"#),
    // Modes.
    ("issuer = 'https://id.example.com'", "issuer: is https, but nothing serves TLS; set tls.certificate and tls.key, or trusted_proxies to the proxy that does"),
    ("issuer = 'https://id.example.com'\ntrusted_proxies = ['10.0.0.1']\ndevelopment = true", "development: must not be true for the issuer https://id.example.com; it is for this machine only"),
    ("development = false", r#"development: is false, so issuer must be set, for example to "https://id.example.com""#),
    ("listen = '0.0.0.0:80'", r#"listen: 0.0.0.0:80 is open to others; in development mode we listen on this machine only: write "127.0.0.1:80", or set issuer and no development"#),
    ("listen = '127.0.0.1:0'", "listen: 127.0.0.1:0 lets the system choose the port, so issuer must be set"),
    ("development = 'true'", "development: is of type string; write true or false, without quotes"),
    // Lists.
    ("trusted_proxies = 'x'", r#"trusted_proxies: is of type string; write a list, such as ["a", "b"]"#),
    ("trusted_proxies = ['x']", r#"trusted_proxies: "x" is neither a network nor an address; write one such as "10.0.0.0/8" or "192.0.2.7""#),
    ("trusted_proxies = ['::/0']", r#"trusted_proxies: "::/0" would trust everybody; name the addresses of the proxies"#),
    ("outbound.allow = [1]", "outbound.allow: is of type integer; write each item as text in quotes"),
    ("outbound.allow = ['app:0']", r#"outbound.allow: "app:0" is not host:port; write one such as "idp.internal:443""#),
    ("outbound.allow = ['https://app']", r#"outbound.allow: "https://app" is not host:port; write one such as "idp.internal:443""#),
    // Spans and numbers.
    ("access_token.lifetime = 600", r#"access_token.lifetime: is of type integer; write a span of time in quotes, such as "10m" or "30d""#),
    ("access_token.lifetime = '25h'", r#"access_token.lifetime: "25h" is out of bounds; write a span from "1s" to "1d""#),
    ("access_token.lifetime = '0s'", r#"access_token.lifetime: "0s" is out of bounds; write a span from "1s" to "1d""#),
    ("id_token.lifetime = '1500ms'", r#"id_token.lifetime: "1500ms" is not a whole number of seconds; write a span such as "10s" or "10m""#),
    ("authorization_code.lifetime = '61s'", r#"authorization_code.lifetime: "61s" is out of bounds; write a span from "1s" to "1m""#),
    ("refresh_token.reuse_leeway = '2m'", r#"refresh_token.reuse_leeway: "2m" is out of bounds; write a span from "0s" to "1m""#),
    ("refresh_token.idle = '91d'", r#"refresh_token.idle: "91d" is longer than refresh_token.lifetime; write "90d" or less"#),
    ("session.keep = '6d'", r#"session.keep: "6d" is shorter than session.lifetime; write "7d" or more, or "0s" for no such choice"#),
    ("session.sid = 'own'", r#"session.sid: "own" is not a choice; write shared or per_client"#),
    ("session.idle = '8d'", r#"session.idle: "8d" is longer than session.lifetime; write "7d" or less"#),
    ("signing_key.publish_ahead = '31d'", r#"signing_key.publish_ahead: "31d" is out of bounds; write a span from "0s" to "30d""#),
    ("password.queue = 0", "password.queue: 0 is not a whole number from 1 to 10000"),
    ("password.threads = 257", "password.threads: 257 is not a whole number from 1 to 256"),
    ("password.min_length = 7", "password.min_length: 7 is not a whole number from 8 to 64"),
    ("password.min_length = '15'", "password.min_length: is of type string; write a whole number from 8 to 64, without quotes"),
    ("password.memory = 19455", "password.memory: 19455 KiB with 2 iterations is too weak; write password.memory = 19456 or more, or raise password.iterations"),
    ("password.iterations = 1", "password.iterations: 19456 KiB with 1 iterations is too weak; write password.memory = 47104 or more, or raise password.iterations"),
    // Files and the database.
    ("data_dir = 'Cargo.toml'", "data_dir: Cargo.toml is not a directory"),
    ("outbound.ca_file = 'src'", "outbound.ca_file: src is a directory; name a file"),
    ("outbound.ca_file = 'none.pem'", "outbound.ca_file: none.pem cannot be read: No such file or directory (os error 2)"),
    ("outbound.ca_file = 'Cargo.toml'", "outbound.ca_file: Cargo.toml holds no certificate; write one in PEM, from BEGIN CERTIFICATE on"),
    ("issuer = 'https://id.example.com'\ntls = { certificate = '@/own.pem', key = '@/other.key' }", "tls.key: does not fit tls.certificate: keys may not be consistent: KeyMismatch"),
    ("issuer = 'https://id.example.com'\ntls = { certificate = '@/own.key', key = '@/own.key' }", "tls.certificate: @/own.key holds no certificate; write one in PEM, from BEGIN CERTIFICATE on"),
    ("issuer = 'https://id.example.com'\ntls = { certificate = '@/own.pem', key = '@/own.pem' }", "tls.key: @/own.pem holds no private key in PEM: no items found"),
    ("key_encryption_key_file = '@/open.key'", "key_encryption_key_file: @/open.key can be read by others; chmod 600 @/open.key"),
    ("key_encryption_key_file = '@/short.key'", "key_encryption_key_file: @/short.key is not base64 of 32 bytes; make one with: openssl rand -base64 32"),
    ("key_encryption_key_file = '@/empty'", "key_encryption_key_file: @/empty is not base64 of 32 bytes; make one with: openssl rand -base64 32"),
    ("database.password_file = '@/empty'", "database.password_file: @/empty is empty; it holds the password alone"),
    ("metrics.listen = '127.0.0.1:8080'", "metrics.listen: 127.0.0.1:8080 is what listen says too; give it a port of its own"),
    ("metrics.listen = '9464'", r#"metrics.listen: "9464" is not an address with a port; write one such as "127.0.0.1:9464""#),
    ("password.breach_url = 'http://example.com/'", r#"password.breach_url: "http://example.com/" is not https; write one such as "https://api.pwnedpasswords.com/range/""#),
    ("tls.certificate = '@/own.pem'\nissuer = 'https://id.example.com'\ntrusted_proxies = ['10.0.0.1']", "tls.certificate: is set, but tls.key is not; set both or neither"),
    ("tls.key = '@/own.key'", "tls.key: is set, but tls.certificate is not; set both or neither"),
    ("tls.certificate = '@/own.pem'\ntls.key = '@/own.key'", "tls.certificate: is set, so issuer must be set and begin with https://"),
    ("tls.certificate = '@/own.pem'\ntls.key = '@/own.key'\nissuer = 'http://localhost'", "tls.certificate: is set, so issuer must be set and begin with https://"),
    ("database_url = 'mysql://me:hush@db/x'", "database_url: mysql:// is no database we know; write sqlite://PATH or postgres://…"),
    ("database_url = 'data.db'", "database_url: is not the URL of a database; write sqlite://PATH or postgres://…"),
    ("database_url = 'postgres://me:hush@db/x'", "database_url: crosses the network without sslmode; add ?sslmode=verify-full&sslrootcert=FILE, or another sslmode if you know better"),
    ("database_url = 'postgres://me:hu/sh@db/x'", "database_url: is not a URL that PostgreSQL understands (an @ after the host); write %40 for @, %2F for / and so on in user name and password, or use database.password_file"),
    ("database_url = 'postgres://me:hu%sh@localhost/x'", "database_url: is not a URL that PostgreSQL understands (a % that begins no code); write %40 for @, %2F for / and so on in user name and password, or use database.password_file"),
    ("database_url = 'postgres://localhost:hush/x'", "database_url: is not a URL that PostgreSQL understands (a port that is no number); write %40 for @, %2F for / and so on in user name and password, or use database.password_file"),
    ("database_url = 'postgres://me@::1/x'", "database_url: crosses the network without sslmode; add ?sslmode=verify-full&sslrootcert=FILE, or another sslmode if you know better"),
    ("[database]\nconnections = 0", "database.connections: 0 is not a whole number from 1 to 500"),
    ("database_url = 'sqlite://:memory:'", "database_url: names no file; write sqlite://PATH"),
    ("database_url = 'sqlite://x.db?mode=ro'", "database_url: takes no parameters; write sqlite://PATH"),
    ("access_token.audience = 'a b'", r#"access_token.audience: "a b" holds white space; write one identifier such as "https://api.example.com""#),
    // Secrets.
    // Unknown.
    ("isuer = 'x'", "isuer: there is no such key; did you mean issuer?"),
    ("[access_tokens]\nlifetime = '1m'", "access_tokens.lifetime: there is no such key; did you mean access_token.lifetime?"),
    ("colour = 'x'", "colour: there is no such key; countersign.example.toml lists them all"),
    ("session = '1d'", "session: is a section, not a key; it holds session.lifetime, session.idle, session.keep, session.sid, session.management"),
];

/// A variable, its value, and what is said of it.
#[rustfmt::skip]
const WRONG_IN_THE_ENVIRONMENT: &[(&str, &str, &str)] = &[
    ("COUNTERSIGN_ISSUER", "", "is empty; give a value or leave it out"),
    ("COUNTERSIGN_DEVELOPMENT", "yes", r#""yes" is neither true nor false"#),
    ("COUNTERSIGN_LISTEN", "8080", r#""8080" is not an address with a port; write one such as "127.0.0.1:8080""#),
    ("COUNTERSIGN_SERVER__WORKERS", "many", r#""many" is not a whole number from 1 to 256"#),
    ("COUNTERSIGN_KEY_ENCRYPTION_KEY", "aHVzaA==", "is not base64 of 32 bytes; make one with: openssl rand -base64 32"),
    ("COUNTERSIGN_ACCESS_TOKEN_LIFETIME", "1m", "there is no such setting; did you mean COUNTERSIGN_ACCESS_TOKEN__LIFETIME?"),
    ("COUNTERSIGN_SESSION", "1d", "is a section, not a setting; it holds COUNTERSIGN_SESSION__LIFETIME, COUNTERSIGN_SESSION__IDLE, COUNTERSIGN_SESSION__KEEP, COUNTERSIGN_SESSION__SID, COUNTERSIGN_SESSION__MANAGEMENT"),
];

/// File, variable and the whole line.
#[rustfmt::skip]
const WRONG_TOGETHER: &[(&str, (&str, &str), &str)] = &[
    ("issuer = 'http://localhost'\nlisten = '[::]:80'", ("COUNTERSIGN_DEVELOPMENT", "true"), r#"countersign.toml: listen: [::]:80 is open to others; in development mode we listen on this machine only: write "127.0.0.1:80", or set issuer and no development"#),
    ("key_encryption_key_file = '@/sealing.key'", ("COUNTERSIGN_KEY_ENCRYPTION_KEY", KEY), "countersign.toml: key_encryption_key_file: is set, and so is key_encryption_key; set one of the two"),
];

#[test]
fn each_problem_names_its_place_and_what_would_be_right() {
    for (file, line) in WRONG_IN_THE_FILE {
        assert_eq!(problems(file, &[]), [format!("countersign.toml: {}", placed(line))], "{file}");
    }
    for (name, value, text) in WRONG_IN_THE_ENVIRONMENT {
        assert_eq!(problems("", &[(name, value)]), [format!("{name}: {text}")]);
    }
    for (file, variable, line) in WRONG_TOGETHER {
        assert_eq!(problems(file, &[*variable]), [*line], "{file} {variable:?}");
    }
}

#[test]
fn what_owasp_calls_equally_strong_is_accepted() {
    for (memory, iterations) in [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5), (65_536, 3)] {
        let config = good(&format!("password = {{ memory = {memory}, iterations = {iterations} }}"), &[]);
        assert_eq!((config.password.memory_kib, config.password.iterations), (memory, iterations));
        if memory < 65_536 {
            let weaker = format!("password = {{ memory = {}, iterations = {iterations} }}", memory - 1);
            assert!(problems(&weaker, &[])[0].starts_with("countersign.toml: password.memory: "), "{weaker}");
        }
    }
}

#[test]
fn tls_of_our_own_makes_an_https_issuer_whole() {
    let file = "issuer = 'https://id.example.com:8443'\ntls = { certificate = '@/own.pem', key = '@/own.key' }";
    let config = good(file, &[]);
    assert!(config.issuer.is_https() && config.tls.is_some() && !config.development);
    assert_eq!(config.issuer.url().port(), Some(8443));
}

#[test]
fn no_secret_is_shown_by_debug_or_by_a_problem() {
    let config = good("", &[("COUNTERSIGN_KEY_ENCRYPTION_KEY", KEY)]);
    assert!(matches!(config.key_encryption_key, KeySource::Inline(_)));
    assert!(!format!("{config:?}").contains(KEY));
    let cases: [(&str, &[(&str, &str)]); 7] = [
        ("key_encryption_key = 'hush", &[]),
        ("key_encryption_key = hush", &[]),
        ("key_encryption_key = ['hush']", &[]),
        ("", &[("COUNTERSIGN_KEY_ENCRYPTION_KEY", "hush")]),
        ("", &[("COUNTERSIGN_KEY_ENCRYPTION_KEI", "hush")]),
        ("database_url = 'postgres:me:hush@db'", &[]),
        ("database_url = 'postgres://hush@hush@hush:hush/hush@hush?hush'", &[]),
    ];
    for (file, environment) in cases {
        assert!(!problems(file, environment).concat().contains("hush"), "{file} {environment:?}");
    }
}

#[test]
fn s72_a_password_that_stands_alone_is_longer() {
    for (file, least) in [
        ("", 15),
        ("[mfa]\nrequired = 'optional'", 15),
        ("[mfa]\nrequired = 'always'", 8),
        ("[mfa]\nrequired = 'always'\n[password]\nmin_length = 20", 20),
        ("[password]\nmin_length = 8", 8),
    ] {
        assert_eq!(good(file, &[]).password.min_length, least, "{file}");
    }
    assert_eq!(problems("[password]\nmin_length = 7", &[]).len(), 1);
}

#[test]
fn mail_goes_to_a_server_under_tls_or_to_a_directory() {
    let url =
        |text: &str| good("mail.from = 'a <a@example.com>'", &[("COUNTERSIGN_MAIL__URL", text)]).mail.unwrap().url;
    let smtp = |text: &str| match url(text) {
        MailUrl::Smtp { host, port, tls, credentials } => (host, port, tls, credentials.map(|(user, _)| user)),
        MailUrl::Directory(path) => panic!("{path:?}"),
    };
    assert_eq!(smtp("smtps://u%40x:p@mx.example"), ("mx.example".into(), 465, SmtpTls::Wrapped, Some("u@x".into())));
    assert_eq!(smtp("smtp://mx.example"), ("mx.example".into(), 587, SmtpTls::Required, None));
    assert_eq!(smtp("smtp://127.0.0.1:2525"), ("127.0.0.1".into(), 2525, SmtpTls::Absent, None));
    assert_eq!(smtp("smtp://[::1]"), ("::1".into(), 25, SmtpTls::Absent, None));
    assert!(matches!(url("file://some/where"), MailUrl::Directory(path) if path == Path::new("some/where")));
    let default = good("", &[]).mail.unwrap();
    assert!(matches!(default.url, MailUrl::Directory(path) if path == Path::new("data/mail")));
    assert_eq!(default.from.to_string(), "Countersign <no-reply@localhost>");
    assert!(good("issuer = 'http://localhost:9'", &[]).mail.is_none());
    let secret = good("mail.from = 'a@example.com'", &[("COUNTERSIGN_MAIL__URL", "smtps://me:hush@mx.example")]);
    assert!(!format!("{secret:?}").contains("hush"));
    for bad in
        ["smtps://me:hush@", "smtp://me:hush@mx.example/path", "smtps://mx.example?hush=1", "imap://me:hush@mx", "hush"]
    {
        let told = problems("mail.from = 'a@example.com'", &[("COUNTERSIGN_MAIL__URL", bad)]);
        assert!(told.len() == 1 && !told.concat().contains("hush"), "{told:?}");
    }
    let told =
        problems("issuer = 'http://localhost:9'\n[registration]\nenabled = true\n[mail]\nfrom = 'a@example.com'", &[]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(problems("", &[("COUNTERSIGN_MAIL__URL", "smtp://localhost")])[0].starts_with("mail.from: must be set"));
}

#[test]
fn a_database_across_the_network_says_how_it_is_guarded() {
    for url in [
        "postgres://me@localhost/x",
        "postgresql://me:h%40sh@127.0.0.1:5432,[::1]:5433/x",
        "postgres:///x?host=/var/run/postgresql",
        "postgres://%2Fvar%2Frun%2Fpostgresql/x",
        "postgres://me@db1.example.com,db2.example.com:5433/x?sslmode=verify-full&sslrootcert=/etc/ca.pem",
    ] {
        let config = good(&format!("database_url = '{url}'"), &[]);
        let DatabaseUrl::Postgres(postgres) = &config.database_url else { panic!("{url}") };
        assert_eq!((postgres.connections, postgres.statement_timeout.as_secs()), (16, 2));
        assert!(!format!("{config:?}").contains(url), "a URL is secret");
    }
    for url in ["postgres:///x?host=db.example.com", "postgres://localhost,db.example.com/x", "postgres://10.0.0.1/x"] {
        assert!(problems(&format!("database_url = '{url}'"), &[])[0].contains("crosses the network"), "{url}");
    }
}

#[test]
fn a_broken_file_is_told_with_its_line() {
    let told = problems("listen = '127.0.0.1:1'\n\nissuer = \n", &[]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("countersign.toml: line 3: is not TOML: "), "{told:?}");
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let missing = Path::new("no-such-directory/countersign.toml");
    let told = Config::load(Some(missing), std::iter::empty(), false).expect_err("no such file").to_string();
    assert_eq!(told, "no-such-directory/countersign.toml: cannot be read: No such file or directory (os error 2)");
    let mut reader = Reader::new(std::iter::empty(), true);
    reader.open(missing, false);
    assert!(Config::from_reader(reader).is_ok());
}

/// The example with the `#` taken from before every key, or only from before those that show their default.
fn uncommented(with_examples: bool) -> String {
    let bare = |line: &'static str| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with(' ') => {
            (with_examples || !key.ends_with("# example")).then_some(key)
        }
        _ => Some(line),
    };
    EXAMPLE.lines().filter_map(bare).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_says_every_key_and_no_other() {
    let mut reader = reader(&uncommented(true), &[]);
    keys::read(&mut reader);
    let known: BTreeSet<String> = reader.known().iter().map(|&key| key.to_owned()).collect();
    assert_eq!(known.len(), reader.known().len(), "a key is taken twice");
    let said: BTreeSet<String> = reader.file_keys().cloned().collect();
    assert_eq!(said, known);
}

#[test]
fn the_example_is_right_but_for_files_and_a_key_that_are_not_there() {
    let told = problems(&uncommented(true), &[]);
    let key = |line: &String| line.split(": ").nth(1).unwrap_or_default().to_owned();
    let keys: BTreeSet<String> = told.iter().map(key).collect();
    let expected = [
        "database.password_file",
        "key_encryption_key",
        "key_encryption_key_file",
        "outbound.ca_file",
        "tls.certificate",
        "tls.key",
    ];
    assert_eq!(keys, expected.map(str::to_owned).into(), "{told:?}");
}

#[test]
fn the_defaults_in_the_example_are_the_defaults() {
    let issuer = [("COUNTERSIGN_ISSUER", "http://localhost:8080")];
    assert_eq!(format!("{:?}", good(&uncommented(false), &issuer)), format!("{:?}", good("", &issuer)));
    assert_eq!(format!("{:?}", good(EXAMPLE, &[])), format!("{:?}", good("", &[])));
}

#[test]
fn an_environment_that_is_not_unicode_is_no_panic() {
    assert!(environment().count() > 0);
}
