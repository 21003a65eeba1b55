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
/// Rows taken from one table in one transaction.
const BATCH: i64 = 200;

/// Diesel cannot delete by a sub-select of the same table; the text is made of our own words and one number.
fn sweep_table(conn: &mut Conn, table: &str, key: &str, end: &str, before: UnixTime) -> Result<usize, StoreError> {
    let before = before.millis();
    let list = format!("SELECT {key} FROM {table} WHERE {end} < {before} LIMIT {BATCH}");
    // The end is looked at twice: a row that somebody gave another end meanwhile is judged anew, the list is not.
    let text = format!("DELETE FROM {table} WHERE {end} < {before} AND {key} {}", among_the_free(conn, &list));
    on_backend!(conn, |c| sql_query(text).execute(c)).map_err(StoreError::operation("sweeping"))
}

impl Store {
    /// Ends a batch of sessions that have run out and deletes a batch of dead rows of every kind; how many there were. Rows that a token may still be judged by stay
    /// until the last such token is dead.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn sweep(&self, now: UnixTime) -> Result<usize, StoreError> {
        let late = now.minus(GRACE);
        let tables = [
            ("flows", "flow_digest", now),
            ("assertion_ids", "assertion_digest", now),
            ("throttles", "bucket", now),
            ("links", "link_digest", now),
            ("sign_outs", "sign_out_digest", now),
            ("totp_enrolments", "binding_digest", now),
            ("trusted_browsers", "token_digest", now),
            ("revocations", "sequence", now),
            ("grants", "grant_id", late),
        ];
        let mut swept = self.write_and_wake(move |conn| end_run_out(conn, BATCH, now)).await?;
        for (table, key, before) in tables {
            swept += self.write_one(move |conn| sweep_table(conn, table, key, "expires_at", before)).await?;
        }
        // One that has run out while nobody swept is ended first, and its applications told.
        let ended = "ended_at IS NOT NULL AND expires_at";
        swept += self.write_one(move |conn| sweep_table(conn, "sessions", "session_id", ended, late)).await?;
        // What is neither delivered nor given up waits for whoever delivers it.
        let settled = "(delivered_at IS NOT NULL OR given_up_at IS NOT NULL) AND expires_at";
        swept += self.write(move |conn| sweep_table(conn, "outbox", "outbox_id", settled, now)).await?;
        swept +=
            self.write(move |conn| sweep_table(conn, "activity", "activity_id", "at", now.minus(KEPT_FOR))).await?;
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
