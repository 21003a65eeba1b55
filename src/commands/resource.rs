//! `resource`: the APIs that access tokens are for (RFC 8707).

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Subcommand;
use countersign::domain::ids::ClientId;
use countersign::domain::resource::{Resource, check_identifier};
use countersign::protocol::jose::SigningAlgorithm;
use countersign::protocol::scope::{OIDC_SCOPES, Scope};
use countersign::protocol::text::misleads;
use countersign::store::Registered;
use serde_json::{Value, json};

use super::terminal::{fields, print, print_json, table, warn};
use super::{Context, parse_span};

const DAY: Duration = Duration::from_hours(24);
const NAME_LENGTH: usize = 200;

#[derive(Subcommand)]
pub enum ResourceCommand {
    /// Register an API
    ///
    /// A client asks for tokens for an API by its identifier (`resource`, RFC 8707), or by scopes that this API alone
    /// has. The identifier is then `aud` in the access token, and the token carries the API's scopes and no other
    /// API's.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "countersign resource create https://api.example.com --scope \"orders.read orders.write\""
    ))]
    #[command(visible_alias = "add")]
    Create {
        /// An absolute URI without a fragment, such as `https://api.example.com`
        identifier: String,
        /// The scopes of this API, separated by spaces; may be given several times
        #[arg(long)]
        scope: Vec<String>,
        /// What the consent page calls it
        #[arg(long)]
        name: Option<String>,
        /// How long its access tokens live, from 1s to 24h [default: `access_token.lifetime` of the configuration]
        #[arg(long, value_name = "SPAN", value_parser = lifetime)]
        access_token_lifetime: Option<Duration>,
        /// What its access tokens are signed with: ES256, RS256 or EdDSA [default: what the client is registered for]
        #[arg(long, value_name = "ALG", value_parser = algorithm)]
        access_token_signing_alg: Option<SigningAlgorithm>,
        /// The client as which the API itself asks about tokens (introspection, RFC 7662)
        #[arg(long, value_name = "CLIENT_ID")]
        resource_server: Option<String>,
    },
    /// List all resources
    ///
    /// One line for each, in the order of their identifiers.
    #[command(after_long_help = manual!(
        prints "identifier, name and scopes in columns; with --json an array",
        example "countersign resource list"
    ))]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one resource
    ///
    /// Shows everything about a registered API.
    #[command(after_long_help = manual!(
        prints "one value a line; with --json one object",
        example "countersign resource show https://api.example.com"
    ))]
    Show {
        /// The resource's identifier
        identifier: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a resource
    ///
    /// Clients get no more tokens for it. Those given out are good until they expire.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "countersign resource delete https://api.example.com"
    ))]
    #[command(visible_aliases = ["remove", "rm"])]
    Delete {
        /// The resource's identifier
        identifier: String,
    },
}

fn lifetime(text: &str) -> Result<Duration, String> {
    parse_span(text, &(Duration::from_secs(1)..=DAY))
}

/// What may sign access tokens: as a client's `access_token_signing_alg`.
fn algorithm(text: &str) -> Result<SigningAlgorithm, String> {
    let found = SigningAlgorithm::parse(text).filter(|algorithm| *algorithm != SigningAlgorithm::Ps256);
    found.ok_or_else(|| "write ES256, RS256 or EdDSA".to_owned())
}

impl ResourceCommand {
    /// Whether it may be what begins a database.
    pub fn creates(&self) -> bool {
        matches!(self, Self::Create { .. })
    }

    pub async fn run(self, ctx: Context) -> anyhow::Result<()> {
        match self {
            Self::Create {
                identifier,
                scope,
                name,
                access_token_lifetime,
                access_token_signing_alg,
                resource_server,
            } => {
                let resource = Resource {
                    scope: Scope::parse(&scope.join(" ")).map_err(|error| anyhow!("--scope: {}", error.description))?,
                    identifier,
                    name,
                    access_token_lifetime,
                    access_token_signing_alg,
                    resource_server: resource_server.map(ClientId::from_stored),
                    created_at: ctx.now(),
                };
                create(&ctx, resource).await
            }
            Self::List { json } => list(&ctx, json).await,
            Self::Show { identifier, json } => {
                let all = ctx.store.registry().await?.resources;
                let found = all.iter().find(|resource| resource.identifier == identifier);
                let resource = found.ok_or_else(|| unknown(&identifier))?;
                if json { print_json(&to_json(resource)) } else { print(&describe(resource)) }
            }
            Self::Delete { identifier } => {
                if !ctx.store.delete_resource(identifier.clone()).await? {
                    return Err(unknown(&identifier));
                }
                print(&format!("Deleted resource {identifier}."))
            }
        }
    }
}

fn unknown(identifier: &str) -> anyhow::Error {
    anyhow!("there is no resource {identifier}; `countersign resource list` shows them all")
}

async fn create(ctx: &Context, resource: Resource) -> anyhow::Result<()> {
    let identifier = resource.identifier.clone();
    check_identifier(&identifier).map_err(|error| anyhow!("{identifier:?}: {}", error.description))?;
    if resource.name.as_ref().is_some_and(|name| name.trim().is_empty() || name.chars().count() > NAME_LENGTH) {
        bail!("--name must have 1 to {NAME_LENGTH} characters");
    }
    if resource.name.as_deref().is_some_and(misleads) {
        bail!("--name has control characters, or such as change the direction of writing");
    }
    if let Some(scope) = resource.scope.iter().find(|scope| OIDC_SCOPES.contains(scope)) {
        bail!("--scope: `{scope}` belongs to OpenID Connect; give the resource scopes of its own, such as orders:read");
    }
    if let Some(scope) = resource.scope.iter().find(|scope| scope.contains(',')) {
        warn(&format!("`{scope}` is one scope with a comma in it; spaces separate scopes"));
    }
    if let Some(id) = &resource.resource_server {
        let clients = ctx.store.registry().await?.clients;
        match clients.iter().find(|client| client.id == *id) {
            None => bail!("--resource-server: there is no client {id}"),
            Some(client) if client.metadata.is_public() => {
                bail!("--resource-server: client {id} is public, and introspection is for clients that authenticate");
            }
            Some(_) => {}
        }
    }
    warn_of_shared_scopes(ctx, &resource).await?;
    match ctx.store.create_resource(resource).await? {
        Registered::Done => print(&format!("Created resource {identifier}.")),
        Registered::Exists => bail!("there is a resource {identifier} already"),
    }
}

/// Two resources may share a scope, and a client that asks for it without `resource` is then taken to mean both.
async fn warn_of_shared_scopes(ctx: &Context, new: &Resource) -> anyhow::Result<()> {
    for other in ctx.store.registry().await?.resources.iter().filter(|other| other.identifier != new.identifier) {
        let shared = new.scope.retain(|scope| other.scope.contains(scope));
        if !shared.is_empty() {
            warn(&format!(
                "`{shared}` belongs to {} too; clients that ask for it must say by `resource` which they mean",
                other.identifier
            ));
        }
    }
    Ok(())
}

async fn list(ctx: &Context, json: bool) -> anyhow::Result<()> {
    let mut resources = ctx.store.registry().await?.resources;
    resources.sort_by(|one, other| one.identifier.cmp(&other.identifier));
    if json {
        return print_json(&resources.iter().map(to_json).collect());
    }
    let row = |resource: &Resource| {
        let name = resource.name.clone().unwrap_or_default();
        [resource.identifier.clone(), name, resource.scope.as_str().to_owned()]
    };
    print(&table(["IDENTIFIER", "NAME", "SCOPE"], resources.iter().map(row).collect()))
}

fn describe(resource: &Resource) -> String {
    let lifetime = resource.access_token_lifetime.map(|span| humantime::format_duration(span).to_string());
    let algorithm = resource.access_token_signing_alg.map(|algorithm| algorithm.as_str().to_owned());
    let server = resource.resource_server.as_ref().map(ToString::to_string);
    fields(&[
        ("identifier", resource.identifier.clone()),
        ("name", resource.name.clone().unwrap_or_else(|| "none".to_owned())),
        ("scope", resource.scope.as_str().to_owned()),
        ("access-token lifetime", lifetime.unwrap_or_else(|| "as configured".to_owned())),
        ("access-token algorithm", algorithm.unwrap_or_else(|| "the client's".to_owned())),
        ("resource server", server.unwrap_or_else(|| "none".to_owned())),
        ("created", resource.created_at.to_string()),
    ])
}

fn to_json(resource: &Resource) -> Value {
    json!({
        "identifier": resource.identifier,
        "name": resource.name,
        "scope": resource.scope.as_str(),
        "access_token_lifetime": resource.access_token_lifetime.map(|span| span.as_secs()),
        "access_token_signing_alg": resource.access_token_signing_alg.map(SigningAlgorithm::as_str),
        "resource_server": resource.resource_server,
        "created_at": resource.created_at.to_string(),
    })
}
