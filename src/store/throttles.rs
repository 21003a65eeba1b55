//! Counting guesses, in the database, so that a restart or another node forgets none. A failure is recorded in a
//! transaction of its own; a right password counts only while its account need not wait, which the very transaction that
//! signs in checks, so that many guesses at once are no more than many in a row.

use std::time::Duration;

use diesel::prelude::*;
use diesel::upsert::excluded;

use crate::clock::UnixTime;

use super::conn::{Conn, on_backend};
use super::schema::throttles;
use super::{Store, StoreError};

/// So many are free; after that each costs a growing wait.
const FREE: i64 = 5;
const LONGEST_WAIT: Duration = Duration::from_mins(15);
/// A count without a failure for so long is forgotten.
const MEMORY: Duration = Duration::from_hours(24);

/// 1, 2, 4, … seconds, up to a quarter of an hour: some hundred guesses a day at most.
fn wait_after(failures: i64) -> Duration {
    match u32::try_from(failures - FREE) {
        Ok(beyond) => Duration::from_secs(1u64.checked_shl(beyond).unwrap_or(u64::MAX)).min(LONGEST_WAIT),
        Err(_) => Duration::ZERO,
    }
}

fn find(conn: &mut Conn, bucket: &str, now: UnixTime) -> Result<Option<(i64, i64)>, StoreError> {
    let query = throttles::table
        .find(bucket)
        .filter(throttles::expires_at.gt(now.millis()))
        .select((throttles::failures, throttles::retry_at));
    on_backend!(conn, |c| query.first(c).optional()).map_err(StoreError::operation("reading a throttle"))
}

/// When the next guess may be made, if it must wait.
pub(super) fn wait(conn: &mut Conn, bucket: &str, now: UnixTime) -> Result<Option<UnixTime>, StoreError> {
    let retry_at = find(conn, bucket, now)?.map(|(_, retry_at)| retry_at).filter(|retry_at| *retry_at > now.millis());
    Ok(retry_at.map(UnixTime::from_millis))
}

/// The guess was right: the count starts anew.
pub(super) fn forgive(conn: &mut Conn, bucket: &str) -> Result<(), StoreError> {
    on_backend!(conn, |c| diesel::delete(throttles::table.find(bucket)).execute(c))
        .map_err(StoreError::operation("forgiving failures"))?;
    Ok(())
}

impl Store {
    /// When the next guess may be made, if one of these must wait.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn throttled_until(&self, buckets: Vec<String>, now: UnixTime) -> Result<Option<UnixTime>, StoreError> {
        self.read(move |conn| {
            let mut latest = None;
            for bucket in buckets {
                latest = latest.max(wait(conn, &bucket, now)?);
            }
            Ok(latest)
        })
        .await
    }

    /// Counts a wrong guess against every bucket. The weight says how many guesses make one failure there: 1 for an
    /// account, more for a network with many people behind it.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn record_failure(&self, buckets: Vec<(String, i64)>, now: UnixTime) -> Result<(), StoreError> {
        self.write(move |conn| {
            for (bucket, weight) in buckets {
                let failures = find(conn, &bucket, now)?.map_or(0, |(failures, _)| failures) + 1;
                let row = (
                    throttles::bucket.eq(bucket),
                    throttles::failures.eq(failures),
                    throttles::retry_at.eq(now.plus(wait_after(failures / weight)).millis()),
                    throttles::expires_at.eq(now.plus(MEMORY).millis()),
                );
                let upsert =
                    diesel::insert_into(throttles::table).values(row).on_conflict(throttles::bucket).do_update().set((
                        throttles::failures.eq(excluded(throttles::failures)),
                        throttles::retry_at.eq(excluded(throttles::retry_at)),
                        throttles::expires_at.eq(excluded(throttles::expires_at)),
                    ));
                on_backend!(conn, |c| upsert.execute(c)).map_err(StoreError::operation("counting a failure"))?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_nothing_to_a_quarter_of_an_hour() {
        assert_eq!(wait_after(4), Duration::ZERO);
        assert_eq!(wait_after(5), Duration::from_secs(1));
        assert_eq!(wait_after(8), Duration::from_secs(8));
        assert_eq!(wait_after(1000), LONGEST_WAIT);
    }
}
