//! What runs beside the requests: watching for changes that others made, sending mail, and taking out what is dead.

pub mod mail;

mod backchannel;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::KEEP_TIME_EVERY;
use crate::flow::Context;

pub use backchannel::deliver_logouts;

/// A change by a command or another node is seen within this.
const WATCH_EVERY: Duration = Duration::from_millis(500);
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Whoever sweeps goes on doing it; another takes over when it has not been heard of for so long.
const SWEEP_LEASE: Duration = Duration::from_secs(150);
/// Between two rounds while there is more to take out. A row that is taken out changes some five pages, which go through the
/// log into the file: at a higher rate whoever writes waits for that.
const SWEEP_PAUSE: Duration = Duration::from_millis(80);

/// Follows the database's change counter. A database that is away is told once, and again when it is back.
pub async fn watch_registry(ctx: Arc<Context>) {
    let mut away = false;
    let mut changes = ctx.store.changes();
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            () = told(&mut changes) => {}
        }
        let followed = ctx.refresh_registry().await;
        if followed.is_ok() {
            ctx.metrics.registry_followed(ctx.now());
        }
        match followed {
            Ok(true) => tracing::debug!("clients, resources or keys changed"),
            Ok(false) if away => tracing::info!("the database is back"),
            Ok(false) => {}
            Err(error) if !away => {
                tracing::error!(error = &error as &dyn std::error::Error, "looking for changes failed; trying on");
                away = true;
                continue;
            }
            Err(_) => continue,
        }
        away = false;
    }
}

/// Has the database remember what time it is, and tells an operator of a clock that was set back.
pub async fn keep_time(ctx: Arc<Context>) {
    loop {
        if ctx.clock.is_lost() {
            tracing::error!(
                behind_seconds = ctx.clock.behind().as_secs(),
                "the machine's clock is behind what this database has seen; time goes on by our own count, so that nothing \
                 expired lives again. Set the clock right; or, if it was ahead before and is right now, stop the server and \
                 run countersign db accept-clock"
            );
        }
        if let Err(error) = ctx.store.remember_instant(ctx.now()).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the time was not remembered; trying on");
        }
        tokio::time::sleep(KEEP_TIME_EVERY).await;
    }
}

/// Waits for word of a change; forever, where none comes.
async fn told(changes: &mut tokio::sync::watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Takes out expired rows, in batches; of several servers one does it for all.
pub async fn sweep(ctx: Arc<Context>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        loop {
            let now = ctx.now();
            match ctx.store.take_lease("sweep", ctx.node.clone(), now.plus(SWEEP_LEASE), now).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "sweeping failed; trying again later");
                    break;
                }
            }
            match ctx.store.sweep(ctx.now()).await {
                Ok(0) => break,
                Ok(rows) => tracing::debug!(rows, "swept"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "sweeping failed; trying again later");
                    break;
                }
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    }
}
