//! Whether there is what an operator names. Nothing is decided by it: what writes looks for itself.

use std::collections::HashSet;

use diesel::dsl::exists;
use diesel::prelude::*;

use crate::domain::ids::{ClientId, GrantId, SessionId};

use super::conn::on_backend;
use super::schema::{grants, session_clients, sessions, users};
use super::{Store, StoreError};

/// A session and a client that was given tokens in it.
pub type SessionClient = (SessionId, ClientId);

/// So many are read at once.
const PAGE: i64 = 10_000;
/// So many names are compared by one statement.
const MOST_COMPARED: usize = 1_000;

impl Store {
    /// Whether there is such a session, ended or not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn has_session(&self, id: SessionId) -> Result<bool, StoreError> {
        self.read(move |conn| {
            let query = diesel::select(exists(sessions::table.find(id.as_str())));
            on_backend!(conn, |c| query.get_result(c)).map_err(StoreError::operation("looking for a session"))
        })
        .await
    }

    /// Whether there is such a grant, ended or not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn has_grant(&self, id: GrantId) -> Result<bool, StoreError> {
        self.read(move |conn| {
            let query = diesel::select(exists(grants::table.find(id.as_str())));
            on_backend!(conn, |c| query.get_result(c)).map_err(StoreError::operation("looking for a grant"))
        })
        .await
    }

    /// Some of the sessions with their clients, after this one in their order; none: there are no more.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_session_clients(&self, after: Option<SessionClient>) -> Result<Vec<SessionClient>, StoreError> {
        self.read(move |conn| {
            let (session, client) = after.map_or_else(Default::default, |(session, client)| {
                (session.as_str().to_owned(), client.as_str().to_owned())
            });
            let later = session_clients::session_id
                .gt(&session)
                .or(session_clients::session_id.eq(&session).and(session_clients::client_id.gt(&client)));
            let query = session_clients::table
                .filter(later)
                .order((session_clients::session_id, session_clients::client_id))
                .limit(PAGE)
                .select((session_clients::session_id, session_clients::client_id));
            let rows: Vec<(String, String)> = on_backend!(conn, |c| query.load(c))
                .map_err(StoreError::operation("listing sessions with their clients"))?;
            Ok(rows
                .into_iter()
                .map(|(session, client)| (SessionId::from_stored(session), ClientId::from_stored(client)))
                .collect())
        })
        .await
    }

    /// Those among these normal names that somebody has, or is identified by.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known_names(&self, names: Vec<String>) -> Result<HashSet<String>, StoreError> {
        self.read(move |conn| {
            let mut known = HashSet::new();
            for some in names.chunks(MOST_COMPARED) {
                let query = users::table.filter(users::normal_name.eq_any(some)).select(users::normal_name);
                let rows: Vec<String> =
                    on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("looking for names"))?;
                known.extend(rows);
                let query = users::table.filter(users::user_id.eq_any(some)).select(users::user_id);
                let rows: Vec<String> =
                    on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("looking for identifiers"))?;
                known.extend(rows);
            }
            Ok(known)
        })
        .await
    }

    /// Those among these normal addresses that somebody has.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known_emails(&self, emails: Vec<String>) -> Result<HashSet<String>, StoreError> {
        self.read(move |conn| {
            let mut known = HashSet::new();
            for some in emails.chunks(MOST_COMPARED) {
                let query = users::table.filter(users::normal_email.eq_any(some)).select(users::normal_email);
                let rows: Vec<Option<String>> =
                    on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("looking for addresses"))?;
                known.extend(rows.into_iter().flatten());
            }
            Ok(known)
        })
        .await
    }
}
