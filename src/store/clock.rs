//! The latest instant that any server on this database has told. What ended by then has ended for good, also for a
//! machine whose clock was set back: docs/decisions/0013-a-clock-that-was-set-back.md.

use diesel::prelude::*;

use crate::clock::UnixTime;

use super::conn::{Conn, on_backend};
use super::schema::counters;
use super::{Store, StoreError};

const CLOCK: &str = "clock";

fn ensure(conn: &mut Conn, now: UnixTime) -> Result<(), StoreError> {
    let row = (counters::name.eq(CLOCK), counters::value.eq(now.millis()));
    let insert = diesel::insert_into(counters::table).values(row).on_conflict_do_nothing();
    on_backend!(conn, |c| insert.execute(c)).map_err(StoreError::operation("remembering the time"))?;
    Ok(())
}

impl Store {
    /// # Errors
    /// When the database cannot be read.
    pub async fn latest_instant(&self) -> Result<UnixTime, StoreError> {
        self.read(|conn| {
            let found: Option<i64> =
                on_backend!(conn, |c| counters::table.find(CLOCK).select(counters::value).get_result(c).optional())
                    .map_err(StoreError::operation("looking up the time"))?;
            Ok(UnixTime::from_millis(found.unwrap_or(0)))
        })
        .await
    }

    /// Moves the mark forward, never back.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn remember_instant(&self, now: UnixTime) -> Result<(), StoreError> {
        self.write(move |conn| {
            ensure(conn, now)?;
            let earlier = counters::table.find(CLOCK).filter(counters::value.lt(now.millis()));
            let forward = diesel::update(earlier).set(counters::value.eq(now.millis()));
            on_backend!(conn, |c| forward.execute(c)).map_err(StoreError::operation("remembering the time"))?;
            Ok(())
        })
        .await
    }

    /// Puts the mark where an operator says that it belongs.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn accept_instant(&self, now: UnixTime) -> Result<(), StoreError> {
        self.write(move |conn| {
            ensure(conn, now)?;
            let set = diesel::update(counters::table.find(CLOCK)).set(counters::value.eq(now.millis()));
            on_backend!(conn, |c| set.execute(c)).map_err(StoreError::operation("setting the time"))?;
            Ok(())
        })
        .await
    }
}
