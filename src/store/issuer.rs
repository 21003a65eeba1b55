//! Which issuer a database was last served as. By a digest, which is all that it takes to see another.

use diesel::prelude::*;

use crate::crypto::opaque::Digest;

use super::conn::on_backend;
use super::schema::counters;
use super::{Store, StoreError};

const ISSUER: &str = "issuer";

impl Store {
    /// Remembers who serves; false where it was another before.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn remember_issuer(&self, issuer: &str) -> Result<bool, StoreError> {
        let mark = Digest::of(issuer.as_bytes()).as_bytes().first_chunk().copied().map_or(0, i64::from_be_bytes);
        let known: Option<i64> = self
            .read(|conn| {
                on_backend!(conn, |c| counters::table.find(ISSUER).select(counters::value).get_result(c).optional())
                    .map_err(StoreError::operation("looking up the issuer"))
            })
            .await?;
        if known == Some(mark) {
            return Ok(true);
        }
        self.write(move |conn| {
            let row = (counters::name.eq(ISSUER), counters::value.eq(mark));
            let upsert = diesel::insert_into(counters::table)
                .values(row)
                .on_conflict(counters::name)
                .do_update()
                .set(counters::value.eq(mark));
            on_backend!(conn, |c| upsert.execute(c)).map_err(StoreError::operation("remembering the issuer"))?;
            Ok(known.is_none())
        })
        .await
    }
}
