//! Every request that this server makes of others, through one fenced client: https, addresses checked after resolution
//! and connected to as checked, no redirect followed, size and time bounded (OWASP ASVS 5 V1.3.6, RFC 7591 section 5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use tokio::sync::OnceCell;
use url::{Host, Url};

use crate::config::{HostPort, OutboundConfig};

const TIMEOUT: Duration = Duration::from_secs(5);
/// Of what a request waits for: a proxy in front of us gives up soon after.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BODY: usize = 64 * 1024;
/// A range of a breach corpus has a thousand lines and more.
const MAX_TEXT: usize = 256 * 1024;

/// A request to another server failed, or was not allowed. Never shown to whoever caused it.
#[derive(Debug, Error)]
pub enum OutboundError {
    #[error("{0}: this address is not allowed; see outbound.allow and outbound.allow_private")]
    Forbidden(String),
    #[error("reading outbound.ca_file")]
    CaFile(#[source] std::io::Error),
    #[error("building the client")]
    Build(#[source] reqwest::Error),
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the answer is too large")]
    TooLarge,
    #[error("the answer is not JSON")]
    Json(#[source] serde_json::Error),
}

/// The client. It is made, with the certificates of the system, when the first request needs it: many servers never send one.
#[derive(Clone)]
pub struct Outbound {
    client: Arc<OnceCell<reqwest::Client>>,
    /// Keeps no connection: with many receivers each kept one would be an open file.
    notifier: Arc<OnceCell<reqwest::Client>>,
    extra_certificates: Arc<[reqwest::Certificate]>,
    fence: Fence,
}

#[derive(Clone, Debug)]
struct Fence {
    allow: Arc<[HostPort]>,
    allow_private: bool,
}

impl Outbound {
    /// # Errors
    /// When the extra CA file does not read.
    pub fn new(config: &OutboundConfig) -> Result<Self, OutboundError> {
        let fence = Fence { allow: config.allow.clone().into(), allow_private: config.allow_private };
        let pem = config.ca_file.as_ref().map(std::fs::read).transpose().map_err(OutboundError::CaFile)?;
        let certificates = pem.map(|pem| reqwest::Certificate::from_pem_bundle(&pem)).transpose();
        let outbound = Self {
            client: Arc::default(),
            notifier: Arc::default(),
            extra_certificates: certificates.map_err(OutboundError::Build)?.unwrap_or_default().into(),
            fence,
        };
        if !outbound.extra_certificates.is_empty() {
            // Whether they read is seen here, at the start.
            outbound.build(0)?;
        }
        Ok(outbound)
    }

    async fn client(&self) -> Result<&reqwest::Client, OutboundError> {
        self.client.get_or_try_init(async || self.build(2)).await
    }

    async fn notifier(&self) -> Result<&reqwest::Client, OutboundError> {
        self.notifier.get_or_try_init(async || self.build(0)).await
    }

    fn build(&self, kept_connections: usize) -> Result<reqwest::Client, OutboundError> {
        let builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(kept_connections)
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(FencedResolver(self.fence.clone())));
        let certificates = self.extra_certificates.iter().cloned();
        certificates.fold(builder, reqwest::ClientBuilder::add_root_certificate).build().map_err(OutboundError::Build)
    }

    /// Fetches a JSON document.
    ///
    /// # Errors
    /// When the address is not allowed, or the answer is late, large, not 200 or not JSON.
    pub async fn get_json(&self, address: &Url) -> Result<serde_json::Value, OutboundError> {
        self.fence.check(address)?;
        let request =
            self.client().await?.get(address.clone()).timeout(FETCH_TIMEOUT).header("accept", "application/json");
        let response = request.send().await.map_err(OutboundError::Request)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(OutboundError::Status(response.status().as_u16()));
        }
        serde_json::from_slice(&bounded(response, MAX_BODY).await?).map_err(OutboundError::Json)
    }

    /// Fetches lines of text.
    ///
    /// # Errors
    /// As [`Outbound::get_json`].
    pub async fn get_text(&self, address: &Url, header: (&str, &str)) -> Result<String, OutboundError> {
        self.fence.check(address)?;
        let request = self.client().await?.get(address.clone()).timeout(FETCH_TIMEOUT).header(header.0, header.1);
        // Without the address, which says something of what was asked for.
        let response = request.send().await.map_err(|error| OutboundError::Request(error.without_url()))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(OutboundError::Status(response.status().as_u16()));
        }
        Ok(String::from_utf8_lossy(&bounded(response, MAX_TEXT).await?).into_owned())
    }

    /// Posts a form; the status of the answer. Its body is not read, however long it would be: the connection ends with it.
    ///
    /// # Errors
    /// When the address is not allowed, or no answer comes in time.
    pub async fn post_form(&self, address: &Url, fields: &[(&str, &str)]) -> Result<u16, OutboundError> {
        self.fence.check(address)?;
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.notifier().await?.post(address.clone()).body(body);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let response = request.send().await.map_err(OutboundError::Request)?;
        Ok(response.status().as_u16())
    }

    /// Sends a request that was prepared elsewhere; status, headers and body of the answer come back as they are.
    ///
    /// # Errors
    /// When the address is not allowed, or the answer is late or large.
    pub async fn send(
        &self,
        request: reqwest::Request,
    ) -> Result<(reqwest::StatusCode, reqwest::header::HeaderMap, Vec<u8>), OutboundError> {
        self.fence.check(request.url())?;
        let response = self.client().await?.execute(request).await.map_err(OutboundError::Request)?;
        Ok((response.status(), response.headers().clone(), bounded(response, MAX_BODY).await?))
    }
}

async fn bounded(mut response: reqwest::Response, most: usize) -> Result<Vec<u8>, OutboundError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(OutboundError::Request)? {
        if body.len() + chunk.len() > most {
            return Err(OutboundError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl Fence {
    fn lists(&self, host: &str, port: Option<u16>) -> bool {
        self.allow
            .iter()
            .any(|allowed| allowed.host.to_string() == host && port.is_none_or(|port| port == allowed.port))
    }

    /// What can be told from the address alone. A name is judged again by what it resolves to.
    fn check(&self, address: &Url) -> Result<(), OutboundError> {
        let forbidden = || OutboundError::Forbidden(address.origin().ascii_serialization());
        let host = address.host().ok_or_else(forbidden)?;
        let port = address.port_or_known_default();
        if !address.username().is_empty() || address.password().is_some() {
            return Err(forbidden());
        }
        let listed = self.lists(&host.to_string(), port);
        let loopback = match &host {
            Host::Domain(name) => *name == "localhost",
            Host::Ipv4(ip) => ip.is_loopback(),
            Host::Ipv6(ip) => ip.is_loopback(),
        };
        let scheme = match address.scheme() {
            "https" => true,
            // For development only: plain http, to this machine.
            "http" => loopback && (self.allow_private || listed),
            _ => false,
        };
        let public = match &host {
            Host::Domain(_) => true,
            Host::Ipv4(ip) => is_public_v4(*ip),
            Host::Ipv6(ip) => is_public_v6(*ip),
        };
        // A host inside that the operator listed is reached at the listed ports alone.
        let elsewhere = !listed && !self.allow_private && self.lists(&host.to_string(), None);
        if scheme && !elsewhere && (public || listed || self.allow_private) { Ok(()) } else { Err(forbidden()) }
    }
}

/// Resolves a name and keeps only addresses that may be connected to; the client connects to what comes out of here, so
/// a second, different answer of the name server changes nothing.
struct FencedResolver(Fence);

impl Resolve for FencedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let fence = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let all = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let free = fence.allow_private || fence.lists(&host, None);
            let kept: Vec<SocketAddr> = all.filter(|address| free || is_public(address.ip())).collect();
            if kept.is_empty() {
                return Err("the name resolves to no address that may be connected to".into());
            }
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public Internet: not loopback, private, link-local (where clouds keep their
/// metadata), shared, reserved, multicast, or an IPv6 spelling of such an IPv4 address.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    // NAT64 (RFC 6052), 6to4 and Teredo carry an IPv4 address inside; only global unicast is left after that.
    let translated = (a == 0x64 && b == 0xff9b) || a == 0x2002 || (a == 0x2001 && b == 0);
    let documentation = a == 0x2001 && b == 0xdb8;
    (a & 0xe000) == 0x2000 && !translated && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(allow_private: bool, allow: &[&str]) -> Fence {
        let allow = allow.iter().map(|text| {
            let url = Url::parse(&format!("https://{text}")).unwrap();
            HostPort { host: url.host().unwrap().to_owned(), port: url.port_or_known_default().unwrap() }
        });
        Fence { allow: allow.collect(), allow_private }
    }

    #[test]
    fn s95_only_https_to_public_addresses_leaves_the_fence() {
        let closed = fence(false, &[]);
        for good in ["https://rp.example/jwks", "https://93.184.216.34/", "https://[2606:4700::1]/"] {
            assert!(closed.check(&Url::parse(good).unwrap()).is_ok(), "{good}");
        }
        for bad in [
            "http://rp.example/",
            "ftp://rp.example/",
            "file:///etc/passwd",
            "https://user@rp.example/",
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://10.0.0.1/",
            "https://172.16.0.1/",
            "https://192.168.1.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://100.64.0.1/",
            "https://0.0.0.0/",
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::127.0.0.1]/",
            "https://[fe80::1]/",
            "https://[fc00::1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
        ] {
            assert!(closed.check(&Url::parse(bad).unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_operator_opens_the_fence_for_named_hosts_or_for_development() {
        let listed = fence(false, &["10.0.0.1:8443", "127.0.0.1:9000"]);
        assert!(listed.check(&Url::parse("https://10.0.0.1:8443/").unwrap()).is_ok());
        assert!(listed.check(&Url::parse("https://10.0.0.1/").unwrap()).is_err());
        assert!(listed.check(&Url::parse("http://127.0.0.1:9000/").unwrap()).is_ok());
        let open = fence(true, &[]);
        assert!(open.check(&Url::parse("http://localhost:3000/").unwrap()).is_ok());
        assert!(open.check(&Url::parse("http://10.0.0.1/").unwrap()).is_err());
    }

    #[actix_web::test]
    async fn s110_a_failed_request_for_text_does_not_say_what_was_asked_for() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let config = |allow_private| OutboundConfig { allow: Vec::new(), allow_private, ca_file: None };
        // Nobody listens on the one, and nobody may reach the other.
        for (allow_private, corpus) in
            [(true, "http://127.0.0.1:1/range/ABCDE"), (false, "https://10.0.0.1/range/ABCDE")]
        {
            let outbound = Outbound::new(&config(allow_private)).unwrap();
            let error = outbound.get_text(&Url::parse(corpus).unwrap(), ("add-padding", "true")).await.unwrap_err();
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                assert!(!error.to_string().contains("ABCDE") && !format!("{error:?}").contains("ABCDE"), "{error}");
                cause = error.source();
            }
        }
    }

    #[actix_web::test]
    async fn s95_a_name_that_resolves_to_this_machine_is_not_connected_to() {
        assert!(FencedResolver(fence(false, &[])).resolve("localhost".parse().unwrap()).await.is_err());
        assert!(FencedResolver(fence(true, &[])).resolve("localhost".parse().unwrap()).await.is_ok());
    }
}
