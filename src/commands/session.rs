//! `session`: who is signed in.

use clap::Subcommand;
use countersign::store::ListedSession;
use serde_json::{Value, json};

use super::Context;
use super::terminal::{note, print, print_json, table};

#[derive(Subcommand)]
pub enum SessionCommand {
    /// List the sessions that live
    ///
    /// One line for each browser's sign-in that has not ended, the newest first, a thousand at most. `countersign revoke
    /// --session` ends one.
    #[command(after_long_help = manual!(
        prints "identifier, user, time of sign-in, last use, end, address and browser in columns; with --json an array",
        example "countersign session list --user alice"
    ))]
    List {
        /// Only those of this user, by name or identifier (`sub`)
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl SessionCommand {
    pub async fn run(self, ctx: Context) -> anyhow::Result<()> {
        let Self::List { user, json } = self;
        let user = match user {
            None => None,
            Some(name) => Some(ctx.person(&name).await?.id),
        };
        let now = ctx.now();
        let (sessions, more) = ctx.store.list_sessions(user, now.minus(ctx.config.session.idle), now).await?;
        if more {
            note("there are more; --user narrows the list");
        }
        if json {
            return print_json(&sessions.iter().map(to_json).collect());
        }
        let row = |session: &ListedSession| {
            [
                session.id.to_string(),
                session.username.clone(),
                session.created_at.to_string(),
                session.last_seen_at.to_string(),
                session.expires_at.to_string(),
                session.address.clone(),
                session.user_agent.chars().take(60).collect(),
            ]
        };
        let names = ["ID", "USER", "SIGNED IN", "LAST SEEN", "ENDS", "ADDRESS", "BROWSER"];
        print(&table(names, sessions.iter().map(row).collect()))
    }
}

fn to_json(session: &ListedSession) -> Value {
    json!({
        "id": session.id,
        "user": session.username,
        "created_at": session.created_at.to_string(),
        "last_seen_at": session.last_seen_at.to_string(),
        "expires_at": session.expires_at.to_string(),
        "address": session.address,
        "user_agent": session.user_agent,
    })
}
