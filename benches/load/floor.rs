//! The floors: what the parts cost bare, on this machine, in this run.

use std::hint::black_box;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use actix_web::http::header::AUTHORIZATION;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::{Context, Result, anyhow};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use josekit::jwk::Jwk;
use josekit::jwk::alg::ec::EcCurve;
use josekit::jwk::alg::ed::EdCurve;
use josekit::jws::{ES256, EdDSA, JwsSigner, JwsVerifier, RS256};

use crate::drive::{Operation, Run, Span, drive};
use crate::http::{Answer, basic, write_get, write_post};
use crate::process::{Process, free_address, scratch, thread_cpu};
use crate::sqlite;

/// Processor time and clock time of one repetition, in microseconds.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    pub cpu: f64,
    pub wall: f64,
}

impl Cost {
    /// Repeats `step` for about `span`; a step answers how many repetitions it made.
    pub fn of(span: Duration, mut step: impl FnMut() -> Result<u64>) -> Result<Self> {
        step()?;
        let (started, cpu_before) = (Instant::now(), thread_cpu()?);
        let mut count = 0;
        while started.elapsed() < span {
            count += step()?;
        }
        let (wall, cpu) = (started.elapsed(), thread_cpu()?.saturating_sub(cpu_before));
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        Ok(Self { cpu: each(cpu), wall: each(wall) })
    }
}

#[derive(Default)]
pub struct Floors {
    pub bytes: Run,
    pub form: Run,
    pub es256: Cost,
    pub eddsa: Cost,
    pub rs256: Cost,
    pub es256_verify: Cost,
    pub commit: Cost,
    pub update: Vec<(usize, Cost)>,
    pub update_insert: Vec<(usize, Cost)>,
    pub read: Cost,
    pub argon2_per_second: f64,
}

impl Floors {
    /// `sqlite` says whether those of SQLite are wanted.
    pub async fn measure(connections: usize, span: Duration, sqlite: bool) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("floor-server").arg(address.to_string());
        let (server, _) = Process::start(&mut command, address, "/bytes").await?;
        let host = address.to_string();
        let mut request = Vec::new();
        write_get(&mut request, &host, "/bytes", "");
        let bytes = drive(&server, Span::of(span), vec![Fixed(request.clone()); connections]).await?;
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", &"x".repeat(55))
            .finish();
        let credentials = basic("0190d1b8-0000-7000-8000-000000000000", &"y".repeat(55));
        write_post(&mut request, &host, "/form", &credentials, &form);
        let form = drive(&server, Span::of(span), vec![Fixed(request); connections]).await?;
        drop(server);

        let ec = Jwk::generate_ec_key(EcCurve::P256)?;
        let es256 = ES256.signer_from_jwk(&ec)?;
        let eddsa = EdDSA.signer_from_jwk(&Jwk::generate_ed_key(EdCurve::Ed25519)?)?;
        let rs256 = RS256.signer_from_jwk(&Jwk::generate_rsa_key(2048)?)?;
        let verifier = ES256.verifier_from_jwk(&ec)?;
        let span = span / 4;
        let mut floors = Self {
            bytes,
            form,
            es256: signing(span, &es256)?,
            eddsa: signing(span, &eddsa)?,
            rs256: signing(span, &rs256)?,
            es256_verify: verifying(span, &es256, &verifier)?,
            argon2_per_second: argon2_rate(span * 4)?,
            ..Self::default()
        };
        if sqlite {
            let folder = scratch()?;
            let mut store = sqlite::Store::create(&folder.path().join("floor.db"))?;
            let groups = [1, 8, 16, 32, 64];
            floors.update = rotations(span, &groups, |group| store.rotate_in_place(group))?;
            store.start_over();
            floors.update_insert = rotations(span, &groups, |group| store.rotate_into_new_row(group))?;
            floors.commit = Cost::of(span, || store.commit_small())?;
            floors.read = Cost::of(span, || store.read())?;
        }
        Ok(floors)
    }
}

impl Floors {
    /// The group-committed rotation the bounds are made of: in place as the server does it, and with as many to a
    /// commit as there can be with so many connections.
    pub fn rotation(&self, connections: usize) -> f64 {
        let mut reachable = self.update.iter().filter(|(group, _)| *group <= connections);
        reachable.next_back().map_or(0.0, |(_, cost)| cost.cpu)
    }
}

/// A claim set of an access token's size.
const MESSAGE: [u8; 400] = [b'a'; 400];

fn signing(span: Duration, signer: &dyn JwsSigner) -> Result<Cost> {
    Cost::of(span, || {
        black_box(signer.sign(&MESSAGE)?);
        Ok(1)
    })
}

fn verifying(span: Duration, signer: &dyn JwsSigner, verifier: &dyn JwsVerifier) -> Result<Cost> {
    let signature = signer.sign(&MESSAGE)?;
    Cost::of(span, || {
        verifier.verify(&MESSAGE, &signature)?;
        Ok(1)
    })
}

fn rotations(
    span: Duration,
    groups: &[usize],
    mut rotate: impl FnMut(usize) -> Result<u64>,
) -> Result<Vec<(usize, Cost)>> {
    groups.iter().map(|&group| Ok((group, Cost::of(span, || rotate(group))?))).collect()
}

/// Argon2id hashes per second with a thread on every core, at the server's default cost.
pub fn argon2_rate(span: Duration) -> Result<f64> {
    let params = Params::new(19_456, 2, 1, None).map_err(|error| anyhow!("argon2: {error}"))?;
    let cores = std::thread::available_parallelism()?.get();
    let started = Instant::now();
    let count: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| -> Result<u64> {
                    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
                    let mut blocks = vec![Block::default(); params.block_count()];
                    let mut output = [0; 32];
                    let mut count = 0;
                    while started.elapsed() < span {
                        argon2
                            .hash_password_into_with_memory(
                                b"a bare password",
                                b"a bare salt",
                                &mut output,
                                &mut blocks,
                            )
                            .map_err(|error| anyhow!("argon2: {error}"))?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("argon2 thread"))?).sum::<Result<u64>>()
    })?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// The same request again and again.
#[derive(Clone)]
pub struct Fixed(pub Vec<u8>);

impl Operation for Fixed {
    fn request(&mut self, into: &mut Vec<u8>) -> bool {
        into.clear();
        into.extend_from_slice(&self.0);
        true
    }

    fn answer(&mut self, answer: &Answer<'_>) -> Result<()> {
        answer.expect(200)
    }
}

/// The bare actix-web server: bytes, and the form with the Basic header.
pub fn serve(address: SocketAddr) -> Result<()> {
    let server = async move {
        HttpServer::new(|| App::new().route("/bytes", web::get().to(bytes)).route("/form", web::post().to(form)))
            .workers(std::thread::available_parallelism()?.get())
            .bind(address)?
            .run()
            .await
    };
    actix_web::rt::System::new().block_on(server).context("floor server")
}

/// About what discovery and a JWKS of three keys weigh.
static BYTES: [u8; 2048] = [b'x'; 2048];

async fn bytes() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(&BYTES[..])
}

async fn form(request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let credentials = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some((id, secret)) = credentials.and_then(decode_basic) else {
        return HttpResponse::Unauthorized().finish();
    };
    let parameters: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    if black_box(parameters).is_empty() || id.is_empty() || secret.is_empty() {
        return HttpResponse::BadRequest().finish();
    }
    HttpResponse::Ok().content_type("application/json").body(&BYTES[..1024])
}

fn decode_basic(header: &str) -> Option<(String, String)> {
    let encoded = header.strip_prefix("Basic ")?;
    let pair = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let (id, secret) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    let decode = |part: &str| {
        let (name, _) = form_urlencoded::parse(part.as_bytes()).next()?;
        Some(name.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}
