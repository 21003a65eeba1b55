//! `user import`: people of another system, with their password hashes. All of them, or none and a line for each problem.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use countersign::clock::UnixTime;
use countersign::crypto::foreign;
use countersign::domain::ids::UserId;
use countersign::domain::user::{User, check_claims, check_email, check_name, normal_name};
use countersign::store::NewUser;
use serde_json::{Map, Value};

use super::Context;
use super::terminal::{Problems, print, read_all};

/// Half a million people.
const MAX_FILE: u64 = 512 * 1024 * 1024;
/// So many problems are told.
const MOST_TOLD: usize = 100;

pub async fn import(ctx: &Context, file: &Path) -> anyhow::Result<()> {
    let bytes = read_all(file, MAX_FILE)?;
    let now = ctx.now();
    let (mut people, mut problems, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    for (place, value) in rows(&bytes)? {
        match value.and_then(|value| person(&value, now)) {
            Ok(new) if !names.insert(normal_name(&new.user.username)) => {
                problems.push(format!("{place}: the name {:?} stands in the file twice", new.user.username));
            }
            Ok(new) => people.push(new),
            Err(why) => problems.push(format!("{place}: {why}")),
        }
    }
    if people.is_empty() && problems.is_empty() {
        bail!("there is nobody in {}", file.display());
    }
    if problems.is_empty() {
        let count = people.len();
        let taken = ctx.store.import_users(people).await?;
        if taken.is_empty() {
            return print(&format!("Imported {count} users."));
        }
        problems = taken.iter().map(|name| format!("there is a user {name} already")).collect();
    }
    let more = problems.len().saturating_sub(MOST_TOLD);
    problems.truncate(MOST_TOLD);
    if more > 0 {
        problems.push(format!("and {more} problems more"));
    }
    problems.push("nobody was imported; mend these and run it again".to_owned());
    Err(Problems(problems).into())
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
        Some(Value::Object(claims)) => claims.clone(),
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
