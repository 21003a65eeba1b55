//! `client`: the applications that get tokens. Metadata goes in and comes out in the words of RFC 7591.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Subcommand;
use countersign::config::MfaRequired;
use countersign::crypto::client_keys::is_usable;
use countersign::crypto::opaque::ClientSecret;
use countersign::domain::client::Client;
use countersign::domain::ids::ClientId;
use countersign::protocol::jose::SigningAlgorithm;
use countersign::protocol::metadata::{ClientMetadata, GrantType, wrong_uri};
use countersign::protocol::scope::{OIDC_SCOPES, Scope};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};

use super::members::warn_of_unknown;
use super::terminal::{deliver, pretty, print, print_json, read_object, table, warn};
use super::{Context, parse_span};

/// A secret that everybody has had time to replace for a month is to go.
const LONGEST_KEEP: Duration = Duration::from_hours(30 * 24);

#[derive(Subcommand)]
pub enum ClientCommand {
    /// Register an application
    ///
    /// Reads client metadata (RFC 7591 section 2) as a JSON object and answers with the registration response (section
    /// 3.2.1). The `client_secret` in it, which a client gets unless its `token_endpoint_auth_method` is `none` or
    /// `private_key_jwt`, is shown this once and never again: only a digest is kept. Unknown members are left out, with
    /// a warning on standard error.
    ///
    /// Beside the members of RFC 7591 and OpenID Connect Registration we know `access_token_signing_alg` (ES256, RS256,
    /// EdDSA), `require_pkce` (true), `skip_consent` (false; true for your own applications), `require_mfa` (false; true
    /// asks a second factor of everybody who comes from there), `resources` (the resource identifiers that the client may
    /// have tokens for; all, when absent), `network_binding` (off, log, ask, refuse) and `network_binding_extent` (prefix,
    /// address).
    #[command(after_long_help = manual!(
        prints "the registration response as JSON, and nothing else",
        example "echo '{\"client_name\": \"Shop\", \"redirect_uris\": [\"https://shop.example.com/callback\"],\n  \
                 \x20     \"grant_types\": [\"authorization_code\", \"refresh_token\"]}' | countersign client create -"
    ))]
    #[command(visible_alias = "add")]
    Create {
        /// The file with the JSON object; - for standard input
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
    /// Change what is registered of a client
    ///
    /// Reads client metadata as `client create` does, all of it: what is left out goes back to its default (RFC 7592 section
    /// 2.2). What `client show` prints is a good beginning. Identifier and secret stay; so does what the client was given,
    /// as far as the new metadata allow it. A client with a secret stays one with a secret, and one without stays without.
    #[command(after_long_help = manual!(
        prints "the client's registration as JSON, without a secret",
        example "countersign client show client_0f4c… > shop.json; $EDITOR shop.json\n  \
                 \x20     countersign client update client_0f4c… shop.json"
    ))]
    Update {
        /// The client's identifier
        #[arg(value_name = "ID")]
        id: String,
        /// The file with the JSON object; - for standard input
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
    /// List all clients
    ///
    /// One line for each, the oldest first.
    #[command(after_long_help = manual!(
        prints "identifier, name, authentication method and time of creation in columns; with --json an array",
        example "countersign client list"
    ))]
    List {
        /// Print JSON, each client as `client show` prints it
        #[arg(long)]
        json: bool,
    },
    /// Show one client
    ///
    /// Shows the metadata in the words of RFC 7591. The secret is not kept and cannot be shown.
    #[command(after_long_help = manual!(
        prints "the client's registration as JSON, without a secret",
        example "countersign client show client_0f4c…"
    ))]
    Show {
        /// The client's identifier
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Remove a client, and end all that it was given
    ///
    /// Grants, refresh tokens and access tokens of the client end, and users' consents to it are forgotten. It cannot
    /// be undone. Resource servers that check access tokens without asking us believe them until they expire.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "countersign client delete client_0f4c…"
    ))]
    #[command(visible_aliases = ["remove", "rm"])]
    Delete {
        /// The client's identifier
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Give a client a new secret
    ///
    /// The old secret is refused from now on, or after --keep-old, which gives time to bring the new one to every place
    /// that uses it. Two secrets are good at most: a second rotation ends the oldest. Tokens stay valid:
    /// where the old secret is in the wrong hands, `countersign revoke --client` ends what was got by it.
    #[command(after_long_help = manual!(
        prints "client_id, client_secret and client_secret_expires_at (0: never) as JSON, and nothing else",
        example "countersign client rotate-secret client_0f4c… --keep-old 1d"
    ))]
    RotateSecret {
        /// The client's identifier
        #[arg(value_name = "ID")]
        id: String,
        /// How long the old secret stays good, up to 30d
        #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = keep_old)]
        keep_old: Duration,
    },
}

fn keep_old(text: &str) -> Result<Duration, String> {
    parse_span(text, &(Duration::ZERO..=LONGEST_KEEP))
}

impl ClientCommand {
    /// Whether it may be what begins a database.
    pub fn creates(&self) -> bool {
        matches!(self, Self::Create { .. })
    }

    pub async fn run(self, ctx: Context) -> anyhow::Result<()> {
        match self {
            Self::Create { file } => create(&ctx, read_object(&file)?).await,
            Self::Update { id, file } => update(&ctx, &id, read_object(&file)?).await,
            Self::List { json } => list(&ctx, json).await,
            Self::Show { id } => print_json(&registration(&find(&ctx, &id).await?, None)?),
            Self::Delete { id } => {
                let client = find(&ctx, &id).await?;
                if !ctx.store.delete_client(client.id, ctx.now()).await? {
                    return Err(unknown(&id));
                }
                print(&format!("Deleted client {id}; its grants, tokens and consents have ended."))
            }
            Self::RotateSecret { id, keep_old } => rotate_secret(&ctx, &id, keep_old).await,
        }
    }
}

fn unknown(id: &str) -> anyhow::Error {
    anyhow!("there is no client {id}; `countersign client list` shows them all")
}

async fn find(ctx: &Context, id: &str) -> anyhow::Result<Client> {
    let clients = ctx.store.registry().await?.clients;
    clients.into_iter().find(|client| client.id.as_str() == id).ok_or_else(|| unknown(id))
}

/// What is asked to be registered, with warnings of what it will not do.
async fn read_metadata(ctx: &Context, members: &Map<String, Value>) -> anyhow::Result<ClientMetadata> {
    // First, for an unknown member may be why a known one is missing.
    warn_of_unknown(members);
    let metadata = ClientMetadata::parse(members).map_err(|error| match wrong_uri(members) {
        Some((uri, error)) => anyhow!("{uri:?}: {}", error.description),
        None => anyhow!(error.description),
    })?;
    let algorithm = metadata.token_endpoint_auth_signing_alg;
    if metadata.jwks.as_ref().is_some_and(|jwks| !is_usable(jwks, algorithm)) {
        let wanted = algorithm.map_or("ES256, RS256, PS256 or EdDSA", SigningAlgorithm::as_str);
        return Err(anyhow!("`jwks` holds no key that could verify a signature by {wanted}."));
    }
    warn_of_what_is_missing(ctx, &metadata).await?;
    if metadata.require_mfa && ctx.config.mfa.required == MfaRequired::Never {
        warn("`require_mfa` lets nobody in while mfa.required is \"never\": there is no second factor to show");
    }
    Ok(metadata)
}

async fn create(ctx: &Context, members: Map<String, Value>) -> anyhow::Result<()> {
    let metadata = read_metadata(ctx, &members).await?;
    let secret = metadata.token_endpoint_auth_method.has_secret().then(ClientSecret::mint).transpose()?;
    let digest = secret.as_ref().map(ClientSecret::digest);
    let client = Client::new(ClientId::random(), metadata, digest, ctx.now());
    let response = registration(&client, secret.as_ref())?;
    let id = client.id.clone();
    let unnamed = client.metadata.client_name.is_none() && client.metadata.grants(GrantType::AuthorizationCode);
    ctx.store.create_client(client).await?;
    if unnamed {
        warn(&format!("people will see the identifier {id}; give a client_name"));
    }
    deliver(&pretty(&response)).with_context(|| {
        format!("client {id} is registered, but its answer was not delivered; delete it or rotate its secret")
    })
}

async fn update(ctx: &Context, id: &str, mut members: Map<String, Value>) -> anyhow::Result<()> {
    let mut client = find(ctx, id).await?;
    // RFC 7592 section 2.2: the identifier is the client's own, and what was decided here is not for changing.
    if members.remove("client_id").is_some_and(|given| given != id) {
        bail!("`client_id` in it is another one than {id}");
    }
    for decided in ["client_id_issued_at", "client_secret", "client_secret_expires_at"] {
        members.remove(decided);
    }
    let metadata = read_metadata(ctx, &members).await?;
    let (before, after) = (client.metadata.token_endpoint_auth_method, metadata.token_endpoint_auth_method);
    if before.has_secret() != after.has_secret() {
        bail!(
            "`token_endpoint_auth_method` cannot go from {} to {}: one has a secret, the other has none; create another client",
            before.as_str(),
            after.as_str()
        );
    }
    if !ctx.store.update_client(client.id.clone(), metadata.clone()).await? {
        return Err(unknown(id));
    }
    client.metadata = metadata;
    print_json(&registration(&client, None)?)
}

async fn warn_of_what_is_missing(ctx: &Context, metadata: &ClientMetadata) -> anyhow::Result<()> {
    let known = ctx.store.registry().await?.resources;
    for scope in metadata.scope.iter().flat_map(Scope::iter) {
        if !OIDC_SCOPES.contains(&scope) && known.iter().all(|resource| !resource.scope.contains(scope)) {
            warn(&format!(
                "the scope {scope} is none of OpenID Connect and belongs to no resource yet; tokens for the default audience carry it"
            ));
        }
    }
    for wanted in metadata.resources.iter().flatten() {
        if *wanted != ctx.config.access_token.audience && known.iter().all(|resource| resource.identifier != *wanted) {
            warn(&format!("there is no resource {wanted} yet; `countersign resource create` registers it"));
        }
    }
    Ok(())
}

/// RFC 7591 section 3.2.1. `client_secret_expires_at` goes with a secret alone.
fn registration(client: &Client, secret: Option<&ClientSecret>) -> anyhow::Result<Value> {
    let mut members = Map::new();
    members.insert("client_id".to_owned(), client.id.as_str().into());
    members.insert("client_id_issued_at".to_owned(), client.created_at.seconds().into());
    if let Some(secret) = secret {
        members.insert("client_secret".to_owned(), secret.reveal().expose_secret().into());
        members.insert("client_secret_expires_at".to_owned(), 0.into());
    }
    let Value::Object(metadata) = serde_json::to_value(&client.metadata)? else { bail!("metadata is not an object") };
    members.extend(metadata);
    Ok(members.into())
}

async fn list(ctx: &Context, json: bool) -> anyhow::Result<()> {
    let mut clients = ctx.store.registry().await?.clients;
    clients.sort_by(|one, other| (one.created_at, one.id.as_str()).cmp(&(other.created_at, other.id.as_str())));
    if json {
        let all = clients.iter().map(|client| registration(client, None)).collect::<anyhow::Result<Value>>()?;
        return print_json(&all);
    }
    let row = |client: &Client| {
        let method = serde_json::to_value(client.metadata.token_endpoint_auth_method)?;
        Ok([
            client.id.to_string(),
            client.metadata.client_name.clone().unwrap_or_default(),
            method.as_str().unwrap_or_default().to_owned(),
            client.created_at.to_string(),
        ])
    };
    let rows = clients.iter().map(row).collect::<anyhow::Result<_>>()?;
    print(&table(["ID", "NAME", "AUTHENTICATION", "CREATED"], rows))
}

async fn rotate_secret(ctx: &Context, id: &str, keep_old: Duration) -> anyhow::Result<()> {
    let client = find(ctx, id).await?;
    if !client.metadata.token_endpoint_auth_method.has_secret() {
        bail!("client {id} has no secret to rotate: it is public, or signs with a key of its own");
    }
    let (secret, now) = (ClientSecret::mint()?, ctx.now());
    if !ctx.store.rotate_client_secret(client.id, secret.digest(), now.plus(keep_old), now).await? {
        return Err(unknown(id));
    }
    let response = serde_json::json!({
        "client_id": id,
        "client_secret": secret.reveal().expose_secret(),
        "client_secret_expires_at": 0,
    });
    deliver(&pretty(&response)).context("the secret was changed, but not delivered; rotate it again")
}
