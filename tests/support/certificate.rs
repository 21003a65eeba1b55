//! Certificates of the tests' own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509Name};
use reqwest::blocking::Client;

use super::{HTTP, word};

/// A certificate for this machine that nobody signed but itself.
pub struct Certificate {
    pub pem: Vec<u8>,
    pub key: Vec<u8>,
    pub der: Vec<u8>,
}

impl Certificate {
    pub fn new() -> Self {
        Self::of(SubjectAlternativeName::new().dns("localhost"))
    }

    pub fn of_address(address: &str) -> Self {
        Self::of(SubjectAlternativeName::new().ip(address))
    }

    fn of(names: &SubjectAlternativeName) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, &word()).unwrap();
        let name = name.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        let names = names.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let certificate = builder.build();
        Self {
            pem: certificate.to_pem().unwrap(),
            key: key.private_key_to_pem_pkcs8().unwrap(),
            der: certificate.to_der().unwrap(),
        }
    }

    /// A client that trusts this certificate and no other, and makes a connection for each request.
    pub fn client(&self, port: u16) -> Client {
        // With it comes the provider of cryptography.
        LazyLock::force(&HTTP);
        Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(0)
            .resolve("localhost", SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .tls_certs_only([reqwest::Certificate::from_pem(&self.pem).unwrap()])
            .build()
            .unwrap()
    }

    /// What a server takes TLS connections by that has this certificate.
    pub fn acceptor(&self) -> SslAcceptor {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_private_key(&PKey::private_key_from_pem(&self.key).unwrap()).unwrap();
        acceptor.set_certificate(&X509::from_pem(&self.pem).unwrap()).unwrap();
        acceptor.build()
    }
}
