//! The links of mails, and what using one does. A link is used by one conditional `DELETE`, whose row count decides.

use diesel::prelude::*;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::UserId;
use crate::domain::link::LinkKind;
use crate::domain::throttle::Bucket;
use crate::domain::user::normal_email;

use super::activity::{NewActivity, note};
use super::conn::{Conn, first_locked, on_backend, one_at_a_time};
use super::endings::end_everything_of;
use super::outbox::{NewOutboxItem, enqueue};
use super::revocations::{Actor, Reason};
use super::schema::{links, users};
use super::throttles::{forgive, reopen};
use super::users::{NewUser, hold_alone, insert_user};
use super::{Store, StoreError};

/// A link to be sent.
pub struct NewLink {
    pub digest: Digest,
    pub kind: LinkKind,
    pub user_id: Option<UserId>,
    /// What it will do, where the account alone does not say it.
    pub sealed: Option<Vec<u8>>,
    pub expires_at: UnixTime,
}

/// A link that can still be used.
pub struct Link {
    pub user_id: Option<UserId>,
    pub sealed: Option<Vec<u8>>,
}

/// A new password, set by a link.
pub struct PasswordReset {
    pub link: Digest,
    pub user_id: UserId,
    pub password_hash: String,
    pub origin: Origin,
    /// Tells the owner.
    pub mail: Option<NewOutboxItem>,
}

/// A new address, confirmed by a link.
pub struct EmailConfirmation {
    pub link: Digest,
    pub user_id: UserId,
    pub email: String,
    pub origin: Origin,
    /// Tells the owner at the address of before.
    pub mail: Option<NewOutboxItem>,
}

/// What making an account by a link came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Registration {
    Done,
    /// Somebody else has the name or the address by now.
    Taken,
    /// The link was used before, or is no longer good.
    Gone,
}

/// Something that is asked for by mail.
pub struct Request {
    pub mails: Vec<NewOutboxItem>,
    /// Whose account it is about, where the person is signed in.
    pub activity: Option<(UserId, Event, Origin)>,
}

/// Uses a link up; false when it was used before, has run out, or is another's or for something else.
pub(super) fn spend(
    conn: &mut Conn,
    link: &Digest,
    kind: LinkKind,
    user: Option<&UserId>,
    now: UnixTime,
) -> Result<bool, StoreError> {
    let failed = || StoreError::operation("using a link");
    let open = links::table
        .find(link.as_bytes().as_slice())
        .filter(links::kind.eq(kind.as_str()))
        .filter(links::expires_at.gt(now.millis()));
    let rows = if let Some(user) = user {
        let delete = diesel::delete(open.filter(links::user_id.eq(user.as_str())));
        on_backend!(conn, |c| delete.execute(c)).map_err(failed())?
    } else {
        let delete = diesel::delete(open.filter(links::user_id.is_null()));
        on_backend!(conn, |c| delete.execute(c)).map_err(failed())?
    };
    Ok(rows == 1)
}

/// Ends the links of one kind that were sent for an account (OWASP ASVS 5 V6.4.1: a reset link ends with a new password, a
/// newer link, a sign-in).
pub(super) fn end_links(conn: &mut Conn, user: &UserId, kind: LinkKind) -> Result<(), StoreError> {
    let theirs = links::table.filter(links::user_id.eq(user.as_str())).filter(links::kind.eq(kind.as_str()));
    let delete = diesel::delete(theirs);
    on_backend!(conn, |c| delete.execute(c)).map_err(StoreError::operation("ending links"))?;
    Ok(())
}

/// Ends every link that was sent for an account, whatever for: who asked for it may be who the owner shuts out just now.
pub(super) fn end_every_link(conn: &mut Conn, user: &UserId) -> Result<(), StoreError> {
    let delete = diesel::delete(links::table.filter(links::user_id.eq(user.as_str())));
    on_backend!(conn, |c| delete.execute(c)).map_err(StoreError::operation("ending links"))?;
    Ok(())
}

/// Whether an account has this address. Nobody else is answered for the same address before the transaction ends.
fn is_email_taken(conn: &mut Conn, email: &str, but: Option<&UserId>) -> Result<bool, StoreError> {
    one_at_a_time(conn, &normal_email(email)).map_err(StoreError::operation("holding an address"))?;
    let holders = users::table.filter(users::normal_email.eq(normal_email(email))).select(users::user_id);
    let holders: Vec<String> =
        on_backend!(conn, |c| holders.limit(2).load(c)).map_err(StoreError::operation("looking for an address"))?;
    Ok(holders.iter().any(|holder| but.is_none_or(|but| but.as_str() != holder)))
}

impl Store {
    /// Stores a link; those of its kind that were sent before for the account end. False when there is no such account.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn create_link(&self, new: NewLink) -> Result<bool, StoreError> {
        self.write(move |conn| {
            if let Some(user) = &new.user_id {
                let alive =
                    users::table.find(user.as_str()).filter(users::disabled_at.is_null()).select(users::user_id);
                // Of two that are sent at once the later one counts.
                let alive: Option<String> =
                    first_locked!(conn, alive).map_err(StoreError::operation("finding whom a link is for"))?;
                if alive.is_none() {
                    return Ok(false);
                }
                end_links(conn, user, new.kind)?;
            }
            let row = (
                links::link_digest.eq(new.digest.as_bytes().as_slice()),
                links::kind.eq(new.kind.as_str()),
                links::user_id.eq(new.user_id.as_ref().map(UserId::as_str)),
                links::sealed.eq(new.sealed),
                links::expires_at.eq(new.expires_at.millis()),
            );
            on_backend!(conn, |c| diesel::insert_into(links::table).values(row).execute(c))
                .map_err(StoreError::operation("storing a link"))?;
            Ok(true)
        })
        .await
    }

    /// A link that can still be used for this.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_link(&self, link: Digest, kind: LinkKind, now: UnixTime) -> Result<Option<Link>, StoreError> {
        self.read(move |conn| {
            let query = links::table
                .find(link.as_bytes().as_slice())
                .filter(links::kind.eq(kind.as_str()))
                .filter(links::expires_at.gt(now.millis()))
                .select((links::user_id, links::sealed));
            let row: Option<(Option<String>, Option<Vec<u8>>)> =
                on_backend!(conn, |c| query.first(c).optional()).map_err(StoreError::operation("finding a link"))?;
            Ok(row.map(|(user_id, sealed)| Link { user_id: user_id.map(UserId::from_stored), sealed }))
        })
        .await
    }

    /// Uses a link and sets the password; all that the person has running ends with it. False when the link is no longer
    /// good, and then nothing happened.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn reset_password(&self, reset: PasswordReset, now: UnixTime) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let user = &reset.user_id;
            hold_alone(conn, user, None)?;
            if !spend(conn, &reset.link, LinkKind::ResetPassword, Some(user), now)? {
                return Ok(false);
            }
            let update = diesel::update(users::table.find(user.as_str()).filter(users::disabled_at.is_null()))
                .set((users::password_hash.eq(&reset.password_hash), users::updated_at.eq(now.millis())))
                .returning(users::username);
            let name: Option<String> = on_backend!(conn, |c| update.get_result(c).optional())
                .map_err(StoreError::operation("resetting a password"))?;
            let Some(name) = name else { return Ok(false) };
            // Guesses at the old one say nothing of the new.
            forgive(conn, &Bucket::account(&name, None))?;
            // Whoever holds the mailbox alone gets no endless guesses at the second factor by it, and its owner is not shut out.
            reopen(conn, &Bucket::second_factor(user, None), now)?;
            end_every_link(conn, user)?;
            note(conn, &NewActivity { user, event: Event::PasswordReset, origin: &reset.origin, detail: "" }, now)?;
            if let Some(mail) = &reset.mail {
                enqueue(conn, mail)?;
            }
            end_everything_of(conn, user, &Reason::PasswordChanged.by(Actor::Owner), now)?;
            Ok(true)
        })
        .await
    }

    /// Uses a link and makes the account that was asked for.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn register(
        &self,
        link: Digest,
        new: NewUser,
        origin: Origin,
        now: UnixTime,
    ) -> Result<Registration, StoreError> {
        self.write(move |conn| {
            if !spend(conn, &link, LinkKind::Register, None, now)? {
                return Ok(Registration::Gone);
            }
            let email = new.user.email.as_deref().unwrap_or_default();
            if is_email_taken(conn, email, None)? || !insert_user(conn, &new, &origin)? {
                return Ok(Registration::Taken);
            }
            Ok(Registration::Done)
        })
        .await
    }

    /// Uses a link and sets the address that it showed to be the person's. False when the link is no longer good, or
    /// somebody else has the address by now.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn confirm_email(&self, confirmation: EmailConfirmation, now: UnixTime) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let EmailConfirmation { link, user_id: user, email, origin, mail } = &confirmation;
            hold_alone(conn, user, None)?;
            if !spend(conn, link, LinkKind::ConfirmEmail, Some(user), now)? || is_email_taken(conn, email, Some(user))?
            {
                return Ok(false);
            }
            let update = diesel::update(users::table.find(user.as_str()).filter(users::disabled_at.is_null())).set((
                users::email.eq(email),
                users::normal_email.eq(normal_email(email)),
                users::email_verified.eq(true),
                users::updated_at.eq(now.millis()),
            ));
            let rows =
                on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("confirming an address"))?;
            if rows != 1 {
                return Ok(false);
            }
            // It went to the address of before.
            end_links(conn, user, LinkKind::ResetPassword)?;
            note(conn, &NewActivity { user, event: Event::EmailChanged, origin, detail: email }, now)?;
            if let Some(mail) = mail {
                enqueue(conn, mail)?;
            }
            Ok(true)
        })
        .await
    }

    /// Queues what was asked for by mail, and notes who asked. What a stranger asked for rings no bell: it is found by looking,
    /// so that the work that it makes does not follow close upon the request, where it could be felt in the next one's time.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn request_by_mail(&self, request: Request, now: UnixTime) -> Result<(), StoreError> {
        let is_strangers = request.activity.is_none();
        let work = move |conn: &mut Conn| {
            if let Some((user, event, origin)) = &request.activity {
                note(conn, &NewActivity { user, event: *event, origin, detail: "" }, now)?;
            }
            request.mails.iter().try_for_each(|mail| enqueue(conn, mail))
        };
        if is_strangers { self.write(work).await } else { self.write_and_wake(work).await }
    }
}
