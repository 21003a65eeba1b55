//! Delivers logout tokens. Each receiver (an application's `backchannel_logout_uri`) that something is due at has a lane of its
//! own, in which one delivery goes first and a few go together once it has shown that it answers. One that fails rests, longer
//! each time, and comes back on lanes of their own kind: it holds up neither the person who signed out nor another
//! receiver, also where both are behind one host. A host is asked for a few things at a time, whoever they are for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use url::Url;

use crate::clock::UnixTime;
use crate::crypto::random;
use crate::flow::Context;
use crate::flow::backchannel::{notice, session_of};
use crate::outbound::OutboundError;
use crate::store::{Lease, OutboxItem, OutboxKind, StoreError};

/// What other processes queued, and what is to be tried again, is found within this.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Given up is what has been tried for a day; looking for it need not be exact.
const GIVE_UP_EVERY: Duration = Duration::from_mins(1);
/// Longer than a request may take with all around it. What a killed server had leased is tried again after that.
const LEASE: Duration = Duration::from_secs(10);
/// Requests to one host at a time, and how many of them to receivers that failed last.
const AT_ONCE: usize = 4;
const TROUBLED_AT_ONCE: usize = 2;
/// Receivers at a time, and beside them those that failed last.
const LANES: usize = 128;
const TROUBLED_LANES: usize = 16;
const LONGEST_DELAY: Duration = Duration::from_mins(15);
const LONGEST_REST: Duration = Duration::from_mins(1);
/// A client that the registry in memory does not know may be newer than that.
const TRIES_OF_UNKNOWN: i64 = 4;

/// A receiver that is being served, or has failed and rests.
struct Receiver {
    running: bool,
    failures: i64,
    rests_until: UnixTime,
}

/// What may be asked at a time: of one host, or of all.
struct Bounds {
    all: Semaphore,
    troubled: Semaphore,
}

type Failure = Box<dyn std::error::Error>;

struct Worker {
    ctx: Arc<Context>,
    receivers: RefCell<HashMap<String, Receiver>>,
    /// Those at which something is under way.
    hosts: RefCell<HashMap<String, Rc<Bounds>>>,
    lanes: Bounds,
}

/// Delivers as long as the server runs.
pub async fn deliver_logouts(ctx: Arc<Context>) {
    let mut queued = ctx.store.queued();
    let worker = Rc::new(Worker {
        ctx,
        receivers: RefCell::default(),
        hosts: RefCell::default(),
        lanes: Bounds { all: Semaphore::new(LANES), troubled: Semaphore::new(TROUBLED_LANES) },
    });
    let mut give_up_at = worker.ctx.now();
    loop {
        // Marked as seen before looking: what is queued meanwhile is looked for again.
        queued.borrow_and_update();
        if let Err(error) = worker.start_lanes().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "looking for logout tokens failed; trying on");
        }
        let now = worker.ctx.now();
        if now >= give_up_at {
            worker.give_up(now).await;
            give_up_at = now.plus(GIVE_UP_EVERY);
        }
        tokio::select! {
            _ = queued.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Longer each time, and not the same for all that failed together. The first is at most 1.25 seconds.
fn delay(failures: i64, longest: Duration) -> Duration {
    let doubled = Duration::from_secs(1 << failures.saturating_sub(1).clamp(0, 20)).min(longest);
    // Without chance all come back at once, which is no harm to them.
    let chance = random::<1>().map_or(0, |[byte]| byte);
    doubled.mul_f64(0.75 + f64::from(chance) / 512.0)
}

impl Worker {
    async fn start_lanes(self: &Rc<Self>) -> Result<(), StoreError> {
        let now = self.ctx.now();
        let due = self.ctx.store.due_destinations(OutboxKind::Logout, now).await?;
        for destination in due {
            let troubled = {
                let mut receivers = self.receivers.borrow_mut();
                let new = || Receiver { running: false, failures: 0, rests_until: now };
                let receiver = receivers.entry(destination.clone()).or_insert_with(new);
                if receiver.running || receiver.rests_until > now {
                    continue;
                }
                receiver.running = true;
                receiver.failures > 0
            };
            let worker = Rc::clone(self);
            actix_web::rt::spawn(async move {
                let answers = worker.serve_at_its_host(&destination, troubled).await.unwrap_or_else(|error| {
                    tracing::debug!(error = &*error, "delivering logout tokens stopped");
                    false
                });
                worker.rest(&destination, answers);
            });
        }
        Ok(())
    }

    /// A receiver that answered is forgotten; one that did not rests.
    fn rest(&self, destination: &str, answers: bool) {
        let mut receivers = self.receivers.borrow_mut();
        if answers {
            receivers.remove(destination);
        } else if let Some(receiver) = receivers.get_mut(destination) {
            receiver.running = false;
            receiver.failures += 1;
            receiver.rests_until = self.ctx.now().plus(delay(receiver.failures, LONGEST_REST));
        }
    }

    async fn serve_at_its_host(&self, destination: &str, troubled: bool) -> Result<bool, Failure> {
        let name = host_of(destination);
        let new = || Bounds { all: Semaphore::new(AT_ONCE), troubled: Semaphore::new(TROUBLED_AT_ONCE) };
        let host = Rc::clone(self.hosts.borrow_mut().entry(name.clone()).or_insert_with(|| Rc::new(new())));
        let answers = self.serve(destination, &host, troubled).await;
        let mut hosts = self.hosts.borrow_mut();
        // This one and the table's.
        if Rc::strong_count(&host) == 2 {
            hosts.remove(&name);
        }
        answers
    }

    /// Delivers all that is due at one receiver; false as soon as it does not answer. Its turn at the host comes first: who
    /// waits for that takes nobody's lane.
    async fn serve(&self, destination: &str, host: &Bounds, troubled: bool) -> Result<bool, Failure> {
        let lanes = if troubled { &self.lanes.troubled } else { &self.lanes.all };
        let mut limit = 1;
        loop {
            let _turn = if troubled { Some(host.troubled.acquire().await?) } else { None };
            let first = host.all.acquire().await?;
            let more = (1..limit).map_while(|_| host.all.try_acquire().ok());
            let requests: Vec<_> = [first].into_iter().chain(more).collect();
            let _lane = lanes.acquire().await?;
            // What is leased at the end is handed back, so nothing more is taken then.
            if self.ctx.is_stopping() {
                return Ok(true);
            }
            let now = self.ctx.now();
            let lease = Lease {
                kind: OutboxKind::Logout,
                destination: destination.to_owned(),
                limit: i64::try_from(requests.len())?,
                node: self.ctx.node.clone(),
                until: now.plus(LEASE),
            };
            let items = self.ctx.store.lease_outbox(lease, now).await?;
            let answered = join_all(items.into_iter().map(|item| self.deliver(item))).await;
            if answered.iter().any(|answered| !answered) {
                return Ok(false);
            }
            limit = AT_ONCE;
            if !self.ctx.store.is_due(OutboxKind::Logout, destination.to_owned(), self.ctx.now()).await? {
                return Ok(true);
            }
        }
    }

    /// Tries one item; false when its receiver did not answer. The outcome is written down or, where even that fails, found
    /// again when the lease ends.
    async fn deliver(&self, item: OutboxItem) -> bool {
        let (answered, noted) = match notice(&self.ctx, &item, self.ctx.now()) {
            Ok(Some(notice)) => {
                let sent = self.ctx.outbound.post_form(&notice.address, &[("logout_token", &notice.token)]).await;
                match sent {
                    // Section 2.8: 200; 204 is what some frameworks make of it.
                    Ok(200 | 204) => {
                        self.ctx.metrics.logout_delivery("delivered");
                        (true, self.ctx.store.outbox_delivered(item.id, self.ctx.now()).await)
                    }
                    Ok(status) => (true, self.failed(item, &format!("the answer has status {status}")).await),
                    Err(error) => {
                        let answered = !matches!(error, OutboundError::Request(_));
                        (answered, self.failed(item, &chain(&error)).await)
                    }
                }
            }
            Ok(None) if item.attempts >= TRIES_OF_UNKNOWN => {
                self.ctx.metrics.logout_delivery("given_up");
                tracing::warn!(
                    client.id = item.subject,
                    "a logout token was given up: its client is gone or wants none"
                );
                let why = "the client is gone, or has no backchannel_logout_uri any more";
                (true, self.ctx.store.outbox_given_up(item.id, why, self.ctx.now()).await)
            }
            Ok(None) => (true, self.failed(item, "the client is not known").await),
            Err(error) => (true, self.failed(item, &chain(&error)).await),
        };
        if let Err(error) = noted {
            tracing::warn!(error = &error as &dyn std::error::Error, "the outcome of a delivery was not noted");
        }
        answered
    }

    async fn failed(&self, item: OutboxItem, why: &str) -> Result<(), StoreError> {
        self.ctx.metrics.logout_delivery("failed");
        let again_at = self.ctx.now().plus(delay(item.attempts, LONGEST_DELAY));
        if item.attempts == 1 {
            tracing::info!(
                client.id = item.subject,
                session.id = session_of(&item),
                why,
                "a logout token did not arrive; trying on"
            );
        } else {
            tracing::debug!(client.id = item.subject, attempts = item.attempts, why, "a logout token did not arrive");
        }
        self.ctx.store.outbox_failed(item.id, why, again_at).await
    }

    /// Tells the operator of those that no try of a day has reached.
    async fn give_up(&self, now: UnixTime) {
        let given_up = match self.ctx.store.give_up_expired(OutboxKind::Logout, now).await {
            Ok(given_up) => given_up,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "giving up logout tokens failed; trying on");
                return;
            }
        };
        let mut clients: HashMap<String, (usize, Option<String>)> = HashMap::new();
        for (client, why) in given_up {
            self.ctx.metrics.logout_delivery("given_up");
            let told = clients.entry(client).or_default();
            told.0 += 1;
            told.1 = why.or(told.1.take());
        }
        for (client, (count, why)) in clients {
            tracing::error!(
                client.id = client,
                count,
                why,
                "logout tokens could not be delivered for a day and were given up: this application may still have people \
                 signed in; see countersign logout-delivery list"
            );
        }
    }
}

/// Host and port of a receiver, which share what may be asked there at a time.
fn host_of(destination: &str) -> String {
    let host = Url::parse(destination).ok().and_then(|uri| {
        let (host, port) = (uri.host_str()?.to_owned(), uri.port_or_known_default()?);
        Some(format!("{host}:{port}"))
    });
    host.unwrap_or_else(|| destination.to_owned())
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_soon_at_first_and_never_further_apart_than_a_quarter_of_an_hour() {
        for failures in 1..200 {
            let waits = delay(failures, LONGEST_DELAY);
            assert!(waits >= Duration::from_millis(750) && waits <= LONGEST_DELAY.mul_f64(1.25), "{waits:?}");
            assert!(failures > 1 || waits < Duration::from_millis(1_300), "{waits:?}");
            // Even the longest wait after one failure is shorter than the shortest after two more.
            assert!(failures > 8 || waits < delay(failures + 2, LONGEST_DELAY), "{failures}");
        }
    }

    #[test]
    fn what_failed_together_does_not_come_back_together() {
        let waits: std::collections::BTreeSet<_> = (0..64).map(|_| delay(5, LONGEST_DELAY)).collect();
        assert!(waits.len() > 16, "{waits:?}");
    }
}
