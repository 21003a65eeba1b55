//! The composition root: opens everything, starts what runs beside the requests, serves.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
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
use crate::metrics::Metrics;
use crate::outbound::{Outbound, OutboundError};
use crate::protocol::jose::SigningAlgorithm;
use crate::store::{Store, StoreError};
use crate::traces::Traces;
use crate::{delivery, development, http, logging, tls};

/// Headers that take longer are not coming.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Proxies keep their connections for a minute, and the one who closes first must be the one who sends.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Longer than this nobody takes what we write: the connection is gone.
const WRITE_TIMEOUT_MILLIS: u32 = 10_000;
/// Connections that the system holds for us until we take them.
const BACKLOG: i32 = 1024;
/// Between the word to stop and closing the door: the load balancer sees that we are not ready, and those who keep a
/// connection are asked to close it.
const LEAVE: Duration = Duration::from_secs(1);
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
    #[error(transparent)]
    Mail(#[from] delivery::mail::MailError),
    #[error("otlp.endpoint: {0}")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
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
    make_directories(config)?;
    Ok(Store::open(&config.database_url)?)
}

/// Makes the directories of the data and of the database where there are none.
///
/// # Errors
/// When one cannot be made.
pub fn make_directories(config: &Config) -> Result<(), AppError> {
    make_directory(&config.data_dir)?;
    if let DatabaseUrl::Sqlite(path) = &config.database_url
        && let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
    {
        make_directory(parent)?;
    }
    Ok(())
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

/// The client for requests of our own.
///
/// # Errors
/// When the extra certificates do not read.
pub fn open_outbound(config: &Config) -> Result<Outbound, AppError> {
    // A second call finds the first one's choice, the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    Ok(Outbound::new(&config.outbound)?)
}

/// Serves until told to stop.
///
/// # Errors
/// When something that it needs cannot be had; the message says what to do.
pub fn serve(config: Config) -> Result<(), AppError> {
    // A second call finds the first one's choice, the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    // Before the runtime: its client brings one of its own.
    let traces = config.otlp_endpoint.as_ref().map(Traces::to).transpose()?;
    logging::start(&config.log, traces.as_ref());
    raise_file_limit();
    let served = actix_web::rt::System::new().block_on(run(config));
    if let Some(traces) = traces {
        traces.end();
    }
    served
}

async fn run(config: Config) -> Result<(), AppError> {
    // Seen first: what is shown once must not be shown by a start that fails.
    let address = config.listen;
    let refused = |source| AppError::Bind { address, source };
    drop(std::net::TcpListener::bind(address).map_err(refused)?);
    let store = open_store(&config)?;
    let _serving = Store::lock_for_serving(&config.database_url)?;
    store.wait_at_most(DATABASE_WAIT).await?;
    if !store.remember_issuer(config.issuer.as_str()).await? {
        tracing::warn!(
            issuer = config.issuer.as_str(),
            "this database was served under another issuer before: what was given out then is of no use any more, and \
             every node on one database must have the same issuer"
        );
    }
    let clock = Clock::system(store.latest_instant().await?);
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
        metrics: Metrics::default(),
        node: uuid::Uuid::new_v4().to_string(),
        stopping: AtomicBool::new(false),
    });
    let mailer = ctx.config.mail.as_ref().map(|mail| delivery::mail::Mailer::new(&ctx, mail)).transpose()?;
    let (demo, welcome) = if ctx.config.development {
        development::prepare(&ctx).await.map(|(demo, welcome)| (Some(web::Data::new(demo)), welcome))?
    } else {
        development::warn_of_leftovers(&ctx);
        (None, format!("Countersign is serving {} on {}", ctx.issuer(), ctx.config.listen))
    };
    ctx.metrics.registry_followed(now);
    actix_web::rt::spawn(delivery::watch_registry(Arc::clone(&ctx)));
    actix_web::rt::spawn(delivery::sweep(Arc::clone(&ctx)));
    if let Some(mailer) = mailer {
        actix_web::rt::spawn(delivery::mail::send_mail(Arc::clone(&ctx), mailer));
    }
    actix_web::rt::spawn(delivery::deliver_logouts(Arc::clone(&ctx)));
    actix_web::rt::spawn(delivery::keep_time(Arc::clone(&ctx)));
    let operator = ctx.config.metrics_listen.map(|address| serve_operator(&ctx, address)).transpose()?;

    let data = web::Data::from(Arc::clone(&ctx));
    let counted = Arc::clone(&ctx);
    let server = HttpServer::new(move || {
        let app = App::new().app_data(data.clone()).wrap(from_fn(http::head_as_get)).wrap(from_fn(http::observe));
        match &demo {
            Some(demo) => app.app_data(demo.clone()).configure(http::demo_routes).configure(http::routes),
            None => app.configure(http::routes),
        }
    })
    .workers(ctx.config.server.workers)
    .client_request_timeout(HEADER_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    // Whoever hangs up has given up, and may be asking another server by now.
    .h1_allow_half_closed(false)
    .max_connections(MAX_CONNECTIONS)
    .on_connect(move |_, data| drop(data.insert(counted.metrics.connection())))
    .shutdown_timeout(DRAIN_SECONDS)
    .shutdown_signal(leave(Arc::clone(&ctx), told_to_stop()?));
    let listener = listen(address).map_err(refused)?;
    let bound = match &ctx.config.tls {
        Some(files) => server.listen_rustls_0_23(listener, tls::server_config(files)?),
        None => server.listen(listener),
    };
    let server = bound.map_err(refused)?.run();
    announce(&welcome);
    let served = server.await.map_err(AppError::Serve);
    // The last to go, so that an operator sees the end.
    if let Some(operator) = operator {
        operator.stop(false).await;
    }
    if let Err(error) = ctx.store.release_leases(ctx.node.clone(), ctx.now()).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "deliveries under way were not handed back; they are when their lease ends"
        );
    }
    if let Err(error) = ctx.store.remember_instant(ctx.now()).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the time of the end was not remembered");
    }
    served
}

/// Opens the door. What the system does by itself for each connection that comes through is said here.
fn listen(address: std::net::SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Also for one who takes nothing at all while our answers pile up.
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(&listener, WRITE_TIMEOUT_MILLIS)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Metrics and health, for the operator alone.
fn serve_operator(ctx: &Arc<Context>, address: std::net::SocketAddr) -> Result<ServerHandle, AppError> {
    let data = web::Data::from(Arc::clone(ctx));
    let app =
        move || App::new().app_data(data.clone()).wrap(from_fn(http::head_as_get)).configure(http::operator_routes);
    let server = HttpServer::new(app)
        .workers(1)
        .disable_signals()
        .client_request_timeout(HEADER_TIMEOUT)
        .bind(address)
        .map_err(|source| AppError::Bind { address, source })?
        .run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    Ok(handle)
}

/// One descriptor for each connection: as many as the system lets us have.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Resolves when the door is to be closed: a little after the word to stop, so that nobody comes to a closed one. In
/// development there is nobody to tell.
async fn leave(ctx: Arc<Context>, told: impl Future<Output = ()>) {
    told.await;
    ctx.stopping.store(true, Ordering::Relaxed);
    tracing::info!("told to stop; finishing what runs");
    if !ctx.config.development {
        tokio::time::sleep(LEAVE).await;
    }
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
