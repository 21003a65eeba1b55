//! Side effects that wait for their delivery: written in the transaction of the fact that asks for them, delivered at least
//! once, each under one name for all its tries, so that who receives it can drop a double.

use diesel::dsl::exists;
use diesel::prelude::*;
use tokio::sync::watch;

use crate::clock::UnixTime;
use crate::domain::ids::{SessionId, uuid_v7};

use super::conn::{Conn, on_backend};
use super::leases::release;
use super::schema::outbox;
use super::{Store, StoreError};

/// What is kept of a failure's words.
const MAX_ERROR: usize = 300;
/// How long a delivered item can still be seen.
const DELIVERED_KEPT: std::time::Duration = std::time::Duration::from_hours(1);
/// How long an item that was given up can still be seen, and tried again.
const GIVEN_UP_KEPT: std::time::Duration = std::time::Duration::from_hours(24 * 7);

/// What is delivered, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxKind {
    /// A logout token, OpenID Connect Back-Channel Logout 1.0.
    Logout,
    Mail,
}

impl OutboxKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Mail => "mail",
        }
    }
}

/// Something to deliver.
#[derive(Clone, Debug)]
pub struct NewOutboxItem {
    pub kind: OutboxKind,
    /// Items of one destination are delayed together when it fails; `""` where there is but one.
    pub destination: String,
    /// The client or the person that it is for.
    pub subject: String,
    pub session_id: Option<SessionId>,
    /// Sealed where it holds a secret.
    pub payload: Vec<u8>,
    pub created_at: UnixTime,
    /// Given up from then on.
    pub expires_at: UnixTime,
}

/// An item as it was leased.
#[derive(Clone, Debug)]
pub struct OutboxItem {
    pub id: String,
    pub subject: String,
    pub session_id: Option<SessionId>,
    pub payload: Vec<u8>,
    /// This one counted.
    pub attempts: i64,
    pub created_at: UnixTime,
    pub expires_at: UnixTime,
}

/// A claim to deliver the items that are due at one destination. Nobody else tries them before `until`.
#[derive(Clone, Debug)]
pub struct Lease {
    pub kind: OutboxKind,
    pub destination: String,
    pub limit: i64,
    /// Who delivers.
    pub node: String,
    pub until: UnixTime,
}

type ItemRow = (String, String, Option<String>, Vec<u8>, i64, i64, i64);

const ITEM: (
    outbox::outbox_id,
    outbox::subject,
    outbox::session_id,
    outbox::payload,
    outbox::attempts,
    outbox::created_at,
    outbox::expires_at,
) = (
    outbox::outbox_id,
    outbox::subject,
    outbox::session_id,
    outbox::payload,
    outbox::attempts,
    outbox::created_at,
    outbox::expires_at,
);

fn item((id, subject, session_id, payload, attempts, created_at, expires_at): ItemRow) -> OutboxItem {
    OutboxItem {
        id,
        subject,
        session_id: session_id.map(SessionId::from_stored),
        payload,
        attempts,
        created_at: UnixTime::from_millis(created_at),
        expires_at: UnixTime::from_millis(expires_at),
    }
}

#[allow(dead_code, reason = "mails and logout tokens come with their own work")]
/// Queues an item inside the transaction of the fact. The transaction must be one of [`Store::write_and_wake`].
pub(super) fn enqueue(conn: &mut Conn, new: &NewOutboxItem) -> Result<(), StoreError> {
    let row = (
        outbox::outbox_id.eq(uuid_v7(new.created_at)),
        outbox::kind.eq(new.kind.as_str()),
        outbox::destination.eq(&new.destination),
        outbox::subject.eq(&new.subject),
        outbox::session_id.eq(new.session_id.as_ref().map(SessionId::as_str)),
        outbox::payload.eq(&new.payload),
        outbox::attempts.eq(0),
        outbox::next_at.eq(new.created_at.millis()),
        outbox::created_at.eq(new.created_at.millis()),
        outbox::expires_at.eq(new.expires_at.millis()),
    );
    on_backend!(conn, |c| diesel::insert_into(outbox::table).values(row).execute(c))
        .map_err(StoreError::operation("queueing a delivery"))?;
    Ok(())
}

/// Tells whoever delivers that there is something new.
#[derive(Clone)]
pub(super) struct Bell(watch::Sender<()>);

impl Default for Bell {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Store {
    /// Changes whenever this process has queued something. What other processes queue is found by looking.
    #[must_use]
    pub fn queued(&self) -> watch::Receiver<()> {
        self.bell.0.subscribe()
    }

    /// A write that may queue something: those who deliver look at once after the commit.
    pub(super) async fn write_and_wake<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.write(work).await;
        self.bell.0.send_replace(());
        result
    }

    /// The destinations at which something of a kind is due.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn due_destinations(&self, kind: OutboxKind, now: UnixTime) -> Result<Vec<String>, StoreError> {
        self.read(move |conn| {
            let due = outbox::table
                .filter(outbox::kind.eq(kind.as_str()))
                .filter(outbox::delivered_at.is_null())
                .filter(outbox::given_up_at.is_null())
                .filter(outbox::next_at.le(now.millis()))
                .select(outbox::destination)
                .distinct();
            on_backend!(conn, |c| due.load(c)).map_err(StoreError::operation("looking for deliveries"))
        })
        .await
    }

    /// Whether something of a kind is due at a destination.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_due(&self, kind: OutboxKind, destination: String, now: UnixTime) -> Result<bool, StoreError> {
        self.read(move |conn| {
            let due = outbox::table
                .filter(outbox::kind.eq(kind.as_str()))
                .filter(outbox::destination.eq(destination))
                .filter(outbox::delivered_at.is_null())
                .filter(outbox::given_up_at.is_null())
                .filter(outbox::next_at.le(now.millis()));
            on_backend!(conn, |c| diesel::select(exists(due)).get_result(c))
                .map_err(StoreError::operation("looking for deliveries"))
        })
        .await
    }

    /// Claims what is due at one destination, the longest waiting first, and counts the attempt.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn lease_outbox(&self, lease: Lease, now: UnixTime) -> Result<Vec<OutboxItem>, StoreError> {
        self.write(move |conn| {
            let due = diesel::alias!(outbox as due);
            let oldest = due
                .filter(due.field(outbox::kind).eq(lease.kind.as_str()))
                .filter(due.field(outbox::destination).eq(&lease.destination))
                .filter(due.field(outbox::delivered_at).is_null())
                .filter(due.field(outbox::given_up_at).is_null())
                .filter(due.field(outbox::next_at).le(now.millis()))
                .order(due.field(outbox::next_at))
                .limit(lease.limit)
                .select(due.field(outbox::outbox_id));
            // Judged again outside: of two nodes that chose the same row the second finds it leased.
            let update = diesel::update(
                outbox::table
                    .filter(outbox::outbox_id.eq_any(oldest))
                    .filter(outbox::delivered_at.is_null())
                    .filter(outbox::given_up_at.is_null())
                    .filter(outbox::next_at.le(now.millis())),
            )
            .set((
                outbox::next_at.eq(lease.until.millis()),
                outbox::leased_by.eq(&lease.node),
                outbox::attempts.eq(outbox::attempts + 1),
            ))
            .returning(ITEM);
            let rows: Vec<ItemRow> =
                on_backend!(conn, |c| update.get_results(c)).map_err(StoreError::operation("leasing deliveries"))?;
            Ok(rows.into_iter().map(item).collect())
        })
        .await
    }

    /// Hands back what this node has leased, for others to try at once. What was under way may arrive twice, under one name.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn release_leases(&self, node: String, now: UnixTime) -> Result<(), StoreError> {
        self.write(move |conn| {
            release(conn, &node)?;
            let own = outbox::table.filter(outbox::leased_by.eq(node)).filter(outbox::delivered_at.is_null());
            let update =
                diesel::update(own).set((outbox::next_at.eq(now.millis()), outbox::leased_by.eq(None::<String>)));
            on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("handing deliveries back"))?;
            Ok(())
        })
        .await
    }

    /// # Errors
    /// When the database cannot be written.
    pub async fn outbox_delivered(&self, id: String, now: UnixTime) -> Result<(), StoreError> {
        self.write(move |conn| {
            let update = diesel::update(outbox::table.find(id).filter(outbox::delivered_at.is_null())).set((
                outbox::delivered_at.eq(now.millis()),
                outbox::given_up_at.eq(None::<i64>),
                outbox::leased_by.eq(None::<String>),
                outbox::last_error.eq(None::<String>),
                outbox::expires_at.eq(now.plus(DELIVERED_KEPT).millis()),
            ));
            on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("noting a delivery"))?;
            Ok(())
        })
        .await
    }

    /// An attempt failed; the next one is not before `next_at`. `error` is shown to operators and holds no secret.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn outbox_failed(&self, id: String, error: &str, next_at: UnixTime) -> Result<(), StoreError> {
        let error: String = error.chars().take(MAX_ERROR).collect();
        self.write(move |conn| {
            let open =
                outbox::table.find(id).filter(outbox::delivered_at.is_null()).filter(outbox::given_up_at.is_null());
            let update = diesel::update(open).set((
                outbox::next_at.eq(next_at.millis()),
                outbox::leased_by.eq(None::<String>),
                outbox::last_error.eq(error),
            ));
            on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("noting a failed delivery"))?;
            Ok(())
        })
        .await
    }

    /// It is not tried again, unless an operator says so.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn outbox_given_up(&self, id: String, error: &str, now: UnixTime) -> Result<(), StoreError> {
        let error: String = error.chars().take(MAX_ERROR).collect();
        self.write(move |conn| {
            let open =
                outbox::table.find(id).filter(outbox::delivered_at.is_null()).filter(outbox::given_up_at.is_null());
            let update = diesel::update(open).set((
                outbox::given_up_at.eq(now.millis()),
                outbox::leased_by.eq(None::<String>),
                outbox::last_error.eq(error),
                outbox::expires_at.eq(now.plus(GIVEN_UP_KEPT).millis()),
            ));
            on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("giving up a delivery"))?;
            Ok(())
        })
        .await
    }

    /// Gives up what has been tried for long enough: whose, and why it failed last.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn give_up_expired(
        &self,
        kind: OutboxKind,
        now: UnixTime,
    ) -> Result<Vec<(String, Option<String>)>, StoreError> {
        self.write(move |conn| {
            let late = outbox::table
                .filter(outbox::kind.eq(kind.as_str()))
                .filter(outbox::delivered_at.is_null())
                .filter(outbox::given_up_at.is_null())
                .filter(outbox::expires_at.le(now.millis()));
            let update = diesel::update(late)
                .set((
                    outbox::given_up_at.eq(now.millis()),
                    outbox::leased_by.eq(None::<String>),
                    outbox::expires_at.eq(now.plus(GIVEN_UP_KEPT).millis()),
                ))
                .returning((outbox::subject, outbox::last_error));
            on_backend!(conn, |c| update.get_results(c)).map_err(StoreError::operation("giving up deliveries"))
        })
        .await
    }
}
