//! The parts of a request, one by one. Run by `scripts/bench primitives`.

use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use josekit::jwk::Jwk;
use josekit::jwk::alg::ec::EcCurve;
use josekit::jwk::alg::ed::EdCurve;
use josekit::jws::{ES256, EdDSA, JwsHeader, JwsSigner, JwsVerifier, PS256, RS256};
use josekit::jwt::{self, JwtPayload};
use sha2::{Digest as _, Sha256};

struct Algorithm {
    name: &'static str,
    signer: Box<dyn JwsSigner>,
    verifier: Box<dyn JwsVerifier>,
}

fn algorithms() -> Result<Vec<Algorithm>, josekit::JoseError> {
    let ec = Jwk::generate_ec_key(EcCurve::P256)?;
    let ed = Jwk::generate_ed_key(EdCurve::Ed25519)?;
    let rsa = Jwk::generate_rsa_key(2048)?;
    Ok(vec![
        Algorithm {
            name: "ES256",
            signer: Box::new(ES256.signer_from_jwk(&ec)?),
            verifier: Box::new(ES256.verifier_from_jwk(&ec)?),
        },
        Algorithm {
            name: "EdDSA",
            signer: Box::new(EdDSA.signer_from_jwk(&ed)?),
            verifier: Box::new(EdDSA.verifier_from_jwk(&ed)?),
        },
        Algorithm {
            name: "RS256",
            signer: Box::new(RS256.signer_from_jwk(&rsa)?),
            verifier: Box::new(RS256.verifier_from_jwk(&rsa)?),
        },
        Algorithm {
            name: "PS256",
            signer: Box::new(PS256.signer_from_jwk(&rsa)?),
            verifier: Box::new(PS256.verifier_from_jwk(&rsa)?),
        },
    ])
}

/// The claims of an access token.
fn claims() -> Result<JwtPayload, josekit::JoseError> {
    let mut payload = JwtPayload::new();
    payload.set_issuer("https://id.example");
    payload.set_subject("0190d1b8-5f3c-7a6e-9c1d-2b3a4c5d6e7f");
    payload.set_audience(vec!["https://api.example"]);
    payload.set_jwt_id("0190d1b8-5f3c-7a6e-9c1d-2b3a4c5d6e80");
    payload.set_claim("client_id", Some("0190d1b8-5f3c-7a6e-9c1d-2b3a4c5d6e81".into()))?;
    payload.set_claim("scope", Some("openid profile email offline_access".into()))?;
    payload.set_claim("iat", Some(1_700_000_000.into()))?;
    payload.set_claim("exp", Some(1_700_000_600.into()))?;
    Ok(payload)
}

fn signing(criterion: &mut Criterion) {
    let (algorithms, payload) = match (algorithms(), claims()) {
        (Ok(algorithms), Ok(payload)) => (algorithms, payload),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("josekit: {error}");
            return;
        }
    };
    let message = [b'a'; 400];
    let mut header = JwsHeader::new();
    header.set_token_type("at+jwt");
    for Algorithm { name, signer, verifier } in &algorithms {
        let mut group = criterion.benchmark_group("josekit");
        group.bench_function(BenchmarkId::new("sign", name), |bench| {
            bench.iter(|| signer.sign(black_box(&message)));
        });
        group.bench_function(BenchmarkId::new("encode a JWT", name), |bench| {
            bench.iter(|| jwt::encode_with_signer(&payload, &header, signer.as_ref()));
        });
        let Ok(signature) = signer.sign(&message) else { continue };
        group.bench_function(BenchmarkId::new("verify", name), |bench| {
            bench.iter(|| verifier.verify(black_box(&message), &signature));
        });
        group.finish();
    }
}

fn digesting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("SHA-256");
    for size in [43, 1024, 16 * 1024] {
        let input = vec![b'a'; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &input, |bench, input| {
            bench.iter(|| Sha256::digest(black_box(input)));
        });
    }
    group.finish();
}

fn parsing(criterion: &mut Criterion) {
    let form = "grant_type=refresh_token&refresh_token=cs_rt_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdEf0123ab&\
                scope=openid+profile+email&resource=https%3A%2F%2Fapi.example";
    let header = STANDARD.encode("0190d1b8-5f3c-7a6e-9c1d-2b3a4c5d6e81:cs_cs_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789");
    let mut group = criterion.benchmark_group("parse, bare");
    group.bench_function("form", |bench| {
        bench.iter(|| form_urlencoded::parse(black_box(form).as_bytes()).into_owned().collect::<Vec<_>>());
    });
    group.bench_function("Basic header", |bench| bench.iter(|| STANDARD.decode(black_box(&header))));
    group.finish();
}

criterion_group!(benches, signing, digesting, parsing);
criterion_main!(benches);
