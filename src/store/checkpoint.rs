//! Moves what SQLite has logged into the database file. SQLite would do it inside the commit that finds the log long, and whoever
//! waits for that commit would wait for tens of milliseconds. A thread of its own does it instead, beside the writer, which is
//! left with the pages that came meanwhile: only once all is moved does the log begin anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Sender, bounded};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Integer;

use super::StoreError;
use super::conn::{Conn, on_backend};
use super::executor::spawn;

/// Commits between two looks at the log.
const LOOK_EVERY: u32 = 16;
/// Pages in the log, 16 MiB, from which on it is moved: each page once, however often it changed meanwhile.
const LONG: i32 = 4096;

/// What the writer has of it.
pub(super) struct Checkpoints {
    commits: u32,
    look: Sender<()>,
    nearly_done: Arc<AtomicBool>,
}

impl Checkpoints {
    /// Starts the thread, which ends with the writer.
    pub(super) fn start(path: String) -> Result<Self, StoreError> {
        let (look, looks) = bounded(1);
        let nearly_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&nearly_done);
        spawn("store-checkpoint", move || {
            let mut conn = None;
            while looks.recv().is_ok() {
                // The writer does it where this goes on failing, at a length of its own (`Conn::open_sqlite`).
                if let Err(error) = keep_short(&path, &mut conn, &done) {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the log was not moved; trying on");
                }
            }
        })?;
        Ok(Self { commits: 0, look, nearly_done })
    }

    /// After a commit, and after its answers.
    pub(super) fn committed(&mut self, conn: &mut Conn) {
        if self.nearly_done.swap(false, Ordering::Relaxed)
            && let Err(error) = checkpoint(conn, "PASSIVE")
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "the rest of the log was not moved");
        }
        self.commits = self.commits.wrapping_add(1);
        if self.commits.is_multiple_of(LOOK_EVERY) {
            // Full: the thread has been told, or is at it.
            let _busy = self.look.try_send(());
        }
    }
}

fn keep_short(path: &str, conn: &mut Option<Conn>, nearly_done: &AtomicBool) -> Result<(), StoreError> {
    let conn = match conn {
        Some(conn) => conn,
        none => none.insert(Conn::open_sqlite(path)?),
    };
    // Moved once: under full load a second pass would find as much again, and each writes pages that the next writes anew.
    if checkpoint(conn, "NOOP")?.left() >= LONG {
        checkpoint(conn, "PASSIVE")?;
        nearly_done.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// How much of the log there is, and how much of it is in the file.
#[derive(QueryableByName)]
struct Log {
    #[diesel(sql_type = Integer)]
    log: i32,
    #[diesel(sql_type = Integer)]
    checkpointed: i32,
}

impl Log {
    const fn left(&self) -> i32 {
        self.log.saturating_sub(self.checkpointed)
    }
}

fn checkpoint(conn: &mut Conn, how: &str) -> Result<Log, StoreError> {
    let query = sql_query(format!("PRAGMA wal_checkpoint({how})"));
    on_backend!(conn, |c| query.get_result(c)).map_err(StoreError::operation("moving the log"))
}
