//! Moving to another database: all that one holds at one instant goes into an empty one, in one transaction, and is counted
//! and compared there before the commit. What a table holds is asked of the databases themselves, so that no new table is
//! forgotten.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use diesel::connection::SimpleConnection as _;
use diesel::deserialize::{self, FromSql};
use diesel::pg::Pg;
use diesel::row::{Field as _, NamedRow};
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
use diesel::sqlite::{Sqlite, SqliteType};
use diesel::{QueryableByName, RunQueryDsl as _, sql_query};

use crate::config::DatabaseUrl;
use crate::crypto::opaque::Digest;

use super::conn::{Conn, on_backend};
use super::{SQLITE_MIGRATIONS, StoreError, check_current, lock, open_sqlite_writer, postgres};

/// Rows that are read, and written, at once.
const CHUNK: usize = 200;

/// One table as it arrived.
#[derive(Debug)]
pub struct CopiedTable {
    pub name: String,
    pub rows: u64,
    /// The same on both sides: every row's SHA-256, folded together, in base64url.
    pub digest: String,
}

/// Tables that a new database does not hold empty, or that say nothing about another: the counters are replaced, and leases
/// belong to the servers of the old one.
const REPLACED: &str = "counters";
const LEFT_BEHIND: &str = "leases";
/// Numbers its rows by itself, and never gives a number twice.
const NUMBERED: &str = "revocations";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
    Integer,
    Bool,
}

impl Kind {
    fn of(declared: &str) -> Result<Self, StoreError> {
        match declared.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "blob" | "bytea" => Ok(Self::Binary),
            "bigint" | "integer" => Ok(Self::Integer),
            "boolean" => Ok(Self::Bool),
            other => Err(StoreError::corrupt("column", format!("{other} is no type that we use"))),
        }
    }
}

/// A value as both databases know it; a truth value is 0 or 1.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Null,
    Text(String),
    Binary(Vec<u8>),
    Integer(i64),
}

impl Value {
    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn binary(&self) -> Option<&[u8]> {
        if let Self::Binary(bytes) = self { Some(bytes) } else { None }
    }

    fn integer(&self) -> Option<i64> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }

    fn write(&self, into: &mut Vec<u8>) {
        let (tag, bytes) = match self {
            Self::Null => (0, Vec::new()),
            Self::Text(text) => (1, text.as_bytes().to_vec()),
            Self::Binary(bytes) => (2, bytes.clone()),
            Self::Integer(number) => (3, number.to_le_bytes().to_vec()),
        };
        into.push(tag);
        into.extend((bytes.len() as u64).to_le_bytes());
        into.extend(bytes);
    }
}

/// A row of any table.
struct Record(Vec<Value>);

impl QueryableByName<Sqlite> for Record {
    fn build<'a>(row: &impl NamedRow<'a, Sqlite>) -> deserialize::Result<Self> {
        let fields = (0..row.field_count()).map(|index| {
            let field = diesel::row::Row::get(row, index).ok_or("a column is missing")?;
            let Some(value) = field.value() else { return Ok(Value::Null) };
            match value.value_type() {
                Some(SqliteType::Text) => <String as FromSql<Text, Sqlite>>::from_sql(value).map(Value::Text),
                Some(SqliteType::Binary) => <Vec<u8> as FromSql<Binary, Sqlite>>::from_sql(value).map(Value::Binary),
                Some(_) => <i64 as FromSql<BigInt, Sqlite>>::from_sql(value).map(Value::Integer),
                None => Ok(Value::Null),
            }
        });
        fields.collect::<deserialize::Result<_>>().map(Self)
    }
}

impl QueryableByName<Pg> for Record {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        let fields = (0..row.field_count()).map(|index| {
            let field = diesel::row::Row::get(row, index).ok_or("a column is missing")?;
            let Some(value) = field.value() else { return Ok(Value::Null) };
            // The numbers of PostgreSQL's own types never change.
            match value.get_oid().get() {
                16 => <bool as FromSql<Bool, Pg>>::from_sql(value).map(|truth| Value::Integer(truth.into())),
                17 => <Vec<u8> as FromSql<Binary, Pg>>::from_sql(value).map(Value::Binary),
                20 => <i64 as FromSql<BigInt, Pg>>::from_sql(value).map(Value::Integer),
                25 => <String as FromSql<Text, Pg>>::from_sql(value).map(Value::Text),
                other => Err(format!("a column of type {other}").into()),
            }
        });
        fields.collect::<deserialize::Result<_>>().map(Self)
    }
}

/// Binds values by the kinds of their columns and runs the statement.
macro_rules! with_values {
    ($conn:expr, $text:expr, $values:expr, |$query:ident, $c:ident| $run:expr) => {
        on_backend!($conn, |$c| {
            let mut $query = sql_query($text).into_boxed();
            for (kind, value) in $values {
                $query = match kind {
                    Kind::Text => $query.bind::<Nullable<Text>, _>(value.text()),
                    Kind::Binary => $query.bind::<Nullable<Binary>, _>(value.binary()),
                    Kind::Integer => $query.bind::<Nullable<BigInt>, _>(value.integer()),
                    Kind::Bool => $query.bind::<Nullable<Bool>, _>(value.integer().map(|number| number != 0)),
                };
            }
            $run
        })
        .map_err(StoreError::operation("copying"))
    };
}

fn load(conn: &mut Conn, text: &str, values: &[(Kind, Value)]) -> Result<Vec<Vec<Value>>, StoreError> {
    let rows: Vec<Record> = with_values!(conn, text, values, |query, c| query.load(c))?;
    Ok(rows.into_iter().map(|record| record.0).collect())
}

fn batch(conn: &mut Conn, text: &str) -> Result<(), StoreError> {
    on_backend!(conn, |c| c.batch_execute(text)).map_err(StoreError::operation("copying"))
}

/// The texts of the first column.
fn names(conn: &mut Conn, text: &str, values: &[(Kind, Value)]) -> Result<Vec<String>, StoreError> {
    let rows = load(conn, text, values)?;
    Ok(rows.iter().filter_map(|row| row.first()?.text().map(str::to_owned)).collect())
}

#[derive(Debug, PartialEq, Eq)]
struct Column {
    name: String,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
struct Table {
    name: String,
    /// In alphabetical order, in which no migration differs.
    columns: Vec<Column>,
    /// The places of the primary key's columns among them.
    key: Vec<usize>,
}

/// What the databases say of themselves: their tables, the columns of one (name, type, place in the key), and the tables that
/// one refers to.
fn catalogue(conn: &Conn) -> [&'static str; 3] {
    match conn {
        Conn::Sqlite(_) => [
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
             AND name <> '__diesel_schema_migrations'",
            "SELECT name, type, pk FROM pragma_table_info($1)",
            "SELECT DISTINCT \"table\" FROM pragma_foreign_key_list($1)",
        ],
        Conn::Pg(_) => [
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema() \
             AND table_type = 'BASE TABLE' AND table_name <> '__diesel_schema_migrations'",
            "SELECT attname::text, format_type(atttypid, NULL)::text, \
             coalesce(array_position(indkey::int2[], attnum) + 1, 0)::bigint FROM pg_attribute \
             LEFT JOIN pg_index ON indrelid = attrelid AND indisprimary \
             WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
            "SELECT DISTINCT confrelid::regclass::text FROM pg_constraint WHERE contype = 'f' \
             AND conrelid = $1::regclass",
        ],
    }
}

/// The tables, each after those that it refers to.
fn tables(conn: &mut Conn) -> Result<Vec<Table>, StoreError> {
    let [all, columns, parents] = catalogue(conn);
    let mut waiting = names(conn, all, &[])?;
    waiting.retain(|name| name != LEFT_BEHIND);
    waiting.sort();
    let mut tables: Vec<Table> = Vec::new();
    while !waiting.is_empty() {
        let before = waiting.len();
        for name in std::mem::take(&mut waiting) {
            let this = [(Kind::Text, Value::Text(name.clone()))];
            let above = names(conn, parents, &this)?;
            if above.iter().all(|parent| *parent == name || tables.iter().any(|table| table.name == *parent)) {
                tables.push(table(name, load(conn, columns, &this)?)?);
            } else {
                waiting.push(name);
            }
        }
        if waiting.len() == before {
            return Err(StoreError::corrupt("schema", format!("{waiting:?} refer to each other")));
        }
    }
    Ok(tables)
}

fn table(name: String, described: Vec<Vec<Value>>) -> Result<Table, StoreError> {
    let mut columns = Vec::new();
    for row in described {
        let [Value::Text(column), Value::Text(declared), Value::Integer(place)] = row.as_slice() else {
            return Err(StoreError::corrupt("schema", format!("{row:?}")));
        };
        columns.push((Column { name: column.clone(), kind: Kind::of(declared)? }, *place));
    }
    columns.sort_by(|one, other| one.0.name.cmp(&other.0.name));
    let mut key: Vec<(i64, usize)> =
        columns.iter().enumerate().map(|(index, column)| (column.1, index)).filter(|(place, _)| *place > 0).collect();
    key.sort_unstable();
    Ok(Table {
        name,
        key: key.into_iter().map(|(_, index)| index).collect(),
        columns: columns.into_iter().map(|(column, _)| column).collect(),
    })
}

/// The values of some of a row's columns, with their kinds.
fn pick(table: &Table, row: &[Value], places: &[usize]) -> Vec<(Kind, Value)> {
    let one = |place: &usize| Some((table.columns.get(*place)?.kind, row.get(*place)?.clone()));
    places.iter().filter_map(one).collect()
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn quoted(table: &Table, places: impl Iterator<Item = usize>) -> String {
    list(places.filter_map(|place| table.columns.get(place)).map(|column| format!("\"{}\"", column.name)))
}

/// Hands out a table's rows, some at a time, in the order of its key.
fn read(
    conn: &mut Conn,
    table: &Table,
    each: &mut dyn FnMut(Vec<Vec<Value>>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let columns = quoted(table, 0..table.columns.len());
    let key = quoted(table, table.key.iter().copied());
    let places = list((1..=table.key.len()).map(|number| format!("${number}")));
    let mut after: Option<Vec<(Kind, Value)>> = None;
    loop {
        let condition = if after.is_some() { format!("WHERE ({key}) > ({places})") } else { String::new() };
        let text = format!("SELECT {columns} FROM \"{}\" {condition} ORDER BY {key} LIMIT {CHUNK}", table.name);
        let rows = load(conn, &text, after.as_deref().unwrap_or_default())?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some(pick(table, last, &table.key));
        let is_last = rows.len() < CHUNK;
        each(rows)?;
        if is_last {
            return Ok(());
        }
    }
}

fn insert(conn: &mut Conn, table: &Table, rows: Vec<Vec<Value>>) -> Result<(), StoreError> {
    let width = table.columns.len();
    // SQLite takes `$1` for a name and looks for it among all the names before it.
    let place = |number: usize| if matches!(conn, Conn::Pg(_)) { format!("${number}") } else { "?".to_owned() };
    let row = |number: usize| format!("({})", list((1..=width).map(|column| place(number * width + column))));
    // A number that PostgreSQL would make itself is kept.
    let kept = if matches!(conn, Conn::Pg(_)) { "OVERRIDING SYSTEM VALUE" } else { "" };
    let text = format!(
        "INSERT INTO \"{}\" ({}) {kept} VALUES {}",
        table.name,
        quoted(table, 0..width),
        list((0..rows.len()).map(row))
    );
    let kinds = table.columns.iter().map(|column| column.kind).cycle();
    let values: Vec<(Kind, Value)> = kinds.zip(rows.into_iter().flatten()).collect();
    with_values!(conn, text, &values, |query, c| query.execute(c)).map(drop)
}

/// Counts rows and folds their digests; the order in which they come makes no difference.
#[derive(Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    digest: [u8; 32],
}

impl Sum {
    fn add(&mut self, rows: &[Vec<Value>]) {
        for row in rows {
            let mut bytes = Vec::new();
            for value in row {
                value.write(&mut bytes);
            }
            for (folded, byte) in self.digest.iter_mut().zip(Digest::of(&bytes).as_bytes()) {
                *folded ^= byte;
            }
            self.rows += 1;
        }
    }
}

/// The last number that was given to a revocation, which its row may not outlive.
fn last_number(conn: &mut Conn) -> Result<i64, StoreError> {
    let text = match conn {
        Conn::Sqlite(_) => format!("SELECT seq FROM sqlite_sequence WHERE name = '{NUMBERED}'"),
        Conn::Pg(_) => format!(
            "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('{NUMBERED}', 'sequence')::regclass), \
             0)::bigint"
        ),
    };
    Ok(load(conn, &text, &[])?.first().and_then(|row| row.first()?.integer()).unwrap_or(0))
}

fn set_last_number(conn: &mut Conn, number: i64) -> Result<(), StoreError> {
    if number == 0 {
        return Ok(());
    }
    let text = match conn {
        Conn::Sqlite(_) => format!(
            "DELETE FROM sqlite_sequence WHERE name = '{NUMBERED}'; \
             INSERT INTO sqlite_sequence (name, seq) VALUES ('{NUMBERED}', {number})"
        ),
        Conn::Pg(_) => format!("SELECT setval(pg_get_serial_sequence('{NUMBERED}', 'sequence'), {number})"),
    };
    batch(conn, &text)
}

/// Copies everything. `tell` is called as it goes on, with a table and how many of its rows are there. On an error the target
/// is as empty as before.
///
/// # Errors
/// When one of the two cannot be opened, a server runs on one of them as far as that can be known, the source is not of this
/// version, the target holds something, or what arrived differs.
pub fn copy(
    from: &DatabaseUrl,
    to: &DatabaseUrl,
    mut tell: impl FnMut(&str, u64),
) -> Result<Vec<CopiedTable>, StoreError> {
    let mut held = Vec::new();
    for url in [from, to] {
        if let DatabaseUrl::Sqlite(path) = url {
            if std::ptr::eq(url, from) && !path.exists() {
                return Err(StoreError::NoDatabase(path.clone()));
            }
            held.push(lock(path, "serve", false)?);
        }
    }
    let mut source = open_source(from)?;
    let mut target = open_target(to)?;
    let tables = tables(&mut source)?;
    if tables != self::tables(&mut target)? {
        return Err(StoreError::corrupt("schema", "the two databases have different tables"));
    }
    for table in tables.iter().filter(|table| table.name != REPLACED) {
        let first = format!("SELECT CAST(1 AS bigint) FROM \"{}\" LIMIT 1", table.name);
        if !load(&mut target, &first, &[])?.is_empty() {
            return Err(StoreError::NotEmpty(table.name.clone()));
        }
    }
    batch(&mut target, &format!("DELETE FROM {REPLACED}"))?;
    let mut copied = Vec::new();
    for table in &tables {
        let mut sent = Sum::default();
        read(&mut source, table, &mut |rows| {
            sent.add(&rows);
            insert(&mut target, table, rows)?;
            tell(&table.name, sent.rows);
            Ok(())
        })?;
        let mut arrived = Sum::default();
        read(&mut target, table, &mut |rows| {
            arrived.add(&rows);
            Ok(())
        })?;
        if sent != arrived {
            return Err(StoreError::Differs(table.name.clone()));
        }
        let digest = URL_SAFE_NO_PAD.encode(sent.digest);
        copied.push(CopiedTable { name: table.name.clone(), rows: sent.rows, digest });
    }
    let number = last_number(&mut source)?;
    set_last_number(&mut target, number)?;
    batch(&mut target, "COMMIT")?;
    drop(held);
    Ok(copied)
}

/// In a transaction that sees one instant.
fn open_source(url: &DatabaseUrl) -> Result<Conn, StoreError> {
    let mut conn = match url {
        DatabaseUrl::Sqlite(path) => Conn::open_sqlite(&path.to_string_lossy())?,
        DatabaseUrl::Postgres(settings) => Conn::Pg(postgres::open(settings)?),
    };
    match &mut conn {
        Conn::Sqlite(conn) => check_current(conn, &SQLITE_MIGRATIONS)?,
        Conn::Pg(conn) => check_current(conn, &postgres::MIGRATIONS)?,
    }
    match url {
        DatabaseUrl::Sqlite(_) => batch(&mut conn, "BEGIN")?,
        DatabaseUrl::Postgres(_) => batch(
            &mut conn,
            "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
             BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        )?,
    }
    Ok(conn)
}

fn open_target(url: &DatabaseUrl) -> Result<Conn, StoreError> {
    match url {
        DatabaseUrl::Sqlite(path) => {
            let mut conn = open_sqlite_writer(path)?;
            batch(&mut conn, "BEGIN IMMEDIATE")?;
            Ok(conn)
        }
        DatabaseUrl::Postgres(settings) => {
            postgres::prepare(settings)?;
            let mut conn = Conn::Pg(postgres::open(settings)?);
            batch(&mut conn, "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; BEGIN")?;
            Ok(conn)
        }
    }
}
