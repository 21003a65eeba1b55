//! Browsers that their person trusts to need no second factor for a while.

use std::time::Duration;

use diesel::prelude::*;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::UserId;
use crate::domain::second_factor::TrustedBrowser;

use super::activity::{NewActivity, note};
use super::conn::{Conn, on_backend};
use super::schema::trusted_browsers;
use super::{Store, StoreError};

/// A browser that its person trusts from now on.
pub struct NewTrust {
    pub token: Digest,
    pub browser: TrustedBrowser,
}

pub(super) fn trust(conn: &mut Conn, user: &UserId, new: &NewTrust, origin: &Origin) -> Result<(), StoreError> {
    let browser = &new.browser;
    let row = (
        trusted_browsers::token_digest.eq(new.token.as_bytes().as_slice()),
        trusted_browsers::browser_id.eq(&browser.id),
        trusted_browsers::user_id.eq(user.as_str()),
        trusted_browsers::network.eq(&browser.address),
        trusted_browsers::user_agent.eq(&browser.user_agent),
        trusted_browsers::created_at.eq(browser.created_at.millis()),
        trusted_browsers::expires_at.eq(browser.expires_at.millis()),
    );
    on_backend!(conn, |c| diesel::insert_into(trusted_browsers::table).values(row).execute(c))
        .map_err(StoreError::operation("trusting a browser"))?;
    note(conn, &NewActivity { user, event: Event::BrowserTrusted, origin, detail: "" }, browser.created_at)
}

/// Forgets the browsers that a person trusts: with another password or another factor that trust is gone.
pub(super) fn distrust_all(conn: &mut Conn, user: &UserId) -> Result<(), StoreError> {
    let all = diesel::delete(trusted_browsers::table.filter(trusted_browsers::user_id.eq(user.as_str())));
    on_backend!(conn, |c| all.execute(c)).map_err(StoreError::operation("distrusting browsers"))?;
    Ok(())
}

impl Store {
    /// Whether a browser is one that this person trusts, and has for no longer than `longest`: what was promised when the
    /// policy was milder does not count.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_trusted_browser(
        &self,
        token: Digest,
        user: UserId,
        longest: Duration,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.read(move |conn| {
            let query = trusted_browsers::table
                .find(token.as_bytes().as_slice())
                .filter(trusted_browsers::user_id.eq(user.as_str()))
                .filter(trusted_browsers::expires_at.gt(now.millis()))
                .filter(trusted_browsers::created_at.gt(now.minus(longest).millis()))
                .select(trusted_browsers::browser_id);
            let found: Option<String> = on_backend!(conn, |c| query.first(c).optional())
                .map_err(StoreError::operation("looking for a trusted browser"))?;
            Ok(found.is_some())
        })
        .await
    }

    /// Those of which [`Store::is_trusted_browser`] is true, each with its end.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_trusted_browsers(
        &self,
        user: UserId,
        longest: Duration,
        now: UnixTime,
    ) -> Result<Vec<TrustedBrowser>, StoreError> {
        self.read(move |conn| {
            let query = trusted_browsers::table
                .filter(trusted_browsers::user_id.eq(user.as_str()))
                .filter(trusted_browsers::expires_at.gt(now.millis()))
                .filter(trusted_browsers::created_at.gt(now.minus(longest).millis()))
                .order(trusted_browsers::created_at.desc())
                .limit(100)
                .select((
                    trusted_browsers::browser_id,
                    trusted_browsers::network,
                    trusted_browsers::user_agent,
                    trusted_browsers::created_at,
                    trusted_browsers::expires_at,
                ));
            let rows: Vec<(String, String, String, i64, i64)> =
                on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("listing trusted browsers"))?;
            let browser = |(id, address, user_agent, created_at, expires_at)| {
                let created_at = UnixTime::from_millis(created_at);
                let expires_at = UnixTime::from_millis(expires_at).min(created_at.plus(longest));
                TrustedBrowser { id, address, user_agent, created_at, expires_at }
            };
            Ok(rows.into_iter().map(browser).collect())
        })
        .await
    }

    /// Takes the trust from one browser, or from all of them. False when there was none.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn distrust_browsers(
        &self,
        user: UserId,
        browser_id: String,
        origin: Origin,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write(move |conn| {
            let own = trusted_browsers::table
                .filter(trusted_browsers::user_id.eq(user.as_str()))
                .filter(trusted_browsers::browser_id.eq(browser_id));
            let rows = on_backend!(conn, |c| diesel::delete(own).execute(c))
                .map_err(StoreError::operation("distrusting a browser"))?;
            if rows == 1 {
                let gone = NewActivity { user: &user, event: Event::BrowserDistrusted, origin: &origin, detail: "" };
                note(conn, &gone, now)?;
            }
            Ok(rows == 1)
        })
        .await
    }
}
