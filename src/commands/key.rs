//! `key`: the keys that sign tokens.

use std::time::Duration;

use anyhow::anyhow;
use clap::Subcommand;
use countersign::app::open_sealing_key;
use countersign::clock::UnixTime;
use countersign::config::Config;
use countersign::crypto::keyring::{Keyring, generate};
use countersign::domain::key::SigningKey;
use countersign::domain::resource::Resource;
use countersign::protocol::jose::SigningAlgorithm;
use countersign::store::{Actor, Reason};
use serde_json::{Value, json};

use super::Context;
use super::terminal::{print, print_json, table};

/// A retired key stays published for so long after the last token it signed: for clocks that differ, and for the moment
/// that a running server takes to see the change.
const MARGIN: Duration = Duration::from_mins(1);

#[derive(Subcommand)]
pub enum KeyCommand {
    /// List the signing keys
    ///
    /// A key is `coming` while it is published but does not sign yet, `signing`, `retiring` while tokens that it signed
    /// may live, and `retired` when it is no longer published.
    #[command(after_long_help = manual!(
        prints "identifier (kid), algorithm, state, from when it signs and until when it is published, in columns;\n  \
                with --json an array with the public keys",
        example "countersign key list"
    ))]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make new signing keys
    ///
    /// Makes a successor for the signing key of each algorithm. It is published in the JWKS at once and signs after
    /// `signing_key.publish_ahead` of the configuration (1h by default), when every relying party has seen it. The key
    /// before it stays published until the last token that it signed has expired. Tokens given out stay valid
    /// throughout.
    ///
    /// With --now the new key signs at once: relying parties that remember the JWKS of before may refuse its tokens
    /// until they fetch it anew.
    ///
    /// With --compromised the old key is in the wrong hands: the new one signs at once, the old one leaves the JWKS at
    /// once, and every token that it signed is refused here within a second. Services that check tokens by themselves
    /// refuse them when they next fetch the JWKS. People stay signed in and applications refresh.
    #[command(after_long_help = manual!(
        prints "the new keys: identifier, algorithm, from when each signs, until when the one before is published",
        example "countersign key rotate --algorithm ES256"
    ))]
    Rotate {
        /// Rotate this algorithm only: ES256, RS256, PS256 or EdDSA
        #[arg(long, value_name = "ALG", value_parser = algorithm)]
        algorithm: Option<SigningAlgorithm>,
        /// Sign with the new key at once, at the risk that relying parties do not know it yet
        #[arg(long)]
        now: bool,
        /// Take the old key out at once, with every token that it signed
        #[arg(long)]
        compromised: bool,
    },
}

fn algorithm(text: &str) -> Result<SigningAlgorithm, String> {
    SigningAlgorithm::parse(text).ok_or_else(|| "write ES256, RS256, PS256 or EdDSA".to_owned())
}

impl KeyCommand {
    pub async fn run(self, ctx: Context) -> anyhow::Result<()> {
        match self {
            Self::List { json } => list(&ctx, json).await,
            Self::Rotate { algorithm, now, compromised } => {
                let ahead = if now || compromised { Duration::ZERO } else { ctx.config.signing_key.publish_ahead };
                rotate(&ctx, algorithm, ahead, compromised).await
            }
        }
    }
}

/// Where a key is in its life.
fn state(key: &SigningKey, all: &[SigningKey], now: UnixTime) -> &'static str {
    if key.is_expired(now) {
        return "retired";
    }
    if key.active_at > now {
        return "coming";
    }
    let same = all.iter().filter(|other| other.algorithm == key.algorithm && other.signs_at(now));
    let newest = same.max_by_key(|other| other.active_at);
    if newest.is_some_and(|newest| newest.key_id == key.key_id) { "signing" } else { "retiring" }
}

async fn list(ctx: &Context, json: bool) -> anyhow::Result<()> {
    let now = ctx.now();
    let mut keys = ctx.store.registry().await?.keys;
    keys.sort_by_key(|key| (key.algorithm.as_str(), key.active_at));
    if json {
        let one = |key: &SigningKey| -> Value {
            json!({
                "kid": key.key_id,
                "alg": key.algorithm.as_str(),
                "state": state(key, &keys, now),
                "created_at": key.created_at.to_string(),
                "active_at": key.active_at.to_string(),
                "expires_at": key.expires_at.map(|at| at.to_string()),
                "public_jwk": key.public_jwk,
            })
        };
        return print_json(&keys.iter().map(one).collect());
    }
    let row = |key: &SigningKey| {
        [
            key.key_id.clone(),
            key.algorithm.as_str().to_owned(),
            state(key, &keys, now).to_owned(),
            key.active_at.to_string(),
            key.expires_at.map(|at| at.to_string()).unwrap_or_default(),
        ]
    };
    print(&table(["KID", "ALGORITHM", "STATE", "SIGNS FROM", "PUBLISHED UNTIL"], keys.iter().map(row).collect()))
}

async fn rotate(
    ctx: &Context,
    only: Option<SigningAlgorithm>,
    ahead: Duration,
    compromised: bool,
) -> anyhow::Result<()> {
    let sealing = open_sealing_key(&ctx.config, &ctx.store).await?;
    let rows = ctx.store.registry().await?;
    let now = ctx.now();
    // A key sealed by another key than the server's would keep the server from starting: see that it opens the others.
    Keyring::load(rows.keys.clone(), &sealing, Duration::ZERO, now)?;
    let signs_already = |algorithm| rows.keys.iter().any(|key| key.algorithm == algorithm && key.signs_at(now));
    let successor = |algorithm| {
        let active_at = if signs_already(algorithm) { now.plus(ahead) } else { now };
        generate(algorithm, &sealing, now, active_at)
    };
    let algorithms = SigningAlgorithm::ALL.into_iter().filter(|algorithm| only.is_none_or(|only| only == *algorithm));
    let successors = algorithms.map(successor).collect::<Result<Vec<_>, _>>()?;
    let longest = longest_token(&ctx.config, &rows.resources);
    let mut made = Vec::new();
    for key in successors {
        let retire_at = (!compromised).then(|| key.active_at.plus(longest).plus(MARGIN));
        made.push([
            key.key_id.clone(),
            key.algorithm.as_str().to_owned(),
            key.active_at.to_string(),
            retire_at.filter(|_| signs_already(key.algorithm)).map(|at| at.to_string()).unwrap_or_default(),
        ]);
        ctx.store.rotate_key(key, retire_at, now).await?;
    }
    print(&table(["NEW KID", "ALGORITHM", "SIGNS FROM", "OLD PUBLISHED UNTIL"], made))
}

/// Removes one key with all that it signed; another one signs in its place at once, where none does. The number of the entry in
/// the log.
pub async fn revoke(ctx: &Context, kid: &str) -> anyhow::Result<i64> {
    let now = ctx.now();
    let keys = ctx.store.registry().await?.keys;
    let unknown = || anyhow!("there is no key {kid}; `countersign key list` shows them all");
    let key = keys.iter().find(|key| key.key_id == kid).ok_or_else(unknown)?;
    let sealing = open_sealing_key(&ctx.config, &ctx.store).await?;
    // A key sealed by another key than the server's would keep the server from starting: see that it opens the others.
    Keyring::load(keys.clone(), &sealing, Duration::ZERO, now)?;
    let others = |other: &&SigningKey| other.key_id != kid && other.algorithm == key.algorithm;
    let replaced = keys.iter().filter(others).any(|other| other.signs_at(now));
    let successor = if replaced { None } else { Some(generate(key.algorithm, &sealing, now, now)?) };
    let cause = Reason::KeyRevoked.by(Actor::Operator);
    ctx.store.revoke_key(kid.to_owned(), successor, cause, now).await?.ok_or_else(unknown)
}

/// How long a token signed in a key's last moment lives.
fn longest_token(config: &Config, resources: &[Resource]) -> Duration {
    let configured = config.access_token.lifetime.max(config.id_token.lifetime);
    resources.iter().filter_map(|resource| resource.access_token_lifetime).fold(configured, Duration::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_signs_retires_and_is_gone() {
        let at = UnixTime::from_seconds;
        let key = |id: &str, active_at, expires_at| SigningKey {
            key_id: id.to_owned(),
            algorithm: SigningAlgorithm::Es256,
            public_jwk: Value::Null,
            sealed_private: Vec::new(),
            created_at: at(0),
            active_at,
            expires_at,
        };
        let keys = [
            key("gone", at(0), Some(at(50))),
            key("old", at(10), Some(at(200))),
            key("current", at(20), Some(at(300))),
            key("next", at(150), None),
        ];
        let states = |now| keys.iter().map(|key| state(key, &keys, now)).collect::<Vec<_>>();
        assert_eq!(states(at(100)), ["retired", "retiring", "signing", "coming"]);
        assert_eq!(states(at(150)), ["retired", "retiring", "retiring", "signing"]);
    }
}
