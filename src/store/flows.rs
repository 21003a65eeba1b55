//! Sign-ins on their way.

use std::time::Duration;

use diesel::dsl::case_when;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use serde::Serialize;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::flow::{Flow, Progress};

use super::conn::{Conn, fixed, on_backend};
use super::schema::flows;
use super::{Store, StoreError};

/// Names of statements whose text never changes; see [`fixed`].
struct WriteProgress;
struct Answer;
struct AnswerByStep;

fn text(part: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(part).map_err(|error| StoreError::corrupt("flow", error))
}

/// Writes what a flow has come to. A flow that is gone meanwhile stays gone.
pub(super) fn write_progress(conn: &mut Conn, flow: &Digest, progress: &Progress) -> Result<(), StoreError> {
    let update = diesel::update(flows::table.find(flow.as_bytes().as_slice())).set(flows::progress.eq(text(progress)?));
    let written: QueryResult<Option<i64>> =
        on_backend!(conn, |c| fixed(WriteProgress, update.returning(flows::created_at)).get_result(c).optional());
    written.map(drop).map_err(StoreError::operation("storing a step"))
}

/// How long an answered flow is still there for its browser: whoever pressed the button twice has thrown the first answer
/// away, and is given another by the same proofs.
const ANSWERED_FOR: Duration = Duration::from_secs(10);

/// Notes that a flow is answered, which ends it soon, and by which last step, where that is new; false when it has ended
/// already, and then whoever asked must give nothing.
pub(super) fn answer(
    conn: &mut Conn,
    flow: &Digest,
    progress: Option<&Progress>,
    now: UnixTime,
) -> Result<bool, StoreError> {
    let end = now.plus(ANSWERED_FOR).millis();
    let update =
        diesel::update(flows::table.find(flow.as_bytes().as_slice()).filter(flows::expires_at.gt(now.millis())));
    let soon = flows::expires_at
        .eq(case_when(flows::expires_at.gt(end), end.into_sql::<BigInt>()).otherwise(flows::expires_at));
    let end: QueryResult<Option<i64>> = match progress {
        None => {
            let update = update.set(soon).returning(flows::expires_at);
            on_backend!(conn, |c| fixed(Answer, update).get_result(c).optional())
        }
        Some(progress) => {
            let update = update.set((soon, flows::progress.eq(text(progress)?))).returning(flows::expires_at);
            on_backend!(conn, |c| fixed(AnswerByStep, update).get_result(c).optional())
        }
    };
    end.map(|end| end.is_some()).map_err(StoreError::operation("answering a flow"))
}

/// Ends a flow; false when it had ended already, and then whoever asked must give nothing.
pub(super) fn complete(conn: &mut Conn, flow: &Digest) -> Result<bool, StoreError> {
    let delete = diesel::delete(flows::table.find(flow.as_bytes().as_slice()));
    let rows = on_backend!(conn, |c| delete.execute(c)).map_err(StoreError::operation("completing a flow"))?;
    Ok(rows == 1)
}

impl Store {
    /// # Errors
    /// When the database cannot be written.
    pub async fn create_flow(
        &self,
        id: Digest,
        browser: Digest,
        flow: Flow,
        expires_at: UnixTime,
    ) -> Result<(), StoreError> {
        self.write_one(move |conn| {
            let row = (
                flows::flow_digest.eq(id.as_bytes().as_slice()),
                flows::browser_digest.eq(browser.as_bytes().as_slice()),
                flows::destination.eq(text(&flow.destination)?),
                flows::progress.eq(text(&flow.progress)?),
                flows::created_at.eq(flow.created_at.millis()),
                flows::expires_at.eq(expires_at.millis()),
            );
            on_backend!(conn, |c| diesel::insert_into(flows::table).values(row).execute(c))
                .map_err(StoreError::operation("storing a flow"))?;
            Ok(())
        })
        .await
    }

    /// A flow of this very browser that has not run out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_flow(&self, id: Digest, browser: Digest, now: UnixTime) -> Result<Option<Flow>, StoreError> {
        self.read(move |conn| {
            let query = flows::table
                .find(id.as_bytes().as_slice())
                .filter(flows::browser_digest.eq(browser.as_bytes().as_slice()))
                .filter(flows::expires_at.gt(now.millis()))
                .select((flows::destination, flows::progress, flows::created_at));
            let row: Option<(String, String, i64)> =
                on_backend!(conn, |c| query.first(c).optional()).map_err(StoreError::operation("finding a flow"))?;
            let corrupt = |error| StoreError::corrupt("flow", error);
            row.map(|(destination, progress, created_at)| {
                Ok(Flow {
                    destination: serde_json::from_str(&destination).map_err(corrupt)?,
                    progress: serde_json::from_str(&progress).map_err(corrupt)?,
                    created_at: UnixTime::from_millis(created_at),
                })
            })
            .transpose()
        })
        .await
    }

    /// # Errors
    /// When the database cannot be written.
    pub async fn record_progress(&self, id: Digest, progress: Progress) -> Result<(), StoreError> {
        self.write_one(move |conn| write_progress(conn, &id, &progress)).await
    }

    /// Ends a flow that gives nothing; false when it had ended already.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn complete_flow(&self, id: Digest) -> Result<bool, StoreError> {
        self.write_one(move |conn| complete(conn, &id)).await
    }
}
