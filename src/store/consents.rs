//! Remembered decisions.

use diesel::prelude::*;
use diesel::upsert::excluded;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::{Event, Origin};
use crate::domain::flow::Progress;
use crate::domain::grant::Consent;
use crate::domain::ids::{ClientId, UserId};
use crate::protocol::scope::Scope;

use super::activity::{NewActivity, note};
use super::conn::{Conn, on_backend};
use super::endings::end_grants_between;
use super::flows::write_progress;
use super::holding::hold_person;
use super::revocations::{Actor, Reason};
use super::schema::consents;
use super::users::hold;
use super::{Store, StoreError};

/// What a person allowed, to be remembered with the step of the flow that it completes.
pub struct Decision {
    pub user: UserId,
    pub client: ClientId,
    pub client_name: String,
    pub allowed: Consent,
    pub origin: Origin,
    pub flow: Digest,
    pub progress: Progress,
}

pub(super) fn find_consent(conn: &mut Conn, user: &UserId, client: &ClientId) -> Result<Option<Consent>, StoreError> {
    let query = consents::table.find((user.as_str(), client.as_str())).select((
        consents::scope,
        consents::resources,
        consents::claims,
    ));
    let row: Option<(String, String, String)> =
        on_backend!(conn, |c| query.first(c).optional()).map_err(StoreError::operation("finding a consent"))?;
    row.map(consent).transpose()
}

/// Reads scope, resources and claims as they are stored.
pub(super) fn consent((scope, resources, claims): (String, String, String)) -> Result<Consent, StoreError> {
    let list = |text: &str| serde_json::from_str(text).map_err(|error| StoreError::corrupt("consent", error));
    Ok(Consent {
        scope: Scope::parse(&scope).map_err(|error| StoreError::corrupt("consent", error))?,
        resources: list(&resources)?,
        claims: list(&claims)?,
    })
}

impl Store {
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_consent(&self, user: UserId, client: ClientId) -> Result<Option<Consent>, StoreError> {
        self.read(move |conn| find_consent(conn, &user, &client)).await
    }

    /// Remembers a decision, added to what was allowed before, with the step of the flow that it completes; none of somebody
    /// whose account was shut meanwhile.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn record_consent(&self, decision: Decision, now: UnixTime) -> Result<(), StoreError> {
        self.write(move |conn| {
            let Decision { user, client, client_name, allowed, origin, flow, progress } = decision;
            if !hold(conn, &user)? {
                return Ok(());
            }
            // Made or touched first, so that of two that add to it one waits for the other.
            let empty = Consent::default();
            let row = (
                consents::user_id.eq(user.as_str()),
                consents::client_id.eq(client.as_str()),
                consents::scope.eq(empty.scope.as_str()),
                consents::resources.eq("[]"),
                consents::claims.eq("[]"),
                consents::updated_at.eq(now.millis()),
                consents::created_at.eq(now.millis()),
            );
            let hold = diesel::insert_into(consents::table)
                .values(row)
                .on_conflict((consents::user_id, consents::client_id))
                .do_update()
                .set(consents::updated_at.eq(excluded(consents::updated_at)));
            on_backend!(conn, |c| hold.execute(c)).map_err(StoreError::operation("remembering a consent"))?;
            let before = find_consent(conn, &user, &client)?.unwrap_or_default();
            let consent = before.with(&allowed);
            let json = |list: &std::collections::BTreeSet<String>| {
                serde_json::to_string(list).map_err(|error| StoreError::corrupt("consent", error))
            };
            let update = diesel::update(consents::table.find((user.as_str(), client.as_str()))).set((
                consents::scope.eq(consent.scope.as_str()),
                consents::resources.eq(json(&consent.resources)?),
                consents::claims.eq(json(&consent.claims)?),
            ));
            on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("remembering a consent"))?;
            let given = NewActivity { user: &user, event: Event::ConsentGiven, origin: &origin, detail: &client_name };
            note(conn, &given, now)?;
            write_progress(conn, &flow, &progress)
        })
        .await
    }

    /// Takes a consent back: the decision is forgotten, and every grant made under it ends. False when there was neither.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn revoke_consent(
        &self,
        user: UserId,
        client: ClientId,
        client_name: String,
        origin: Origin,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write(move |conn| {
            hold_person(conn, &user)?;
            let delete = diesel::delete(consents::table.find((user.as_str(), client.as_str())));
            let forgotten =
                on_backend!(conn, |c| delete.execute(c)).map_err(StoreError::operation("forgetting a consent"))?;
            let by_command = origin == Origin::default();
            let cause = Reason::ConsentRevoked.by(if by_command { Actor::Operator } else { Actor::Owner });
            let ended = end_grants_between(conn, &user, &client, &cause, now)?;
            let anything = forgotten > 0 || ended > 0;
            if anything {
                let taken =
                    NewActivity { user: &user, event: Event::ConsentRevoked, origin: &origin, detail: &client_name };
                note(conn, &taken, now)?;
            }
            Ok(anything)
        })
        .await
    }
}
