//! Who runs what on which connection. A piece of writing travels to the writer's thread whole and runs as one transaction,
//! all or nothing, even when whoever asked hangs up. The writer takes everything that waits into one commit, so that
//! concurrent transactions share one flush to disk; each is answered only after that commit. PostgreSQL has many threads,
//! each with a connection, for reading and writing alike.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use diesel::QueryResult;
use tokio::sync::oneshot;

use crate::config::Postgres;

use super::checkpoint::Checkpoints;
use super::conn::{Conn, begin_immediate, commit, release, rollback, savepoint, undo};
use super::{StoreError, postgres};

/// Work that may wait for a thread; past it the answer is 503.
const QUEUE: usize = 1024;
/// Transactions that share one commit.
const BATCH: usize = 64;
/// What a thread without a connection waits before it tries again.
const RECONNECT_EVERY: Duration = Duration::from_millis(200);
/// A statement that PostgreSQL gives up is told in so much more than its own time, or the server is not there.
const LATE: Duration = Duration::from_millis(500);
/// How often it is looked whether time goes on, and from when on it did not.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const STOOD_STILL: Duration = Duration::from_secs(1);
/// In so long every connection has been looked at.
const LOOK_AROUND: Duration = Duration::from_millis(500);

trait Job: Send {
    fn run(&mut self, conn: &mut Conn);
    /// Whether nobody waits for it any more, so that it need not begin.
    fn abandoned(&self) -> bool;
    /// Whether its own part went through.
    fn succeeded(&self) -> bool;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Task<T, F> {
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnOnce(&mut Conn) -> Result<T, StoreError> + Send> Job for Task<T, F> {
    fn run(&mut self, conn: &mut Conn) {
        let Some(work) = self.work.take() else { return };
        self.result = Some(catch_unwind(AssertUnwindSafe(|| work(conn))).unwrap_or(Err(StoreError::Panicked)));
    }

    fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn succeeded(&self) -> bool {
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (self.result, committed) {
            (Some(result), Ok(())) => result,
            // Its own failure says more than that of the commit.
            (Some(Err(own)), Err(_)) => Err(own),
            (_, Err(error)) => Err(error),
            (None, Ok(())) => Err(StoreError::Panicked),
        };
        // Whoever asked may be gone; what was done is done.
        drop(self.reply.send(answer));
    }
}

/// The queue of the threads that own connections.
#[derive(Clone)]
pub(super) struct Executor {
    queue: Sender<Box<dyn Job>>,
    /// How long an answer is waited for; whether the work was done is not known past it.
    patience: Option<Duration>,
}

impl Executor {
    /// One thread that writes to SQLite, with group commit.
    pub(super) fn sqlite_writer(conn: Conn, path: String) -> Result<Self, StoreError> {
        let (queue, jobs) = bounded(QUEUE);
        let checkpoints = Checkpoints::start(path)?;
        spawn("store-writer", move || write_in_groups(conn, &jobs, checkpoints))?;
        Ok(Self { queue, patience: None })
    }

    /// Threads that each own a connection to PostgreSQL and work for whoever comes.
    pub(super) fn postgres_pool(settings: &Postgres) -> Result<Self, StoreError> {
        let (queue, jobs) = bounded(QUEUE);
        let open = Arc::new(AtomicUsize::new(0));
        let stillness = Arc::new(Stillness::new());
        for number in 0..settings.connections {
            let (settings, jobs, open) = (settings.clone(), jobs.clone(), Arc::clone(&open));
            let stillness = Arc::clone(&stillness);
            spawn(&format!("store-{number}"), move || work_in_pool(&settings, &jobs, &open, &stillness))?;
        }
        let stillness = Arc::downgrade(&stillness);
        spawn("store-watch", move || {
            while let Some(stillness) = stillness.upgrade() {
                stillness.look();
                postgres::pause(LOOK_EVERY);
            }
        })?;
        Ok(Self { queue, patience: Some(settings.statement_timeout + LATE) })
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let task = Task { work: Some(work), result: None, reply };
        self.queue.try_send(Box::new(task)).map_err(|refused| match refused {
            TrySendError::Full(_) => StoreError::QueueFull,
            TrySendError::Disconnected(_) => StoreError::ThreadGone,
        })?;
        let answer = match self.patience {
            Some(patience) => tokio::time::timeout(patience, answer).await.map_err(|_elapsed| StoreError::Late)?,
            None => answer.await,
        };
        answer.map_err(|_gone| StoreError::ThreadGone)?
    }
}

pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop).map_err(StoreError::Spawn)
}

fn write_in_groups(mut conn: Conn, jobs: &Receiver<Box<dyn Job>>, mut checkpoints: Checkpoints) {
    let mut group: Vec<Box<dyn Job>> = Vec::with_capacity(BATCH);
    while let Ok(first) = jobs.recv() {
        if first.abandoned() {
            continue;
        }
        if let Err(error) = begin_immediate(&mut conn) {
            // Nothing ran, and whoever waits has waited as long: all are told, none waits in turn.
            let error = StoreError::operation("beginning a transaction")(error);
            let text =
                format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
            first.answer(Err(error));
            for waiting in jobs.try_iter() {
                waiting.answer(Err(StoreError::Commit(text.clone())));
            }
            continue;
        }
        let mut broken = None;
        let mut next = Some(first);
        while let Some(mut job) = next.take() {
            broken = run_in_savepoint(&mut conn, job.as_mut()).err();
            group.push(job);
            if broken.is_none() && group.len() < BATCH {
                next = jobs.try_iter().find(|job| !job.abandoned());
            }
        }
        let committed = match broken {
            None => commit(&mut conn),
            Some(error) => Err(error),
        };
        if committed.is_err()
            && let Err(error) = rollback(&mut conn)
        {
            tracing::debug!(%error, "there was nothing left to roll back");
        }
        let failed = committed.err().map(|error| error.to_string());
        for job in group.drain(..) {
            job.answer(failed.as_ref().map_or(Ok(()), |text| Err(StoreError::Commit(text.clone()))));
        }
        if failed.is_none() {
            checkpoints.committed(&mut conn);
        }
    }
}

/// A failure inside one piece of work undoes that piece alone. An `Err` here means that even this failed.
fn run_in_savepoint(conn: &mut Conn, job: &mut dyn Job) -> QueryResult<()> {
    savepoint(conn)?;
    job.run(conn);
    if !job.succeeded() {
        undo(conn)?;
    }
    release(conn)
}

/// One of the pool's connections, counted while it is open.
struct Pooled<'a> {
    conn: Conn,
    open: &'a AtomicUsize,
}

impl<'a> Pooled<'a> {
    fn open(settings: &Postgres, open: &'a AtomicUsize) -> Result<Self, StoreError> {
        let conn = postgres::open(settings).map(Conn::Pg)?;
        open.fetch_add(1, Ordering::Relaxed);
        Ok(Self { conn, open })
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Notices that the whole server stood still: stopped, or the machine under it. Whoever waited for it may have asked another
/// one meanwhile, and a refresh token that was spent there must not be presented once more by a request that was given up.
/// Who is gone is known when each connection has been looked at; until then nothing is begun.
struct Stillness {
    start: Instant,
    /// Milliseconds since the start.
    last_look: AtomicU64,
    over_at: AtomicU64,
}

impl Stillness {
    fn new() -> Self {
        Self { start: Instant::now(), last_look: AtomicU64::new(0), over_at: AtomicU64::new(0) }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The end is known before the look is.
    fn look(&self) {
        let now = self.now();
        if self.stood_still(now) {
            self.over_at.store(millis(now + LOOK_AROUND), Ordering::SeqCst);
        }
        self.last_look.store(millis(now), Ordering::SeqCst);
    }

    fn stood_still(&self, now: Duration) -> bool {
        now.saturating_sub(Duration::from_millis(self.last_look.load(Ordering::SeqCst))) > STOOD_STILL
    }

    fn wait_until_over(&self) {
        while let now = self.now()
            && (self.stood_still(now) || millis(now) < self.over_at.load(Ordering::SeqCst))
        {
            postgres::pause(LOOK_EVERY);
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A connection that broke is replaced; whoever was on it is told 503, and so is, at once, whoever comes while no thread has
/// one.
fn work_in_pool(settings: &Postgres, jobs: &Receiver<Box<dyn Job>>, open: &AtomicUsize, stillness: &Stillness) {
    let mut kept = None;
    let mut taken: Option<Box<dyn Job>> = None;
    loop {
        let mut pooled = match kept.take().map_or_else(|| Pooled::open(settings, open), Ok) {
            Ok(pooled) => pooled,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no connection to the database");
                if let Some(job) = taken.take() {
                    job.answer(Err(away(&error)));
                }
                let until = Instant::now() + RECONNECT_EVERY;
                // A thread that alone has no connection, because there are too many, leaves the work to the others.
                let waiting = if open.load(Ordering::Relaxed) == 0 { jobs.clone() } else { crossbeam_channel::never() };
                loop {
                    match waiting.recv_deadline(until) {
                        Ok(job) if open.load(Ordering::Relaxed) == 0 => job.answer(Err(away(&error))),
                        // Another thread has one again: so may this.
                        Ok(job) => {
                            taken = Some(job);
                            break;
                        }
                        Err(RecvTimeoutError::Timeout) => break,
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
                continue;
            }
        };
        let Ok(mut job) = taken.take().map_or_else(|| jobs.recv(), Ok) else { return };
        stillness.wait_until_over();
        if job.abandoned() {
            kept = Some(pooled);
            continue;
        }
        if !pooled.conn.is_alive() {
            taken = Some(job);
            continue;
        }
        job.run(&mut pooled.conn);
        job.answer(Ok(()));
        if pooled.conn.is_idle() {
            kept = Some(pooled);
        }
    }
}

/// The same failure for everybody who waits.
fn away(error: &StoreError) -> StoreError {
    StoreError::Away(match error {
        StoreError::Away(text) => text.clone(),
        other => other.to_string(),
    })
}

/// Connections for reading. SQLite answers a read from memory in microseconds, less than handing it to another thread
/// and back costs, so a read runs where it is asked for; each asking thread finds a connection of its own.
pub(super) struct Readers {
    idle: Mutex<Vec<Conn>>,
    open: Box<dyn Fn() -> Result<Conn, StoreError> + Send + Sync>,
}

impl Readers {
    pub(super) fn new(open: impl Fn() -> Result<Conn, StoreError> + Send + Sync + 'static) -> Result<Self, StoreError> {
        Ok(Self { idle: Mutex::new(vec![open()?]), open: Box::new(open) })
    }

    /// Runs the work; a connection is opened when more threads read than ever before.
    pub(super) fn run<T>(&self, work: impl FnOnce(&mut Conn) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut conn = match taken {
            Some(conn) => conn,
            None => (self.open)()?,
        };
        let result = work(&mut conn);
        idle().push(conn);
        result
    }
}
