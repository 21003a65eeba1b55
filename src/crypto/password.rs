//! Passwords: Argon2id on threads of its own behind a bounded queue, so that a storm of sign-ins costs memory for its
//! threads alone and never delays a token request (RFC 9106, NIST SP 800-63B-4 section 3.1.1.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::config::PasswordConfig;
pub use crate::domain::password::MAX_LENGTH;
use crate::domain::password::{Refusal, judge, normal};

use super::{CryptoError, foreign, random};

const SALT_LENGTH: usize = 16;
const OUTPUT_LENGTH: usize = 32;
/// How our own hashes begin; others are of another system.
const OURS: &str = "$argon2id$v=19$";
/// [`OUTPUT_LENGTH`] bytes in base64.
const OUR_HASH_LENGTH: usize = 43;
/// What the threads yield to others, in the system's own measure from 0 to 19.
const NICENESS: i32 = 10;
/// A thread gives its memory back when nobody has signed in for so long.
const IDLE: Duration = Duration::from_secs(10);
/// For so long after somebody was turned away, and after a token was asked for, there are both too many sign-ins and somebody
/// whom they would keep waiting.
const MEMORY_OF_PRESSURE: Duration = Duration::from_secs(1);
/// Whoever has waited for so long is turned away, however few wait: an answer is due within two seconds.
const LONGEST_WAIT: Duration = Duration::from_millis(1_500);
/// A thread that rests looks so often whether it still must.
const REST: Duration = Duration::from_millis(50);

/// What checking a password found.
#[derive(Debug)]
pub enum Verdict {
    Wrong,
    /// `rehashed`: the same password under today's parameters, where the stored hash has others.
    Right {
        rehashed: Option<String>,
    },
}

enum Job {
    Verify { password: SecretString, stored: Option<String>, reply: oneshot::Sender<Result<Verdict, CryptoError>> },
    Hash { password: SecretString, reply: oneshot::Sender<Result<String, CryptoError>> },
    Judge { password: SecretString, names: Vec<String>, least: usize, reply: oneshot::Sender<Judgement> },
}

type Judgement = Result<Result<(), Refusal>, CryptoError>;

impl Job {
    /// Whether whoever asked has hung up; then nobody needs the answer and the work is spared.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Verify { reply, .. } => reply.is_closed(),
            Self::Hash { reply, .. } => reply.is_closed(),
            Self::Judge { reply, .. } => reply.is_closed(),
        }
    }

    fn turn_away(self) {
        match self {
            Self::Verify { reply, .. } => drop(reply.send(Err(CryptoError::PasswordQueueFull))),
            Self::Hash { reply, .. } => drop(reply.send(Err(CryptoError::PasswordQueueFull))),
            Self::Judge { reply, .. } => drop(reply.send(Err(CryptoError::PasswordQueueFull))),
        }
    }

    fn run(self, params: &Params, memory: &mut Vec<Block>) {
        match self {
            Self::Verify { password, stored, reply } => {
                drop(reply.send(verify(params, memory, &password, stored.as_deref())));
            }
            Self::Hash { password, reply } => drop(reply.send(hash(params, memory, &password))),
            Self::Judge { password, names, least, reply } => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let _asker_gone = reply.send(Ok(judge(password.expose_secret(), &names, least)));
            }
        }
    }
}

/// The threads that hash. Dropping it ends them.
#[derive(Clone)]
pub struct PasswordHasher {
    queue: Sender<(Instant, Job)>,
    pressure: Arc<Pressure>,
}

/// What says that tokens come before sign-ins. A thread that hashes holds its core for some milliseconds whatever its
/// priority: one that wakes there waits for the kernel's next tick (docs/decisions/0022-tokens-before-a-storm-of-sign-ins.md).
/// So while more want to sign in than can, one core is left to everybody else.
struct Pressure {
    started: Instant,
    /// When somebody was turned away last, and when a token was asked for or about; in milliseconds, 0 = never.
    turned_away: AtomicU64,
    tokens: AtomicU64,
}

impl Pressure {
    fn new() -> Self {
        Self { started: Instant::now(), turned_away: AtomicU64::new(0), tokens: AtomicU64::new(0) }
    }

    fn millis(&self, now: Instant) -> u64 {
        // Never 0.
        u64::try_from(now.duration_since(self.started).as_millis()).map_or(u64::MAX, |millis| millis.saturating_add(1))
    }

    fn note(&self, what: &AtomicU64, now: Instant) {
        what.store(self.millis(now), Ordering::Relaxed);
    }

    fn is_on(&self, now: Instant) -> bool {
        let recent = |what: &AtomicU64| {
            let at = what.load(Ordering::Relaxed);
            at > 0 && u128::from(self.millis(now).saturating_sub(at)) < MEMORY_OF_PRESSURE.as_millis()
        };
        recent(&self.turned_away) && recent(&self.tokens)
    }
}

impl PasswordHasher {
    /// # Errors
    /// When the parameters are outside what Argon2 knows.
    pub fn start(config: &PasswordConfig) -> Result<Self, CryptoError> {
        // As many as leave one core free, and one in any case, go on under pressure.
        Self::start_with(config, available_parallelism().map_or(1, |cores| cores.get() - 1).max(1))
    }

    fn start_with(config: &PasswordConfig, steady: usize) -> Result<Self, CryptoError> {
        let params = Params::new(config.memory_kib, config.iterations, config.parallelism, Some(OUTPUT_LENGTH));
        let params = Arc::new(params.map_err(CryptoError::Password)?);
        let (queue, jobs) = crossbeam_channel::bounded(config.queue);
        let pressure = Arc::new(Pressure::new());
        for number in 0..config.threads {
            let (jobs, params, pressure) = (jobs.clone(), Arc::clone(&params), Arc::clone(&pressure));
            let thread = std::thread::Builder::new().name(format!("argon2-{number}"));
            thread
                .spawn(move || work(&jobs, &params, &pressure, number >= steady))
                .map_err(|_spawn| CryptoError::PasswordThread)?;
        }
        Ok(Self { queue, pressure })
    }

    /// Whether one more can be taken, to be asked before anything else is done for whoever is turned away then.
    ///
    /// # Errors
    /// [`CryptoError::PasswordQueueFull`] past the bound.
    pub fn check_room(&self) -> Result<(), CryptoError> {
        if !self.queue.is_full() {
            return Ok(());
        }
        self.pressure.note(&self.pressure.turned_away, Instant::now());
        Err(CryptoError::PasswordQueueFull)
    }

    /// A token is asked for, or about: that goes before sign-ins where there are too many of them.
    pub fn token_is_asked_for(&self) {
        self.pressure.note(&self.pressure.tokens, Instant::now());
    }

    /// Checks a password. Without a stored hash the same work is done for nothing, so that the time does not tell
    /// whether there is such an account.
    ///
    /// # Errors
    /// [`CryptoError::PasswordQueueFull`] past the bound; otherwise when the machinery failed.
    pub async fn verify(&self, password: SecretString, stored: Option<String>) -> Result<Verdict, CryptoError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Job::Verify { password, stored, reply })?;
        answer.await.map_err(|_gone| CryptoError::PasswordThread)?
    }

    /// A PHC string of the password under today's parameters.
    ///
    /// # Errors
    /// As [`PasswordHasher::verify`].
    pub async fn hash(&self, password: SecretString) -> Result<String, CryptoError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Job::Hash { password, reply })?;
        answer.await.map_err(|_gone| CryptoError::PasswordThread)?
    }

    /// How many wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Judges a password that somebody wants to have; see [`judge`]. Here, because it takes about as long as a hash.
    ///
    /// # Errors
    /// As [`PasswordHasher::verify`].
    pub async fn judge(&self, password: SecretString, names: Vec<String>, least: usize) -> Judgement {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Job::Judge { password, names, least, reply })?;
        answer.await.map_err(|_gone| CryptoError::PasswordThread)?
    }

    fn enqueue(&self, job: Job) -> Result<(), CryptoError> {
        let now = Instant::now();
        self.queue.try_send((now, job)).map_err(|refused| match refused {
            TrySendError::Full(_) => {
                self.pressure.note(&self.pressure.turned_away, now);
                CryptoError::PasswordQueueFull
            }
            TrySendError::Disconnected(_) => CryptoError::PasswordThread,
        })
    }
}

/// `rests`: while the pressure is on.
fn work(jobs: &Receiver<(Instant, Job)>, params: &Params, pressure: &Pressure, rests: bool) {
    // Below the threads that answer requests: a storm of sign-ins takes what processor time they leave.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "the priority of password checks stays as it is");
    }
    let mut memory = Vec::new();
    loop {
        while rests && pressure.is_on(Instant::now()) {
            std::thread::park_timeout(REST);
        }
        let (asked_at, job) = match jobs.recv_timeout(IDLE) {
            Ok(next) => next,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                memory = Vec::new();
                match jobs.recv() {
                    Ok(next) => next,
                    Err(_) => return,
                }
            }
        };
        let now = Instant::now();
        if job.is_abandoned() {
            continue;
        }
        if now.duration_since(asked_at) > LONGEST_WAIT {
            pressure.note(&pressure.turned_away, now);
            job.turn_away();
            continue;
        }
        job.run(params, &mut memory);
    }
}

type Output = Zeroizing<[u8; OUTPUT_LENGTH]>;

/// The raw hash; the memory is kept from call to call.
fn digest(
    params: &Params,
    memory: &mut Vec<Block>,
    password: &SecretString,
    salt: &[u8],
) -> Result<Output, CryptoError> {
    memory.resize(params.block_count(), Block::default());
    let normal = normal(password.expose_secret());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let mut output = Zeroizing::new([0; OUTPUT_LENGTH]);
    let done =
        argon2.hash_password_into_with_memory(normal.as_bytes(), salt, output.as_mut_slice(), memory.as_mut_slice());
    done.map_err(CryptoError::Password)?;
    Ok(output)
}

fn hash(params: &Params, memory: &mut Vec<Block>, password: &SecretString) -> Result<String, CryptoError> {
    let salt: [u8; SALT_LENGTH] = random()?;
    let output = digest(params, memory, password, &salt)?;
    let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
    let (salt, output) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(output.as_slice()));
    Ok(format!("$argon2id$v=19$m={m},t={t},p={p}${salt}${output}"))
}

fn verify(
    params: &Params,
    memory: &mut Vec<Block>,
    password: &SecretString,
    stored: Option<&str>,
) -> Result<Verdict, CryptoError> {
    let Some(stored) = stored else {
        digest(params, memory, password, &[0; SALT_LENGTH])?;
        return Ok(Verdict::Wrong);
    };
    let hash_length = stored.rsplit('$').next().map_or(0, str::len);
    if !(stored.starts_with(OURS) && hash_length == OUR_HASH_LENGTH) {
        if !foreign::verify(stored, password, memory)? {
            // A cheap one answers no sooner than our own would.
            digest(params, memory, password, &[0; SALT_LENGTH])?;
            return Ok(Verdict::Wrong);
        }
        let whole = foreign::is_whole(stored, password);
        return Ok(Verdict::Right { rehashed: if whole { Some(hash(params, memory, password)?) } else { None } });
    }
    let parsed = PasswordHash::new(stored).map_err(CryptoError::PasswordHash)?;
    let stored_params = Params::try_from(&parsed).map_err(CryptoError::PasswordHash)?;
    let (Some(salt), Some(expected)) = (parsed.salt, parsed.hash) else { return Ok(Verdict::Wrong) };
    let mut salt_bytes = [0; 64];
    let salt = salt.decode_b64(&mut salt_bytes).map_err(CryptoError::PasswordHash)?;
    let output = digest(&stored_params, memory, password, salt)?;
    if !bool::from(output.as_slice().ct_eq(expected.as_bytes())) {
        return Ok(Verdict::Wrong);
    }
    let cost = |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost());
    let outdated = cost(&stored_params) != cost(params);
    Ok(Verdict::Right { rehashed: if outdated { Some(hash(params, memory, password)?) } else { None } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(iterations: u32) -> Params {
        Params::new(64, iterations, 1, Some(OUTPUT_LENGTH)).unwrap()
    }

    #[test]
    fn a_password_is_recognised_and_rehashed_when_the_parameters_changed() {
        let mut memory = Vec::new();
        let (right, wrong) = (SecretString::from("pass wörd"), SecretString::from("pass word"));
        let stored = hash(&params(1), &mut memory, &right).unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"));
        let check =
            |iterations, password| verify(&params(iterations), &mut Vec::new(), password, Some(&stored)).unwrap();
        assert!(matches!(check(1, &right), Verdict::Right { rehashed: None }));
        assert!(matches!(check(2, &right), Verdict::Right { rehashed: Some(_) }));
        assert!(matches!(check(1, &wrong), Verdict::Wrong));
        assert!(matches!(verify(&params(1), &mut memory, &right, None).unwrap(), Verdict::Wrong));
    }

    #[test]
    fn tokens_go_first_while_somebody_is_turned_away_and_a_token_is_asked_for() {
        let pressure = Pressure::new();
        let at = |millis| pressure.started + Duration::from_millis(millis);
        assert!(!pressure.is_on(at(0)));
        pressure.note(&pressure.turned_away, at(0));
        assert!(!pressure.is_on(at(1)), "nobody asks for a token");
        pressure.note(&pressure.tokens, at(900));
        assert!(pressure.is_on(at(999)));
        assert!(!pressure.is_on(at(1_000)), "everybody who came was served for a second");
        pressure.note(&pressure.turned_away, at(1_800));
        assert!(pressure.is_on(at(1_899)));
        assert!(!pressure.is_on(at(1_900)), "nobody has asked for a token for a second");
    }

    /// All of whose threads rest under pressure.
    fn hasher_that_rests(threads: usize) -> PasswordHasher {
        let config = PasswordConfig {
            memory_kib: 64,
            iterations: 1,
            parallelism: 1,
            threads,
            queue: 2,
            min_length: 8,
            breach_url: None,
        };
        PasswordHasher::start_with(&config, 0).unwrap()
    }

    fn press(hasher: &PasswordHasher) {
        hasher.token_is_asked_for();
        hasher.pressure.note(&hasher.pressure.turned_away, Instant::now());
    }

    #[tokio::test]
    async fn s103_who_has_waited_too_long_is_turned_away_although_few_wait() {
        let hasher = hasher_that_rests(1);
        press(&hasher);
        // It takes one piece of work before it looks.
        drop(tokio::time::timeout(Duration::from_millis(200), hasher.hash("a long password".into())).await);
        let began = Instant::now();
        let (waited, ()) = tokio::join!(hasher.hash("a long password".into()), async {
            while began.elapsed() <= LONGEST_WAIT {
                press(&hasher);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(matches!(waited, Err(CryptoError::PasswordQueueFull)), "{waited:?} after {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn s103_whoever_finds_no_room_is_told_so_before_anything_is_done() {
        let hasher = hasher_that_rests(1);
        assert!(hasher.check_room().is_ok());
        press(&hasher);
        // One may be taken before the thread looks, two wait.
        let hashes = (0..3).map(|_| hasher.hash("a long password".into()));
        let waiting = futures_util::future::join_all(hashes);
        drop(tokio::time::timeout(Duration::from_millis(100), waiting).await);
        assert!(matches!(hasher.check_room(), Err(CryptoError::PasswordQueueFull)));
        tokio::time::sleep(2 * MEMORY_OF_PRESSURE).await;
        assert!(hasher.check_room().is_ok());
    }

    #[tokio::test]
    async fn a_thread_rests_under_pressure_and_goes_on_afterwards() {
        const THREADS: usize = 2;
        let hasher = hasher_that_rests(THREADS);
        let hash = || hasher.hash("a long password".into());
        press(&hasher);
        // Whoever was waiting for work takes one piece of it before it looks.
        for _ in 0..THREADS {
            drop(tokio::time::timeout(Duration::from_millis(200), hash()).await);
        }
        press(&hasher);
        let began = Instant::now();
        loop {
            match hash().await {
                Err(CryptoError::PasswordQueueFull) => tokio::time::sleep(Duration::from_millis(10)).await,
                answer => break drop(answer.unwrap()),
            }
        }
        assert!(began.elapsed() >= MEMORY_OF_PRESSURE, "after {:?}", began.elapsed());
    }

    #[test]
    fn s71_a_foreign_hash_is_made_anew_of_what_it_vouches_for() {
        let anew = |typed: &str, of: &str| {
            let stored = bcrypt::hash(of, 4).unwrap();
            match verify(&params(1), &mut Vec::new(), &SecretString::from(typed), Some(&stored)).unwrap() {
                Verdict::Right { rehashed } => rehashed.is_some(),
                Verdict::Wrong => panic!("{typed} is not {of}"),
            }
        };
        let whole = "a".repeat(72);
        assert!(anew(&whole, &whole));
        assert!(!anew(&format!("{whole}typo"), &format!("{whole} and more")));
    }

    #[test]
    fn s65_a_cheap_foreign_hash_that_does_not_fit_costs_ours_as_well() {
        let (mut memory, stored) = (Vec::new(), bcrypt::hash("right", 4).unwrap());
        let verdict = verify(&params(1), &mut memory, &"wrong".into(), Some(&stored)).unwrap();
        assert!(matches!(verdict, Verdict::Wrong));
        assert_eq!(memory.len(), params(1).block_count());
    }

    #[test]
    fn s71_one_letter_written_two_ways_is_one_password_and_nothing_is_cut() {
        let mut memory = Vec::new();
        let stored = hash(&params(1), &mut memory, &"caf\u{e9}".into()).unwrap();
        let decomposed = SecretString::from("cafe\u{301}");
        assert!(matches!(verify(&params(1), &mut memory, &decomposed, Some(&stored)).unwrap(), Verdict::Right { .. }));
        let long = "x".repeat(MAX_LENGTH);
        let stored = hash(&params(1), &mut memory, &long.clone().into()).unwrap();
        let shorter = SecretString::from(long[1..].to_owned());
        assert!(matches!(verify(&params(1), &mut memory, &shorter, Some(&stored)).unwrap(), Verdict::Wrong));
    }
}
