//! Development mode: people to sign in as and an application to sign in to, made at the first start.

use std::fmt::Write as _;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use crate::app::AppError;
use crate::config::{MailConfig, MailUrl};
use crate::crypto::CryptoError;
use crate::crypto::opaque::ClientSecret;
use crate::domain::client::Client;
use crate::domain::ids::{ClientId, UserId};
use crate::domain::user::User;
use crate::flow::Context;
use crate::http::Demo;
use crate::outbound::Outbound;
use crate::protocol::metadata::ClientMetadata;
use crate::store::NewUser;

const DEMO_NAME: &str = "Countersign demo";

/// A folder that was made in development mode holds accounts whose passwords were shown on a terminal.
pub fn warn_of_leftovers(ctx: &Context) {
    if ctx.registry().clients().any(|client| client.name() == DEMO_NAME) {
        tracing::warn!(
            "this data directory comes from development mode: the accounts demo and admin and the demo client are still \
             there; disable them (countersign user disable demo), or start with an empty data_dir"
        );
    }
}

/// Makes what is missing. Gives the demo application, and what to tell the person who started the server.
///
/// # Errors
/// When the database cannot be written.
pub async fn prepare(ctx: &Arc<Context>) -> Result<(Demo, String), AppError> {
    let issuer = ctx.issuer();
    let (id, secret) = demo_client(ctx).await?;
    ctx.refresh_registry().await?;
    let outbound = crate::config::OutboundConfig { allow: Vec::new(), allow_private: true, ca_file: None };
    let demo = Demo::new(issuer.to_owned(), id.as_str().to_owned(), secret, Outbound::new(&outbound)?);

    let mut welcome = format!(
        "\nCountersign is running in DEVELOPMENT MODE: for this machine only, not for real people.\n\
         Set `issuer` in countersign.toml to leave it.\n\n\
         Open  {issuer}/demo  to sign in through a demo application, or  {issuer}/  for your account.\n"
    );
    if let Some(MailConfig { url: MailUrl::Directory(path), .. }) = &ctx.config.mail {
        let path = std::path::absolute(path).unwrap_or_else(|_nowhere| path.clone());
        writeln!(welcome, "Mail is sent to nobody; it lands in {}.", path.display()).ok();
    }
    if ctx.store.has_users().await? {
        let least = ctx.config.password.min_length;
        writeln!(
            welcome,
            "Sign in as before. This sets a new password ({least} characters or more):\n\n    \
             read -rs P; printf %s \"$P\" | countersign user set-password demo --password-stdin"
        )
        .ok();
        return Ok((demo, welcome));
    }
    welcome.push_str("\nSign in as one of these. Their passwords are shown this once:\n\n");
    for (name, full_name, is_admin) in [("demo", "Demo Person", false), ("admin", "Administrator", true)] {
        let password = create_user(ctx, name, full_name, is_admin).await?;
        writeln!(welcome, "    user name  {name:<8} password  {}", password.expose_secret()).ok();
    }
    Ok((demo, welcome))
}

/// A password that nobody guesses and anybody can type: five groups of five letters.
fn readable_password() -> Result<SecretString, CryptoError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bytes: [u8; 25] = crate::crypto::random()?;
    let letter = |byte: u8| char::from(LETTERS.get(usize::from(byte % 32)).copied().unwrap_or(b'a'));
    let groups: Vec<String> = bytes.chunks(5).map(|group| group.iter().copied().map(letter).collect()).collect();
    Ok(groups.join("-").into())
}

async fn create_user(ctx: &Context, name: &str, full_name: &str, is_admin: bool) -> Result<SecretString, AppError> {
    let password = readable_password()?;
    let password_hash = ctx.hasher.hash(password.clone()).await?;
    let now = ctx.now();
    let user = User {
        id: UserId::random(),
        username: name.to_owned(),
        email: Some(format!("{name}@example.com")),
        email_verified: false,
        is_admin,
        claims: [("name".to_owned(), json!(full_name))].into_iter().collect(),
        disabled_at: None,
        created_at: now,
        updated_at: now,
        has_second_factor: false,
    };
    ctx.store.create_user(NewUser { user, password_hash: Some(password_hash) }).await?;
    Ok(password)
}

/// The demo's registration, with a secret of its own for each run: nobody needs to keep it.
async fn demo_client(ctx: &Context) -> Result<(ClientId, SecretString), AppError> {
    let callback = format!("{}/demo/callback", ctx.issuer());
    let secret = ClientSecret::mint()?;
    let (digest, text, now) = (secret.digest(), secret.reveal(), ctx.now());
    let registry = ctx.registry();
    let present = registry.clients().find(|client| {
        client.name() == DEMO_NAME && client.metadata.redirect_uris.iter().any(|uri| uri.as_str() == callback)
    });
    if let Some(client) = present {
        ctx.store.rotate_client_secret(client.id.clone(), digest, now, now).await?;
        return Ok((client.id.clone(), text));
    }
    let metadata = json!({
        "client_name": DEMO_NAME,
        "redirect_uris": [callback],
        "post_logout_redirect_uris": [format!("{}/demo/signed-out", ctx.issuer())],
        "grant_types": ["authorization_code", "refresh_token"],
        "scope": "openid profile email offline_access",
    });
    let members = metadata.as_object().cloned().unwrap_or_default();
    let metadata =
        ClientMetadata::parse(&members).map_err(|error| crate::store::StoreError::corrupt("demo client", error))?;
    let id = ClientId::random();
    ctx.store.create_client(Client::new(id.clone(), metadata, Some(digest), now)).await?;
    Ok((id, text))
}
