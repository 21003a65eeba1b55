//! People and their passwords.

use diesel::dsl::exists;
use diesel::prelude::*;
use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::UserId;
use crate::domain::link::LinkKind;
use crate::domain::throttle::Bucket;
use crate::domain::user::{User, normal_email, normal_name};

use super::activity::{NewActivity, note};
use super::conn::{Conn, first_locked, first_shared, on_backend};
use super::endings::end_everything_of;
use super::links::{end_every_link, end_links};
use super::outbox::{NewOutboxItem, enqueue};
use super::registry::Registered;
use super::revocations::{Actor, Reason};
use super::schema::{links, users};
use super::throttles::forgive;
use super::trusted_browsers::distrust_all;
use super::{Store, StoreError};

pub struct NewUser {
    pub user: User,
    /// Without one the person can sign in only after a reset.
    pub password_hash: Option<String>,
}

/// What a sign-in needs to know of an account.
pub struct Credential {
    pub user: User,
    pub password_hash: Option<String>,
}

#[derive(Queryable)]
pub(super) struct UserRow {
    user_id: String,
    username: String,
    email: Option<String>,
    email_verified: bool,
    is_admin: bool,
    claims: String,
    disabled_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
    has_second_factor: bool,
}

/// The columns of a [`UserRow`].
pub(super) const USER: (
    users::user_id,
    users::username,
    users::email,
    users::email_verified,
    users::is_admin,
    users::claims,
    users::disabled_at,
    users::created_at,
    users::updated_at,
    users::has_second_factor,
) = (
    users::user_id,
    users::username,
    users::email,
    users::email_verified,
    users::is_admin,
    users::claims,
    users::disabled_at,
    users::created_at,
    users::updated_at,
    users::has_second_factor,
);

impl TryFrom<UserRow> for User {
    type Error = StoreError;
    fn try_from(row: UserRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: UserId::from_stored(row.user_id),
            username: row.username,
            email: row.email,
            email_verified: row.email_verified,
            is_admin: row.is_admin,
            claims: serde_json::from_str(&row.claims).map_err(|error| StoreError::corrupt("claims", error))?,
            disabled_at: row.disabled_at.map(UnixTime::from_millis),
            created_at: UnixTime::from_millis(row.created_at),
            updated_at: UnixTime::from_millis(row.updated_at),
            has_second_factor: row.has_second_factor,
        })
    }
}

/// Notes what the people who run this service did to an account.
fn note_operators(conn: &mut Conn, user: &UserId, event: Event, now: UnixTime) -> Result<(), StoreError> {
    note(conn, &NewActivity { user, event, origin: &Origin::default(), detail: "" }, now)
}

/// Whether somebody has this name, or is identified by it: who knows another's `sub` from a token could else take it for a
/// name, and an operator who ends what one of the two has would find both.
fn is_taken(conn: &mut Conn, name: &str) -> Result<bool, StoreError> {
    let name = normal_name(name);
    let same = users::table.filter(users::normal_name.eq(&name).or(users::user_id.eq(&name)));
    on_backend!(conn, |c| diesel::select(exists(same)).get_result(c))
        .map_err(StoreError::operation("finding a user by name"))
}

/// Stores a person; false when the name is taken.
pub(super) fn insert_user(conn: &mut Conn, new: &NewUser, origin: &Origin) -> Result<bool, StoreError> {
    let user = &new.user;
    if is_taken(conn, &user.username)? {
        return Ok(false);
    }
    let row = (
        users::user_id.eq(user.id.as_str()),
        users::normal_name.eq(normal_name(&user.username)),
        users::username.eq(&user.username),
        users::email.eq(&user.email),
        users::normal_email.eq(user.email.as_deref().map(normal_email)),
        users::email_verified.eq(user.email_verified),
        users::password_hash.eq(&new.password_hash),
        users::is_admin.eq(user.is_admin),
        users::claims.eq(Value::Object(user.claims.clone()).to_string()),
        users::disabled_at.eq(user.disabled_at.map(UnixTime::millis)),
        users::created_at.eq(user.created_at.millis()),
        users::updated_at.eq(user.updated_at.millis()),
    );
    let insert = diesel::insert_into(users::table).values(row).on_conflict_do_nothing();
    let rows = on_backend!(conn, |c| insert.execute(c)).map_err(StoreError::operation("storing a user"))?;
    if rows == 1 {
        let created = NewActivity { user: &user.id, event: Event::AccountCreated, origin, detail: "" };
        note(conn, &created, user.created_at)?;
    }
    Ok(rows == 1)
}

/// Keeps an account enabled until the transaction ends: who disables it, or ends what it has running, waits and then sees
/// what this transaction made. False when it is disabled or gone. A transaction that will change the account itself takes
/// [`hold_alone`], for two of these would wait for each other.
pub(super) fn hold(conn: &mut Conn, user: &UserId) -> Result<bool, StoreError> {
    let query = users::table.find(user.as_str()).filter(users::disabled_at.is_null()).select(users::user_id);
    let row: Option<String> = first_shared!(conn, query).map_err(StoreError::operation("holding an account"))?;
    Ok(row.is_some())
}

/// What is told of an account that is held.
pub(super) struct Held {
    pub has_second_factor: bool,
    /// A link was sent by which the password can be set anew.
    pub has_reset_link: bool,
}

/// The same for one transaction alone. Of an account whose password is still the one verified, where one was.
pub(super) fn hold_alone(
    conn: &mut Conn,
    user: &UserId,
    verified_hash: Option<&Digest>,
) -> Result<Option<Held>, StoreError> {
    let reset_links =
        links::table.filter(links::user_id.eq(user.as_str())).filter(links::kind.eq(LinkKind::ResetPassword.as_str()));
    let query = users::table.find(user.as_str()).filter(users::disabled_at.is_null()).select((
        users::password_hash,
        users::has_second_factor,
        exists(reset_links),
    ));
    let row: Option<(Option<String>, bool, bool)> =
        first_locked!(conn, query).map_err(StoreError::operation("holding an account"))?;
    let same = |hash: Option<&String>| match (verified_hash, hash) {
        (None, _) => true,
        (Some(verified), Some(hash)) => verified.equals(&Digest::of(hash.as_bytes())),
        (Some(_), None) => false,
    };
    let held = |(_, has_second_factor, has_reset_link)| Held { has_second_factor, has_reset_link };
    Ok(row.filter(|(hash, ..)| same(hash.as_ref())).map(held))
}

impl Store {
    /// # Errors
    /// When the database cannot be written.
    pub async fn create_user(&self, new: NewUser) -> Result<Registered, StoreError> {
        self.write(move |conn| {
            let made = insert_user(conn, &new, &Origin::default())?;
            Ok(if made { Registered::Done } else { Registered::Exists })
        })
        .await
    }

    /// Stores all of them, or none: then those names come back that are taken.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn import_users(&self, new: Vec<NewUser>) -> Result<Vec<String>, StoreError> {
        self.write(move |conn| {
            let mut taken = Vec::new();
            for NewUser { user, .. } in &new {
                if is_taken(conn, &user.username)? {
                    taken.push(user.username.clone());
                }
            }
            if taken.is_empty() {
                for user in &new {
                    insert_user(conn, user, &Origin::default())?;
                }
            }
            Ok(taken)
        })
        .await
    }

    /// Those who have this address, few at the most.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_users_by_email(&self, email: &str) -> Result<Vec<User>, StoreError> {
        let email = normal_email(email);
        self.read(move |conn| {
            let query = users::table.filter(users::normal_email.eq(email)).select(USER).limit(5);
            let rows: Vec<UserRow> = on_backend!(conn, |c| query.load(c))
                .map_err(StoreError::operation("finding users by their address"))?;
            rows.into_iter().map(User::try_from).collect()
        })
        .await
    }

    /// # Errors
    /// When the database cannot be read.
    pub async fn has_users(&self) -> Result<bool, StoreError> {
        self.read(|conn| {
            let first: Option<String> = on_backend!(conn, |c| users::table.select(users::user_id).first(c).optional())
                .map_err(StoreError::operation("looking for users"))?;
            Ok(first.is_some())
        })
        .await
    }

    /// # Errors
    /// When the database cannot be read.
    pub async fn list_users(&self) -> Result<Vec<User>, StoreError> {
        self.read(|conn| {
            let rows: Vec<UserRow> = on_backend!(conn, |c| users::table.select(USER).order(users::normal_name).load(c))
                .map_err(StoreError::operation("listing users"))?;
            rows.into_iter().map(User::try_from).collect()
        })
        .await
    }

    /// # Errors
    /// When the database cannot be read.
    pub async fn find_user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.read(move |conn| {
            let row: Option<UserRow> =
                on_backend!(conn, |c| users::table.find(id.as_str()).select(USER).first(c).optional())
                    .map_err(StoreError::operation("finding a user"))?;
            row.map(User::try_from).transpose()
        })
        .await
    }

    /// # Errors
    /// When the database cannot be read.
    pub async fn find_user_by_name(&self, name: &str) -> Result<Option<User>, StoreError> {
        let name = normal_name(name);
        self.read(move |conn| {
            let query = users::table.filter(users::normal_name.eq(name)).select(USER);
            let row: Option<UserRow> = on_backend!(conn, |c| query.first(c).optional())
                .map_err(StoreError::operation("finding a user by name"))?;
            row.map(User::try_from).transpose()
        })
        .await
    }

    /// # Errors
    /// When the database cannot be read.
    pub async fn find_credential(&self, name: &str) -> Result<Option<Credential>, StoreError> {
        let name = normal_name(name);
        self.read(move |conn| {
            let query = users::table.filter(users::normal_name.eq(name)).select((USER, users::password_hash));
            let row: Option<(UserRow, Option<String>)> = on_backend!(conn, |c| query.first(c).optional())
                .map_err(StoreError::operation("finding a password"))?;
            row.map(|(user, password_hash)| Ok(Credential { user: User::try_from(user)?, password_hash })).transpose()
        })
        .await
    }

    /// Sets a new password and ends what was signed in with the old one, unless the operator chose to keep it. False
    /// when there is no such person.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_password(
        &self,
        id: UserId,
        password_hash: String,
        keep_sessions: bool,
        notice: Option<NewOutboxItem>,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let update = diesel::update(users::table.find(id.as_str()))
                .set((users::password_hash.eq(password_hash), users::updated_at.eq(now.millis())));
            let rows = on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("setting a password"))?;
            let name: Option<String> =
                on_backend!(conn, |c| users::table.find(id.as_str()).select(users::username).first(c).optional())
                    .map_err(StoreError::operation("reading a user name"))?;
            if let Some(name) = name {
                // Guesses at the old one say nothing of the new.
                forgive(conn, &Bucket::account(&name, None))?;
                forgive(conn, &Bucket::second_factor(&id, None))?;
            }
            if rows == 1 {
                end_every_link(conn, &id)?;
                distrust_all(conn, &id)?;
                note_operators(conn, &id, Event::PasswordChanged, now)?;
                notice.iter().try_for_each(|notice| enqueue(conn, notice))?;
            }
            if rows == 1 && !keep_sessions {
                end_everything_of(conn, &id, &Reason::PasswordChanged.by(Actor::Operator), now)?;
            }
            Ok(rows == 1)
        })
        .await
    }

    /// Shuts an account, or opens it again; shutting ends everything it has running, for good. False when there is none.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_user_disabled(
        &self,
        id: UserId,
        disabled: bool,
        notice: Option<NewOutboxItem>,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let update = diesel::update(users::table.find(id.as_str()))
                .set(users::disabled_at.eq(disabled.then_some(now.millis())));
            let rows = on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("disabling a user"))?;
            if rows == 1 {
                let event = if disabled { Event::AccountDisabled } else { Event::AccountEnabled };
                note_operators(conn, &id, event, now)?;
                notice.iter().try_for_each(|notice| enqueue(conn, notice))?;
            }
            if rows == 1 && disabled {
                end_every_link(conn, &id)?;
                end_everything_of(conn, &id, &Reason::UserDisabled.by(Actor::Operator), now)?;
            }
            Ok(rows == 1)
        })
        .await
    }

    /// Sets or takes away the e-mail address. False when there is no such person.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_email(
        &self,
        id: UserId,
        email: Option<String>,
        verified: bool,
        notice: Option<NewOutboxItem>,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let update = diesel::update(users::table.find(id.as_str())).set((
                users::normal_email.eq(email.as_deref().map(normal_email)),
                users::email.eq(email),
                users::email_verified.eq(verified),
                users::updated_at.eq(now.millis()),
            ));
            let rows =
                on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("setting an e-mail address"))?;
            if rows == 1 {
                // They went to the address of before, or would change this one again.
                end_links(conn, &id, LinkKind::ResetPassword)?;
                end_links(conn, &id, LinkKind::ConfirmEmail)?;
                note_operators(conn, &id, Event::EmailChanged, now)?;
                notice.iter().try_for_each(|notice| enqueue(conn, notice))?;
            }
            Ok(rows == 1)
        })
        .await
    }

    /// Merges claims into what a person has, on whose word `origin` tells; `null` takes one away. Given back as they are now; `None` when there is no
    /// such person.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_claims(
        &self,
        id: UserId,
        changes: Map<String, Value>,
        origin: Origin,
        now: UnixTime,
    ) -> Result<Option<User>, StoreError> {
        self.write(move |conn| {
            let row: Option<UserRow> = first_locked!(conn, users::table.find(id.as_str()).select(USER))
                .map_err(StoreError::operation("reading claims"))?;
            let Some(mut user) = row.map(User::try_from).transpose()? else { return Ok(None) };
            for (name, value) in changes {
                match (name.as_str(), &value) {
                    ("email_verified", Value::Bool(verified)) => user.email_verified = *verified,
                    (_, Value::Null) => drop(user.claims.remove(&name)),
                    _ => drop(user.claims.insert(name, value)),
                }
            }
            user.updated_at = now;
            let update = diesel::update(users::table.find(id.as_str())).set((
                users::claims.eq(Value::Object(user.claims.clone()).to_string()),
                users::email_verified.eq(user.email_verified),
                users::updated_at.eq(now.millis()),
            ));
            on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("setting claims"))?;
            note(conn, &NewActivity { user: &id, event: Event::ProfileChanged, origin: &origin, detail: "" }, now)?;
            Ok(Some(user))
        })
        .await
    }
}
