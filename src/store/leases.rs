//! What one server at a time does for all of them. A lease that nobody renews passes on.

use diesel::prelude::*;

use crate::clock::UnixTime;

use super::conn::{Conn, on_backend};
use super::schema::leases;
use super::{Store, StoreError};

impl Store {
    /// Takes or renews a lease; false while another holds it.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn take_lease(
        &self,
        name: &'static str,
        holder: String,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write_one(move |conn| {
            let failed = || StoreError::operation("taking a lease");
            let free =
                leases::table.find(name).filter(leases::holder.eq(&holder).or(leases::expires_at.le(now.millis())));
            let update = diesel::update(free).set((leases::holder.eq(&holder), leases::expires_at.eq(until.millis())));
            if on_backend!(conn, |c| update.execute(c)).map_err(failed())? == 1 {
                return Ok(true);
            }
            let row = (leases::name.eq(name), leases::holder.eq(&holder), leases::expires_at.eq(until.millis()));
            let insert = diesel::insert_into(leases::table).values(row).on_conflict_do_nothing();
            Ok(on_backend!(conn, |c| insert.execute(c)).map_err(failed())? == 1)
        })
        .await
    }
}

/// Hands back what a server holds, so that the next need not wait.
pub(super) fn release(conn: &mut Conn, holder: &str) -> Result<(), StoreError> {
    let own = leases::table.filter(leases::holder.eq(holder));
    on_backend!(conn, |c| diesel::delete(own).execute(c)).map_err(StoreError::operation("handing back leases"))?;
    Ok(())
}
