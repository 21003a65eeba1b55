//! What an operator watches of the database, counted when it is asked for.

use diesel::dsl::max;
use diesel::prelude::*;

use super::conn::on_backend;
use super::schema::revocations;
use super::{Store, StoreError};

impl Store {
    /// Transactions that wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.writer.waiting()
    }

    /// The number of the newest entry of the revocation log; 0 while there is none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn revocation_sequence(&self) -> Result<i64, StoreError> {
        self.read(|conn| {
            let newest = revocations::table.select(max(revocations::sequence));
            let newest: Option<i64> = on_backend!(conn, |c| newest.get_result(c))
                .map_err(StoreError::operation("asking for the newest revocation"))?;
            Ok(newest.unwrap_or(0))
        })
        .await
    }
}
