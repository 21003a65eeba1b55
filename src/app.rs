//! The composition root: opens everything, starts what runs beside the requests, serves.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpServer, web};
use arc_swap::ArcSwap;
use thiserror::Error;

use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl, KeySource};
use crate::crypto::CryptoError;
use crate::crypto::keyring::generate;
use crate::crypto::password::PasswordHasher;
use crate::crypto::seal::SealingKey;
use crate::flow::Context;
use crate::flow::client::RemoteKeys;
use crate::flow::registry::Registry;
use crate::outbound::{Outbound, OutboundError};
use crate::protocol::jose::SigningAlgorithm;
use crate::store::{Store, StoreError};
use crate::{delivery, development, http, tls};

/// Headers that take longer are not coming.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// What is running when the server is told to stop gets this long.
const DRAIN_SECONDS: u64 = 15;
/// For another process, a command say, that holds the database.
const DATABASE_WAIT: Duration = Duration::from_secs(1);
/// Per worker; past it new connections wait in the system's queue.
const MAX_CONNECTIONS: usize = 25_000;

/// Why the server did not start, or stopped.
#[derive(Debug, Error)]
pub enum AppError {
    #[error("{path}: cannot be made or entered: {source}")]
    Directory { path: String, source: std::io::Error },
    #[error(
        "{0} is missing, but the database holds keys sealed by it; restore the file, or name another by key_encryption_key_file"
    )]
    KeyFileLost(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("{address}: cannot listen there: {}", bind_advice(source))]
    Bind { address: std::net::SocketAddr, source: std::io::Error },
    #[error("serving failed")]
    Serve(#[source] std::io::Error),
}

/// What to do about an address that cannot be had.
fn bind_advice(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program does already; stop it, or set `listen` (COUNTERSIGN_LISTEN=127.0.0.1:8081)".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE (`setcap cap_net_bind_service=+ep`, or \
             AmbientCapabilities= of systemd)"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Opens the database where the configuration says, making the directories around it.
///
/// # Errors
/// When a directory cannot be made or the database not opened.
pub fn open_store(config: &Config) -> Result<Store, AppError> {
    make_directory(&config.data_dir)?;
    if let DatabaseUrl::Sqlite(path) = &config.database_url
        && let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
    {
        make_directory(parent)?;
    }
    Ok(Store::open(&config.database_url)?)
}

/// For its owner alone: it will hold people's data and the key that seals it.
fn make_directory(path: &std::path::Path) -> Result<(), AppError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| AppError::Directory { path: path.display().to_string(), source })
}

/// The key-encryption key. A key file is only made for a database that holds nothing sealed yet.
///
/// # Errors
/// When it cannot be read, or is lost.
pub async fn open_sealing_key(config: &Config, store: &Store) -> Result<SealingKey, AppError> {
    if let KeySource::File(path) = &config.key_encryption_key
        && !path.exists()
        && !store.registry().await?.keys.is_empty()
    {
        return Err(AppError::KeyFileLost(path.display().to_string()));
    }
    Ok(SealingKey::load(&config.key_encryption_key)?)
}

/// Serves until told to stop.
///
/// # Errors
/// When something that it needs cannot be had; the message says what to do.
pub fn serve(config: Config) -> Result<(), AppError> {
    start_logging(&config);
    // A second call finds the first one's choice, the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    actix_web::rt::System::new().block_on(run(config))
}

fn start_logging(config: &Config) {
    let level = config.log.level.as_str();
    let filter = tracing_subscriber::EnvFilter::new(format!(
        "{level},actix_server=warn,actix_http=off,rustls=warn,hyper=warn,reqwest=warn"
    ));
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A log that cannot be written is no reason to stop serving.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false);
    // In tests the subscriber of the first server stays.
    drop(logging.try_init());
}

async fn run(config: Config) -> Result<(), AppError> {
    // Seen first: what is shown once must not be shown by a start that fails.
    let address = config.listen;
    let refused = |source| AppError::Bind { address, source };
    drop(std::net::TcpListener::bind(address).map_err(refused)?);
    let store = open_store(&config)?;
    let _serving = Store::lock_for_serving(&config.database_url)?;
    store.wait_at_most(DATABASE_WAIT).await?;
    let clock = Clock::System;
    let now = clock.now();
    let sealing = open_sealing_key(&config, &store).await?;
    add_first_keys(&store, &sealing, now).await?;
    let outbound = Outbound::new(&config.outbound)?;
    let registry = Registry::build(store.registry().await?, &config, &sealing, now)?;
    let ctx = Arc::new(Context {
        hasher: PasswordHasher::start(&config.password)?,
        rotation_key: sealing.rotation_key(),
        known_browser_key: sealing.known_browser_key(),
        session_key: sealing.session_key(),
        registry: ArcSwap::from_pointee(registry),
        remote_keys: RemoteKeys::default(),
        config,
        clock,
        store,
        sealing,
        outbound,
    });
    let (demo, welcome) = if ctx.config.development {
        development::prepare(&ctx).await.map(|(demo, welcome)| (Some(web::Data::new(demo)), welcome))?
    } else {
        development::warn_of_leftovers(&ctx);
        (None, format!("Countersign is serving {} on {}", ctx.issuer(), ctx.config.listen))
    };
    actix_web::rt::spawn(delivery::watch_registry(Arc::clone(&ctx)));
    actix_web::rt::spawn(delivery::sweep(Arc::clone(&ctx)));

    let data = web::Data::from(Arc::clone(&ctx));
    let server = HttpServer::new(move || {
        let app = App::new().app_data(data.clone());
        match &demo {
            Some(demo) => app.app_data(demo.clone()).configure(http::demo_routes).configure(http::routes),
            None => app.configure(http::routes),
        }
    })
    .workers(ctx.config.server.workers)
    .client_request_timeout(HEADER_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    .max_connections(MAX_CONNECTIONS)
    .shutdown_timeout(DRAIN_SECONDS)
    .shutdown_signal(told_to_stop()?);
    let bound = match &ctx.config.tls {
        Some(files) => server.bind_rustls_0_23(address, tls::server_config(files)?),
        None => server.bind(address),
    };
    let server = bound.map_err(refused)?.run();
    announce(&welcome);
    server.await.map_err(AppError::Serve)
}

/// SIGTERM or SIGINT: either way what runs is finished. Actix by itself would cut it off at the second.
fn told_to_stop() -> Result<impl Future<Output = ()> + Send + 'static, AppError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Serve)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Serve)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What the person who started it must read, log level or not. Nobody may be there to read it.
fn announce(welcome: &str) {
    use std::io::Write as _;
    if let Err(error) = writeln!(std::io::stdout().lock(), "{welcome}") {
        tracing::warn!(%error, "standard output takes no words");
    }
}

/// A key of every algorithm, where there is none yet. Nobody can know an older JWKS, so they sign at once.
async fn add_first_keys(store: &Store, sealing: &SealingKey, now: crate::clock::UnixTime) -> Result<(), AppError> {
    let present = store.registry().await?.keys;
    let missing =
        SigningAlgorithm::ALL.into_iter().filter(|algorithm| present.iter().all(|key| key.algorithm != *algorithm));
    let keys = missing.map(|algorithm| generate(algorithm, sealing, now, now)).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Ok(());
    }
    Ok(store.add_first_keys(keys).await?)
}
