//! What runs beside the requests: watching for changes that others made, and taking out what is dead.

use std::sync::Arc;
use std::time::Duration;

use crate::flow::Context;

/// A change by a command or another node is seen within this.
const WATCH_EVERY: Duration = Duration::from_millis(500);
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Between two batches while there is more to take out, so that requests come in between.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// Follows the database's change counter. A database that is away is told once, and again when it is back.
pub async fn watch_registry(ctx: Arc<Context>) {
    let mut away = false;
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        match ctx.refresh_registry().await {
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

/// Takes out expired rows, in batches.
pub async fn sweep(ctx: Arc<Context>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        loop {
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
