//! `logout-delivery`: which applications have been told that a session ended, and which could not be told yet.

use std::time::Duration;

use anyhow::bail;
use clap::{ArgGroup, Subcommand};
use countersign::domain::ids::ClientId;
use countersign::store::{Deliveries, DeliveryState, LogoutDelivery};
use serde_json::{Value, json};

use super::Context;
use super::terminal::{print, print_json, table};

/// What is retried is tried for a day again.
const TRIED_FOR: Duration = Duration::from_hours(24);

#[derive(Subcommand)]
pub enum LogoutDeliveryCommand {
    /// List the logout tokens that have not arrived
    ///
    /// When a session ends, each of its applications that registered a `backchannel_logout_uri` is told (OpenID Connect
    /// Back-Channel Logout). What fails is tried again, at longer and longer intervals, for a day, and then given up; given
    /// up ones stay in this list for a week. The newest come first, a thousand at most.
    #[command(after_long_help = manual!(
        prints "identifier, client, session, state, tries, time of queueing and last error in columns; with --json an array",
        example "countersign logout-delivery list"
    ))]
    List {
        /// Also those that arrived within the last hour
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Try again at once
    ///
    /// Lets logout tokens that wait or were given up be tried at once, and for a day again. The running server does it
    /// within a second.
    #[command(after_long_help = manual!(
        prints "how many are tried",
        example "countersign logout-delivery retry --client client_0f4c…"
    ), group(ArgGroup::new("which").required(true)))]
    Retry {
        /// The delivery's identifier
        #[arg(group = "which", value_name = "ID")]
        id: Option<String>,
        /// All to this client
        #[arg(long, group = "which", value_name = "CLIENT_ID")]
        client: Option<String>,
        /// All of them
        #[arg(long, group = "which")]
        all: bool,
    },
}

impl LogoutDeliveryCommand {
    pub async fn run(self, ctx: Context) -> anyhow::Result<()> {
        match self {
            Self::List { all, json } => {
                let found = ctx.store.list_logout_deliveries(Deliveries::All, all, ctx.now()).await?;
                if json {
                    return print_json(&found.iter().map(to_json).collect());
                }
                let row = |delivery: &LogoutDelivery| {
                    [
                        delivery.id.clone(),
                        delivery.client_id.to_string(),
                        delivery.session_id.as_ref().map(ToString::to_string).unwrap_or_default(),
                        state(delivery.state),
                        delivery.attempts.to_string(),
                        delivery.queued_at.to_string(),
                        delivery.last_error.clone().unwrap_or_default(),
                    ]
                };
                let names = ["ID", "CLIENT", "SESSION", "STATE", "TRIES", "QUEUED", "LAST ERROR"];
                print(&table(names, found.iter().map(row).collect()))
            }
            Self::Retry { id, client, .. } => {
                let which = match (id, client) {
                    (Some(id), _) => Deliveries::One(id),
                    (_, Some(client)) => Deliveries::OfClient(ClientId::from_stored(client)),
                    _ => Deliveries::All,
                };
                let now = ctx.now();
                let count = ctx.store.retry_logout_deliveries(which, now.plus(TRIED_FOR), now).await?;
                if count == 0 {
                    bail!("no such delivery waits or was given up; `countersign logout-delivery list` shows them");
                }
                print(&format!("Trying {count} again."))
            }
        }
    }
}

fn state(state: DeliveryState) -> String {
    match state {
        DeliveryState::Waiting(until) => format!("waits until {until}"),
        DeliveryState::Sending => "being sent".to_owned(),
        DeliveryState::Delivered(at) => format!("arrived {at}"),
        DeliveryState::GivenUp(at) => format!("given up {at}"),
    }
}

fn to_json(delivery: &LogoutDelivery) -> Value {
    json!({
        "id": delivery.id,
        "client_id": delivery.client_id,
        "session": delivery.session_id,
        "state": state(delivery.state),
        "attempts": delivery.attempts,
        "queued_at": delivery.queued_at.to_string(),
        "last_error": delivery.last_error,
    })
}
