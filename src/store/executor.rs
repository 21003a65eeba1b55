//! The threads that own connections. A piece of work travels to one of them whole and runs as one transaction, all or
//! nothing, even when whoever asked hangs up. The SQLite writer takes everything that waits into one commit, so that
//! concurrent transactions share one flush to disk; each is answered only after that commit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::StoreError;
use super::conn::Conn;

/// Work that may wait for a thread; past it the answer is 503.
const QUEUE: usize = 1024;
/// Transactions that share one commit.
const BATCH: usize = 64;

trait Job: Send {
    fn run(&mut self, conn: &mut Conn);
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

    fn succeeded(&self) -> bool {
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let result = self.result.unwrap_or(Err(StoreError::Panicked));
        // Whoever asked may be gone; what was done is done.
        drop(self.reply.send(match committed {
            Ok(()) => result,
            Err(error) => result.and(Err(error)),
        }));
    }
}

/// A queue of work and the threads behind it.
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

    /// Threads that each run one piece of work at a time; `transactional` ones wrap it in a transaction.
    pub(super) fn pool(name: &str, conns: Vec<Conn>, transactional: bool) -> Result<Self, StoreError> {
        let (queue, jobs) = bounded(QUEUE);
        for conn in conns {
            let jobs: Receiver<Box<dyn Job>> = jobs.clone();
            spawn(name, move || work_singly(conn, &jobs, transactional))?;
        }
        Ok(Self { queue })
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
        let mut next = Some(first);
        let begun = conn.execute("BEGIN IMMEDIATE").map_err(StoreError::operation("beginning a transaction"));
        if let Err(error) = begun {
            // Nothing ran. The rest of the queue is tried again with the next piece of work.
            if let Some(job) = next {
                job.answer(Err(error));
            }
            continue;
        }
        let mut broken = None;
        while let Some(mut job) = next.take() {
            if let Err(error) = run_in_savepoint(&mut conn, job.as_mut()) {
                broken = Some(error);
            }
            group.push(job);
            if broken.is_none() && group.len() < BATCH {
                next = jobs.try_recv().ok();
            }
        }
        let committed = match broken {
            None => conn.execute("COMMIT").map_err(StoreError::operation("committing")),
            Some(error) => Err(error),
        };
        if committed.is_err()
            && let Err(error) = conn.execute("ROLLBACK")
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
fn run_in_savepoint(conn: &mut Conn, job: &mut dyn Job) -> Result<(), StoreError> {
    conn.execute("SAVEPOINT work").map_err(StoreError::operation("setting a savepoint"))?;
    job.run(conn);
    let end = if job.succeeded() { "RELEASE work" } else { "ROLLBACK TO work; RELEASE work" };
    conn.execute(end).map_err(StoreError::operation("ending a savepoint"))
}

fn work_singly(mut conn: Conn, jobs: &Receiver<Box<dyn Job>>, transactional: bool) {
    while let Ok(mut job) = jobs.recv() {
        if !transactional {
            job.run(&mut conn);
            job.answer(Ok(()));
            continue;
        }
        let committed = conn.execute("BEGIN").and_then(|()| {
            job.run(&mut conn);
            conn.execute(if job.succeeded() { "COMMIT" } else { "ROLLBACK" })
        });
        job.answer(committed.map_err(StoreError::operation("committing")));
    }
}
