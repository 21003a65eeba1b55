//! `user import`: people of another system, with their password hashes. All of them, or none and a line for each problem.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use countersign::clock::UnixTime;
use countersign::crypto::foreign;
use countersign::domain::ids::UserId;
use countersign::domain::user::{User, check_claims, check_email, check_name, normal_email, normal_name};
use countersign::store::NewUser;
use serde_json::{Map, Value};

use super::Context;
use super::terminal::{Problems, print, read_all, warn};

/// Half a million people.
const MAX_FILE: u64 = 512 * 1024 * 1024;
/// So many problems are told.
const MOST_TOLD: usize = 100;

/// Somebody to import, and where they stand in the file.
struct Entry {
    index: usize,
    place: String,
    new: NewUser,
}

pub async fn import(ctx: &Context, file: &Path) -> anyhow::Result<()> {
    let bytes = read_all(file, MAX_FILE)?;
    let now = ctx.now();
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for (index, (place, value)) in rows(&bytes)?.into_iter().enumerate() {
        match value.and_then(|value| person(&value, now)) {
            Ok(new) => entries.push(Entry { index, place, new }),
            Err(why) => problems.push((index, format!("{place}: {why}"))),
        }
    }
    if entries.is_empty() && problems.is_empty() {
        bail!("there is nobody in {}", file.display());
    }
    problems.extend(taken_names(ctx, &entries).await?);
    problems.sort_by_key(|(index, _)| *index);
    let mut problems: Vec<String> = problems.into_iter().map(|(_, problem)| problem).collect();
    let mut shared = shared_addresses(ctx, &entries).await?;
    shorten(&mut shared, "more addresses that are shared");
    for line in &shared {
        warn(line);
    }
    if problems.is_empty() {
        let count = entries.len();
        let taken = ctx.store.import_users(entries.into_iter().map(|entry| entry.new).collect()).await?;
        if taken.is_empty() {
            return print(&format!("Imported {count} users."));
        }
        problems = taken.iter().map(|name| format!("there is a user {name} already")).collect();
    }
    shorten(&mut problems, "problems more");
    problems.push("nobody was imported; mend these and run it again".to_owned());
    Err(Problems(problems).into())
}

fn shorten(lines: &mut Vec<String>, of_what: &str) {
    let more = lines.len().saturating_sub(MOST_TOLD);
    lines.truncate(MOST_TOLD);
    if more > 0 {
        lines.push(format!("and {more} {of_what}"));
    }
}

/// Names that somebody has, or that stand in the file twice. Looked for before anybody is stored, to tell all that is wrong
/// at once; storing them looks again.
async fn taken_names(ctx: &Context, entries: &[Entry]) -> anyhow::Result<Vec<(usize, String)>> {
    let name = |entry: &Entry| normal_name(&entry.new.user.username);
    let known = ctx.store.known_names(entries.iter().map(name).collect()).await?;
    let mut first = HashMap::new();
    let mut problems = Vec::new();
    for entry in entries {
        let (name, Entry { index, place, new }) = (name(entry), entry);
        let username = &new.user.username;
        if known.contains(&name) {
            problems.push((*index, format!("{place}: there is a user {username} already")));
        }
        if let Some(first) = first.get(&name) {
            problems.push((*index, format!("{place}: the name {username:?} stands in {first} too")));
        } else {
            first.insert(name, place);
        }
    }
    Ok(problems)
}

/// Addresses that somebody has, or that stand in the file twice: two people may share one, which is worth a warning.
async fn shared_addresses(ctx: &Context, entries: &[Entry]) -> anyhow::Result<Vec<String>> {
    let address = |entry: &Entry| entry.new.user.email.as_deref().map(normal_email);
    let known = ctx.store.known_emails(entries.iter().filter_map(address).collect()).await?;
    let mut first = HashMap::new();
    let mut shared = Vec::new();
    for entry in entries {
        let Some(email) = address(entry) else { continue };
        let (place, given) = (&entry.place, entry.new.user.email.as_deref().unwrap_or_default());
        if known.contains(&email) {
            shared.push(format!("{place}: another user has the e-mail address {given} already"));
        }
        if let Some(first) = first.get(&email) {
            shared.push(format!("{place}: the e-mail address {given} stands in {first} too"));
        } else {
            first.insert(email, place);
        }
    }
    Ok(shared)
}

type Row = (String, Result<Value, String>);

/// The objects of the file, each with the place to find it.
fn rows(bytes: &[u8]) -> anyhow::Result<Vec<Row>> {
    let text = std::str::from_utf8(bytes).context("the file is not UTF-8 text")?;
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('[') {
        let all: Vec<Value> =
            serde_json::from_str(text).map_err(|error| anyhow!("the file is not a JSON array: {error}"))?;
        return Ok(all
            .into_iter()
            .enumerate()
            .map(|(index, value)| (format!("entry {}", index + 1), Ok(value)))
            .collect());
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    // Not the error's own words on the line: there may be a hash in it.
    let parse =
        |line: &str| serde_json::from_str(line).map_err(|error| format!("is not JSON (column {})", error.column()));
    Ok(lines.map(|(index, line)| (format!("line {}", index + 1), parse(line))).collect())
}

fn person(value: &Value, now: UnixTime) -> Result<NewUser, String> {
    const KEYS: [&str; 7] = ["username", "email", "email_verified", "admin", "disabled", "claims", "password_hash"];
    let object = value.as_object().ok_or("is not a JSON object")?;
    if let Some(unknown) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("{unknown:?} is unknown; there are {}", KEYS.join(", ")));
    }
    let text = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
        Some(_) => Err(format!("{key} is not text")),
    };
    let flag = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(format!("{key} is neither true nor false")),
    };
    let username = text("username")?.ok_or("has no username")?;
    check_name(&username)?;
    let email = text("email")?;
    email.as_deref().map_or(Ok(()), check_email)?;
    let claims = match object.get("claims") {
        None | Some(Value::Null) => Map::new(),
        // Null is the same as nothing.
        Some(Value::Object(claims)) => {
            claims.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
        Some(_) => return Err("claims is not a JSON object".to_owned()),
    };
    check_claims(&claims)?;
    let password_hash = match object.get("password_hash") {
        None | Some(Value::Null) => None,
        Some(hash) => Some(foreign::import(hash).map_err(|why| format!("password_hash {why}"))?),
    };
    let user = User {
        id: UserId::random(),
        username,
        email_verified: flag("email_verified")? && email.is_some(),
        email,
        is_admin: flag("admin")?,
        claims,
        disabled_at: flag("disabled")?.then_some(now),
        created_at: now,
        updated_at: now,
        has_second_factor: false,
    };
    Ok(NewUser { user, password_hash })
}
