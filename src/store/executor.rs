//! Who runs what on which connection. A piece of writing travels to the writer's thread whole and runs as one transaction,
//! all or nothing, even when whoever asked hangs up. The writer takes everything that waits into one commit, so that
//! concurrent transactions share one flush to disk; each is answered only after that commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use diesel::QueryResult;
use tokio::sync::oneshot;

use super::StoreError;
use super::conn::{Conn, begin_immediate, commit, release, rollback, savepoint, undo};

/// Work that may wait for a thread; past it the answer is 503.
const QUEUE: usize = 1024;
/// Transactions that share one commit.
const BATCH: usize = 64;

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

/// The queue of the writer.
#[derive(Clone)]
pub(super) struct Executor {
    queue: Sender<Box<dyn Job>>,
}

impl Executor {
    /// One thread that writes to SQLite, with group commit.
    pub(super) fn sqlite_writer(conn: Conn) -> Result<Self, StoreError> {
        let (queue, jobs) = bounded(QUEUE);
        spawn("store-writer", move || write_in_groups(conn, &jobs))?;
        Ok(Self { queue })
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
        answer.await.map_err(|_gone| StoreError::ThreadGone)?
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop).map_err(StoreError::Spawn)
}

fn write_in_groups(mut conn: Conn, jobs: &Receiver<Box<dyn Job>>) {
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
