//! What a transaction takes for itself before it changes anything, in the order that the module above says. SQLite has one
//! writer anyway.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;

use crate::domain::ids::{ClientId, SessionId, UserId};

use super::StoreError;
use super::conn::Conn;
use super::schema::users;

/// Whoever is signing in or being given a grant just now (see `hold`) is waited for, and ends with the rest. SQLite has
/// one writer anyway. The first statement of whatever ends what a person has.
pub(super) fn hold_person(conn: &mut Conn, user: &UserId) -> Result<(), StoreError> {
    let Conn::Pg(conn) = conn else { return Ok(()) };
    let person = users::table.find(user.as_str()).select(users::user_id).for_no_key_update();
    person.execute(conn).map(drop).map_err(StoreError::operation("holding an account"))
}

/// Takes rows for this transaction alone, in the order of a column. They are only counted, for there may be very many.
fn hold_in_order(conn: &mut Conn, (table, column): (&str, &str), which: &str, keys: &[&str]) -> Result<(), StoreError> {
    let Conn::Pg(conn) = conn else { return Ok(()) };
    let text =
        format!("SELECT count(*) FROM (SELECT FROM {table} WHERE {which} ORDER BY {column} FOR NO KEY UPDATE) AS held");
    let held = keys.iter().fold(sql_query(text).into_boxed(), |held, key| held.bind::<Text, _>(*key));
    held.execute(conn).map(drop).map_err(StoreError::operation("holding what ends"))
}

/// Takes all grants and sessions of a person whose account is held already, and perhaps a session of somebody else: before
/// a transaction changes one of them and ends others.
pub(super) fn hold_below(conn: &mut Conn, user: &UserId, also: Option<&SessionId>) -> Result<(), StoreError> {
    let (user, also) = (user.as_str(), also.map_or("", SessionId::as_str));
    hold_in_order(conn, ("grants", "grant_id"), "user_id = $1", &[user])?;
    hold_in_order(conn, ("sessions", "session_id"), "user_id = $1 OR session_id = $2", &[user, also])
}

/// Takes all that a client was allowed and given.
pub(super) fn hold_given_to(conn: &mut Conn, client: &ClientId) -> Result<(), StoreError> {
    let client = [client.as_str()];
    hold_in_order(conn, ("consents", "user_id"), "client_id = $1", &client)?;
    hold_in_order(conn, ("grants", "grant_id"), "client_id = $1", &client)
}
