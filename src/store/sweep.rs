//! Taking out what is dead, a little at a time, so that no request waits behind it.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;

use super::activity::KEPT_FOR;
use super::conn::{Conn, among_the_free, on_backend};
use super::endings::end_run_out;
use super::grants::GRACE;
use super::registry::{changed, touch};
use super::schema::assertion_ids;
use super::{Store, StoreError};

/// Retired keys still read the ID tokens that come back as hints, as long as a session may last.
const KEYS_KEPT: Duration = Duration::from_hours(24 * 400);
/// Rows taken from one table in one transaction: each may be on pages of its own, and whoever writes waits for it.
const BATCH: i64 = 50;
/// Transactions for one table before the next has its turn.
const TURNS: usize = 4;

/// Diesel cannot delete by a sub-select of the same table; the text is made of our own words and one number.
fn sweep_table(conn: &mut Conn, table: &str, key: &str, end: &str, before: UnixTime) -> Result<usize, StoreError> {
    let before = before.millis();
    let list = format!("SELECT {key} FROM {table} WHERE {end} < {before} LIMIT {BATCH}");
    // The end is looked at twice: a row that somebody gave another end meanwhile is judged anew, the list is not.
    let text = format!("DELETE FROM {table} WHERE {end} < {before} AND {key} {}", among_the_free(conn, &list));
    on_backend!(conn, |c| sql_query(text).execute(c)).map_err(StoreError::operation("sweeping"))
}

fn were_the_last(rows: usize) -> bool {
    i64::try_from(rows).is_ok_and(|rows| rows < BATCH)
}

impl Store {
    /// Ends some batches of sessions that have run out and deletes some of dead rows of every kind; how many there were.
    /// Rows that a token may still be judged by stay until the last such token is dead.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn sweep(&self, now: UnixTime) -> Result<usize, StoreError> {
        let late = now.minus(GRACE);
        let ends = "expires_at";
        // One that has run out while nobody swept is ended first, and its applications told.
        let ended = "ended_at IS NOT NULL AND expires_at";
        // What is neither delivered nor given up waits for whoever delivers it.
        let settled = "(delivered_at IS NOT NULL OR given_up_at IS NOT NULL) AND expires_at";
        let tables = [
            ("flows", "flow_digest", ends, now),
            ("assertion_ids", "assertion_digest", ends, now),
            ("throttles", "bucket", ends, now),
            ("links", "link_digest", ends, now),
            ("sign_outs", "sign_out_digest", ends, now),
            ("totp_enrolments", "binding_digest", ends, now),
            ("trusted_browsers", "token_digest", ends, now),
            ("revocations", "sequence", ends, now),
            ("grants", "grant_id", ends, late),
            ("sessions", "session_id", ended, late),
            ("outbox", "outbox_id", settled, now),
            ("activity", "activity_id", "at", now.minus(KEPT_FOR)),
        ];
        let mut swept = 0;
        for _ in 0..TURNS {
            let rows = self.write_and_wake(move |conn| end_run_out(conn, BATCH, now)).await?;
            swept += rows;
            if were_the_last(rows) {
                break;
            }
        }
        for (table, key, end, before) in tables {
            for _ in 0..TURNS {
                let rows = self.write_one(move |conn| sweep_table(conn, table, key, end, before)).await?;
                swept += rows;
                if were_the_last(rows) {
                    break;
                }
            }
        }
        let keys = self.write(move |conn| {
            touch(conn)?;
            let rows = sweep_table(conn, "signing_keys", "key_id", "expires_at", now.minus(KEYS_KEPT))?;
            if rows > 0 {
                changed(conn)?;
            }
            Ok(rows)
        });
        Ok(swept + keys.await?)
    }

    /// Takes a client assertion's `jti` (RFC 7523 section 3), kept until the assertion expires; false when it was taken
    /// before.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn take_assertion_id(&self, id: Digest, expires_at: UnixTime) -> Result<bool, StoreError> {
        self.write_one(move |conn| {
            let row = (
                assertion_ids::assertion_digest.eq(id.as_bytes().as_slice()),
                assertion_ids::expires_at.eq(expires_at.millis()),
            );
            let insert = diesel::insert_into(assertion_ids::table).values(row).on_conflict_do_nothing();
            let rows =
                on_backend!(conn, |c| insert.execute(c)).map_err(StoreError::operation("taking an assertion"))?;
            Ok(rows == 1)
        })
        .await
    }
}
