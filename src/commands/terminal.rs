//! What the commands read and how they write: JSON and passwords in, plain columns and JSON out. Results go to standard
//! output, everything else to standard error.

use std::io::{BufRead as _, ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use countersign::config::ConfigErrors;
use secrecy::SecretString;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// More is not one object of metadata or claims.
const MAX_JSON: u64 = 1024 * 1024;
/// Longer than what is asked for.
const MAX_LINE: u64 = 1024;
/// The longest password is shorter in any spelling of it.
const MAX_PASSWORD_BYTES: u64 = 4096;

/// Writes a result that somebody waits for.
pub fn deliver(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("writing to standard output")
}

/// Writes a result; whoever has closed the pipe (`| head`) has seen enough.
pub fn print(text: &str) -> anyhow::Result<()> {
    match deliver(text) {
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => {
            Ok(())
        }
        done => done,
    }
}

pub fn print_json(value: &Value) -> anyhow::Result<()> {
    print(&pretty(value))
}

/// JSON over several lines.
pub fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

pub fn warn(text: &str) {
    say(&format!("warning: {}", printable(text)));
}

pub fn note(text: &str) {
    say(&format!("note: {}", printable(text)));
}

/// Says what went wrong: a line for each problem, its causes behind it.
pub fn complain(error: &anyhow::Error) {
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        errors.problems().iter().for_each(|problem| say_error(&problem.to_string()));
    } else if let Some(Problems(problems)) = error.downcast_ref::<Problems>() {
        for problem in problems {
            say_error(problem);
        }
    } else {
        say_error(&chain(error));
    }
}

/// Several things that are wrong, a line for each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Problems(pub Vec<String>);

fn say_error(text: &str) {
    say(&format!("error: {}", printable(text)));
}

/// Nobody is left to tell when standard error is closed.
fn say(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// The error and its causes. Some errors repeat their cause in their own words; those say it once.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match line.as_str() {
        "" => cause,
        said if said.ends_with(&cause) => line,
        said => format!("{said}: {cause}"),
    })
}

/// Text of others on a terminal: control characters, which could rewrite what stands there, are spelled out.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Aligned columns under their names.
pub fn table<const N: usize>(names: [&str; N], rows: Vec<[String; N]>) -> String {
    let head = names.map(str::to_owned);
    let rows: Vec<[String; N]> =
        std::iter::once(head).chain(rows).map(|row| row.map(|cell| printable(&cell))).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One named value a line, aligned.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}", printable(value));
    fields.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// All of a file, or of standard input for `-`.
pub fn read_all(source: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let from_stdin = source.as_os_str() == "-";
    let name = name_of(source);
    let mut bytes = Vec::new();
    let read = if from_stdin {
        std::io::stdin().lock().take(most + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(source).and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
    };
    let length = read.with_context(|| format!("{name} cannot be read"))?;
    if u64::try_from(length).unwrap_or(u64::MAX) > most {
        bail!("{name} is larger than {most} bytes");
    }
    Ok(bytes)
}

fn name_of(source: &Path) -> String {
    if source.as_os_str() == "-" { "standard input".to_owned() } else { source.display().to_string() }
}

/// The JSON object in a file, or on standard input for `-`.
pub fn read_object(source: &Path) -> anyhow::Result<Map<String, Value>> {
    let (name, bytes) = (name_of(source), read_all(source, MAX_JSON)?);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        bail!("{name} is empty; a JSON object belongs there");
    }
    match serde_json::from_slice(&bytes).map_err(|error| anyhow!("{name} is not JSON: {error}"))? {
        Value::Object(members) => Ok(members),
        _ => bail!(r#"{name} holds JSON, but no object; it must be of the form {{"name": value}}"#),
    }
}

/// One line of standard input.
pub fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().take(MAX_LINE).read_line(&mut line).context("reading standard input")?;
    Ok(line)
}

/// A new password from standard input.
pub fn read_password() -> anyhow::Result<SecretString> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        bail!(
            "--password-stdin reads the password from a pipe, for a terminal would show it; \
             for example: read -rs P; printf %s \"$P\" | countersign …"
        );
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let read = stdin.lock().take(MAX_PASSWORD_BYTES).read_to_end(&mut bytes);
    read.context("reading the password from standard input")?;
    let text = std::str::from_utf8(&bytes).map_err(|_utf8| anyhow!("the password must be UTF-8 text"))?;
    parse_password(text).map_err(anyhow::Error::msg)
}

/// One line, its end taken off. What kind of password it may be is judged elsewhere.
fn parse_password(line: &str) -> Result<SecretString, String> {
    let text = line.strip_suffix('\n').unwrap_or(line);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.contains('\n') {
        return Err("standard input has more than one line; give the password alone".to_owned());
    }
    if text.is_empty() {
        return Err("standard input is empty; the password belongs there".to_owned());
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn columns_align_and_nobody_writes_to_the_terminal_but_us() {
        let rows = vec![["a\u{1b}[2J".to_owned(), "x".to_owned()], ["ä".to_owned(), "y".to_owned()]];
        assert_eq!(table(["NAME", "ID"], rows), "NAME        ID\na\\u{1b}[2J  x\nä           y");
        assert_eq!(fields(&[("id", "1".to_owned()), ("name", "x\ny".to_owned())]), "id    1\nname  x\\ny");
    }

    #[test]
    fn a_cause_is_said_once() {
        let inner = std::io::Error::other("disk full");
        assert_eq!(
            chain(&anyhow::Error::new(inner).context("x.db: disk full").context("opening")),
            "opening: x.db: disk full"
        );
    }

    #[test]
    fn s71_a_password_is_one_line() {
        let read = |line: &str| parse_password(line).map(|password| password.expose_secret().to_owned());
        assert_eq!(read("pass word\n").unwrap(), "pass word");
        assert_eq!(read(" pass word \r\n").unwrap(), " pass word ");
        for bad in ["", "\n", "one line\nanother line"] {
            let complaint = read(bad).unwrap_err();
            assert!(bad.trim().is_empty() || !complaint.contains(bad.trim()), "{complaint}");
        }
    }
}
