//! Where settings come from and how one setting is read: the file, the environment laid over it, the words for each
//! problem. Knows no key by name; [`super`] owns the keys and what their values may be.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::Value;

const PREFIX: &str = "COUNTERSIGN_";

/// One thing that is wrong, with the place to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `countersign.toml: tls.key` or `COUNTERSIGN_TLS__KEY`.
    place: String,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// A value as it was found. Text from the environment is read as whatever the key wants.
#[derive(Clone)]
pub(super) enum Raw {
    Environment(String),
    File(Value),
}

/// What a parser answers: the value, or why it is none and what would be one.
pub(super) type Parsed<T> = Result<T, String>;

/// Takes known keys one by one from both sources and collects what is wrong with them.
pub(super) struct Reader {
    file_name: String,
    file: BTreeMap<String, Value>,
    environment: BTreeMap<String, String>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
    /// Whether files that are named are judged by what is in them.
    pub reads_files: bool,
}

impl Reader {
    pub fn new(environment: impl Iterator<Item = (String, String)>, reads_files: bool) -> Self {
        Self {
            reads_files,
            file_name: String::new(),
            file: BTreeMap::new(),
            environment: environment.filter(|(name, _)| name.starts_with(PREFIX)).collect(),
            known: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Reads the file; one that is not there is a problem only when it was `asked_for`.
    pub fn open(&mut self, path: &Path, asked_for: bool) {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => self.parse_file(name, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => {}
            Err(error) => self.problems.push(Problem { place: name, text: format!("cannot be read: {error}") }),
        }
    }

    pub fn parse_file(&mut self, name: String, text: &str) {
        match text.parse::<toml::Table>() {
            Ok(table) => flatten(&mut self.file, "", table),
            // Not the error's own `Display`: that prints the offending line, which may hold a key.
            Err(error) => {
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let text = format!("is not TOML: {}", error.message().replace('\n', "; "));
                self.problems.push(Problem { place: format!("{name}: line {line}"), text });
            }
        }
        self.file_name = name;
    }

    pub fn is_set(&self, key: &str) -> bool {
        self.environment.contains_key(&environment_name(key)) || self.file.contains_key(key)
    }

    /// The value of `key`, read by `parse`; the environment wins. A problem is kept and answers `None`.
    pub fn take<T>(&mut self, key: &'static str, parse: impl FnOnce(Raw) -> Parsed<T>) -> Option<T> {
        self.known.push(key);
        let raw = match self.environment.get(&environment_name(key)) {
            Some(text) => Raw::Environment(text.clone()),
            None => Raw::File(self.file.get(key)?.clone()),
        };
        self.keep(key, parse(raw))
    }

    /// The value; or `None`, and the problem is `key`'s.
    pub fn keep<T>(&mut self, key: &str, parsed: Parsed<T>) -> Option<T> {
        parsed.map_err(|text| self.problem(key, text)).ok()
    }

    /// Something is wrong with `key`, which is named as its source names it.
    pub fn problem(&mut self, key: &str, text: impl Into<String>) {
        let name = environment_name(key);
        let place = match (self.environment.contains_key(&name), self.file.contains_key(key)) {
            (true, _) => name,
            (false, false) if self.file.is_empty() => key.to_owned(),
            // There, or missing there.
            (false, _) => format!("{}: {key}", self.file_name),
        };
        self.problems.push(Problem { place, text: text.into() });
    }

    /// Every key that was taken.
    #[cfg(test)]
    pub fn known(&self) -> &[&'static str] {
        &self.known
    }

    #[cfg(test)]
    pub fn file_keys(&self) -> impl Iterator<Item = &String> {
        self.file.keys()
    }

    /// Ends the reading: what nobody took is unknown.
    pub fn finish(mut self) -> Vec<Problem> {
        let known: Vec<String> = self.known.iter().map(|&key| key.to_owned()).collect();
        let names: Vec<String> = self.known.iter().map(|key| environment_name(key)).collect();
        for key in self.file.keys().filter(|key| !known.contains(key)) {
            let place = format!("{}: {key}", self.file_name);
            self.problems.push(Problem { place, text: unknown("key", key, ".", &known) });
        }
        for name in self.environment.keys().filter(|name| !names.contains(name)) {
            let text = unknown("setting", name, "__", &names);
            self.problems.push(Problem { place: name.clone(), text });
        }
        self.problems
    }
}

fn environment_name(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

fn flatten(into: &mut BTreeMap<String, Value>, path: &str, table: toml::Table) {
    for (name, value) in table {
        let key = if path.is_empty() { name } else { format!("{path}.{name}") };
        match value {
            Value::Table(inner) => flatten(into, &key, inner),
            leaf => drop(into.insert(key, leaf)),
        }
    }
}

fn unknown(kind: &str, name: &str, separator: &str, known: &[String]) -> String {
    let section = format!("{name}{separator}");
    let inside: Vec<&str> = known.iter().filter(|key| key.starts_with(&section)).map(String::as_str).collect();
    if !inside.is_empty() {
        return format!("is a section, not a {kind}; it holds {}", inside.join(", "));
    }
    match known.iter().map(|key| (strsim::levenshtein(name, key), key)).min() {
        Some((steps, close)) if steps <= 2.max(name.len() / 6) => {
            format!("there is no such {kind}; did you mean {close}?")
        }
        _ => format!("there is no such {kind}; countersign.example.toml lists them all"),
    }
}

fn wrong_type(value: &Value, wanted: &str) -> String {
    format!("is of type {}; write {wanted}", value.type_str())
}

pub(super) fn text(raw: Raw) -> Parsed<String> {
    match raw {
        Raw::Environment(text) | Raw::File(Value::String(text)) if !text.trim().is_empty() => Ok(text),
        Raw::Environment(_) | Raw::File(Value::String(_)) => Err("is empty; give a value or leave it out".to_owned()),
        Raw::File(other) => Err(wrong_type(&other, "text in quotes")),
    }
}

pub(super) fn boolean(raw: Raw) -> Parsed<bool> {
    match raw {
        Raw::File(Value::Boolean(flag)) => Ok(flag),
        Raw::File(other) => Err(wrong_type(&other, "true or false, without quotes")),
        Raw::Environment(text) => match text.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("{text:?} is neither true nor false")),
        },
    }
}

/// A whole number inside `range`; `T` is wide enough for the range's end.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl FnOnce(Raw) -> Parsed<T>
where
    T: TryFrom<i64> + PartialOrd + fmt::Display,
{
    move |raw| {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let number = match raw {
            Raw::File(Value::Integer(number)) => number,
            Raw::File(other) => return Err(wrong_type(&other, &format!("{wanted}, without quotes"))),
            Raw::Environment(text) => match text.trim().parse() {
                Ok(number) => number,
                Err(_) => return Err(format!("{text:?} is not {wanted}")),
            },
        };
        let inside = T::try_from(number).ok().filter(|number| range.contains(number));
        inside.ok_or_else(|| format!("{number} is not {wanted}"))
    }
}

/// A span of time of whole seconds inside `range`.
pub(super) fn span(range: RangeInclusive<Duration>) -> impl FnOnce(Raw) -> Parsed<Duration> {
    move |raw| {
        let text = match raw {
            Raw::File(other) if !other.is_str() => {
                return Err(wrong_type(&other, r#"a span of time in quotes, such as "10m" or "30d""#));
            }
            raw => text(raw)?,
        };
        let Ok(span) = humantime::parse_duration(text.trim()) else {
            return Err(format!(r#"{text:?} is not a span of time; write one such as "10m" or "30d""#));
        };
        if span.subsec_nanos() != 0 {
            return Err(format!("{text:?} is not a whole number of seconds; write a span such as \"10s\" or \"10m\""));
        }
        if !range.contains(&span) {
            let (least, most) = (short(*range.start()), short(*range.end()));
            return Err(format!(r#"{text:?} is out of bounds; write a span from "{least}" to "{most}""#));
        }
        Ok(span)
    }
}

/// A span as an operator would write it.
pub(super) fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(size, _)| seconds != 0 && seconds.is_multiple_of(*size));
    let (size, name) = unit.unwrap_or((1, "s"));
    format!("{}{name}", seconds / size)
}

/// A list of texts, each read by `parse`; comma-separated in the environment, where an empty value is an empty list.
pub(super) fn list<T>(parse: impl Fn(&str) -> Parsed<T>) -> impl FnOnce(Raw) -> Parsed<Vec<T>> {
    move |raw| match raw {
        Raw::Environment(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(parse).collect(),
        Raw::File(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().ok_or_else(|| wrong_type(item, "each item as text in quotes")).and_then(&parse))
            .collect(),
        Raw::File(other) => Err(wrong_type(&other, r#"a list, such as ["a", "b"]"#)),
    }
}

pub(super) fn path(raw: Raw) -> Parsed<PathBuf> {
    text(raw).map(PathBuf::from)
}

/// The same of a file whose content is judged too, where it is a file: a pipe gives what it holds once.
pub(super) fn judged_file(reads: bool, judge: impl FnOnce(&Path) -> Parsed<()>) -> impl FnOnce(Raw) -> Parsed<PathBuf> {
    move |raw| {
        let path = readable_file(raw)?;
        if reads && path.is_file() {
            judge(&path)?;
        }
        Ok(path)
    }
}

/// The path of a file that is there and that we may read.
pub(super) fn readable_file(raw: Raw) -> Parsed<PathBuf> {
    let path = path(raw)?;
    match std::fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(found) if !found.is_dir() => Ok(path),
        Ok(_) => Err(format!("{} is a directory; name a file", path.display())),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

/// A network, or one address; never everybody.
pub(super) fn network(text: &str) -> Parsed<IpNet> {
    let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let found = text.parse::<IpNet>().ok().or_else(one).ok_or_else(|| {
        format!(r#"{text:?} is neither a network nor an address; write one such as "10.0.0.0/8" or "192.0.2.7""#)
    })?;
    if found.prefix_len() == 0 {
        return Err(format!("{text:?} would trust everybody; name the addresses of the proxies"));
    }
    Ok(found.trunc())
}
