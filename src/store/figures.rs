//! What an operator watches of the database, counted when it is asked for.

use diesel::dsl::{max, min};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};

use crate::clock::UnixTime;
use crate::metrics::{DatabaseReadings, Delivery};

use super::conn::on_backend;
use super::outbox::OutboxKind;
use super::registry::version;
use super::schema::{outbox, revocations};
use super::{Store, StoreError};

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = BigInt)]
    items: i64,
}

/// Delivered items are kept for an hour and given up ones for a week, so the table is no longer than what happened then.
const DELIVERIES: &str = "SELECT kind, CASE WHEN given_up_at IS NOT NULL THEN 'given_up' WHEN delivered_at IS NOT NULL THEN \
    'delivered' WHEN attempts > 0 THEN 'retrying' ELSE 'waiting' END AS state, COUNT(*) AS items FROM outbox GROUP BY 1, 2";

impl Store {
    /// Transactions that wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.executor().waiting()
    }

    /// # Errors
    /// When the database cannot be read.
    pub async fn figures(&self) -> Result<DatabaseReadings, StoreError> {
        self.read(|conn| {
            let newest = revocations::table.select(max(revocations::sequence));
            let newest: Option<i64> = on_backend!(conn, |c| newest.get_result(c))
                .map_err(StoreError::operation("asking for the newest revocation"))?;
            let untold = outbox::table
                .filter(outbox::kind.eq(OutboxKind::Logout.as_str()))
                .filter(outbox::delivered_at.is_null().and(outbox::given_up_at.is_null()))
                .select(min(outbox::created_at));
            let untold: Option<i64> = on_backend!(conn, |c| untold.get_result(c))
                .map_err(StoreError::operation("asking for the oldest logout token that waits"))?;
            let counted: Vec<Counted> = on_backend!(conn, |c| sql_query(DELIVERIES).load(c))
                .map_err(StoreError::operation("counting deliveries"))?;
            let labelled = counted.into_iter().map(|Counted { kind, state, items }| (Delivery { kind, state }, items));
            Ok(DatabaseReadings {
                revocation_sequence: newest.unwrap_or(0),
                oldest_untold: untold.map(UnixTime::from_millis),
                registry_version: version(conn)?,
                deliveries: labelled.collect(),
            })
        })
        .await
    }
}
