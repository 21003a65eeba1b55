//! TLS of our own, with certificates that are read anew when their files change.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use crate::config::Tls;

/// A renewed certificate is served within this.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{path}: {source}")]
    Pem { path: String, source: rustls::pki_types::pem::Error },
    #[error("{0}: holds no certificate")]
    Empty(String),
    #[error("tls.key does not fit tls.certificate: {0}")]
    Pair(rustls::Error),
    #[error("setting up TLS: {0}")]
    SetUp(rustls::Error),
}

/// The certificate that is served just now.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// TLS 1.2 and 1.3 with these files, watched from now on.
///
/// # Errors
/// When the files do not hold a certificate and its key.
pub fn server_config(files: &Tls) -> Result<ServerConfig, TlsError> {
    let read_at = changed_at(files);
    let current = Arc::new(Current(ArcSwap::from_pointee(read(files)?)));
    actix_web::rt::spawn(watch(files.clone(), read_at, Arc::clone(&current)));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(TlsError::SetUp)?.with_no_client_auth().with_cert_resolver(current))
}

fn read(files: &Tls) -> Result<CertifiedKey, TlsError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| TlsError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(failed(&files.certificate))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(failed(&files.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(files.certificate.display().to_string()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(failed(&files.key))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(TlsError::Pair)
}

fn changed_at(files: &Tls) -> Option<(SystemTime, SystemTime)> {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    modified(&files.certificate).zip(modified(&files.key))
}

/// Half a renewal (one file new, the other not) does not pair and is tried again; the old certificate serves meanwhile.
async fn watch(files: Tls, read_at: Option<(SystemTime, SystemTime)>, current: Arc<Current>) {
    let mut served = read_at;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = changed_at(&files);
        if now == served {
            continue;
        }
        match read(&files) {
            Ok(certificate) => {
                current.0.store(Arc::new(certificate));
                served = now;
                tracing::info!("a new TLS certificate is served");
            }
            Err(error) => {
                tracing::warn!(%error, "the TLS files changed but do not load; the old certificate is still served");
            }
        }
    }
}
