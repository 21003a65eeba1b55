//! Rotations in bare SQLite: rows and indexes like the server's, prepared statements, WAL, `synchronous=FULL`.

use std::path::Path;

use anyhow::{Context, Result};
use diesel::connection::SimpleConnection;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Text};
use diesel::sqlite::Sqlite;
use diesel::{Connection, QueryResult, RunQueryDsl, SqliteConnection};
use sha2::{Digest as _, Sha256};

/// Enough living grants that they do not all sit in a few pages.
const GRANTS: u64 = 20_000;

pub struct Store {
    connection: SqliteConnection,
    /// How often each grant was rotated: its living token is `digest(grant, age)`.
    ages: Vec<u64>,
    turn: u64,
}

impl Store {
    pub fn create(path: &Path) -> Result<Self> {
        let mut connection = SqliteConnection::establish(path.to_str().context("path")?)?;
        connection.batch_execute(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             CREATE TABLE grants (
                 grant_id TEXT NOT NULL PRIMARY KEY,
                 handle_digest BLOB NOT NULL UNIQUE,
                 client_id TEXT NOT NULL,
                 user_id TEXT NOT NULL,
                 session_id TEXT NOT NULL,
                 scope TEXT NOT NULL,
                 is_offline BOOLEAN NOT NULL,
                 details TEXT NOT NULL,
                 auth_time BIGINT NOT NULL,
                 acr TEXT NOT NULL,
                 amr TEXT NOT NULL,
                 created_at BIGINT NOT NULL,
                 code_digest BLOB NOT NULL,
                 code_binding BLOB NOT NULL,
                 code_expires_at BIGINT NOT NULL,
                 code_consumed_at BIGINT,
                 refresh_digest BLOB,
                 previous_refresh_digest BLOB,
                 rotated_at BIGINT,
                 refresh_expires_at BIGINT,
                 expires_at BIGINT NOT NULL,
                 revoked_at BIGINT
             );
             CREATE INDEX grants_client_id ON grants (client_id);
             CREATE INDEX grants_user_id ON grants (user_id);
             CREATE INDEX grants_session_id ON grants (session_id);
             CREATE INDEX grants_expires_at ON grants (expires_at);
             CREATE TABLE refresh_tokens (
                 digest BLOB NOT NULL PRIMARY KEY,
                 grant_id TEXT NOT NULL REFERENCES grants (grant_id),
                 issued_at BIGINT NOT NULL,
                 expires_at BIGINT NOT NULL,
                 consumed_at BIGINT
             );
             CREATE INDEX refresh_tokens_grant_id ON refresh_tokens (grant_id);
             CREATE INDEX refresh_tokens_expires_at ON refresh_tokens (expires_at);
             CREATE TABLE commits (only INTEGER PRIMARY KEY, value BIGINT NOT NULL);
             INSERT INTO commits VALUES (1, 0);
             BEGIN",
        )?;
        for grant in 0..GRANTS {
            InsertGrant { grant_id: grant_id(grant), handle: handle(grant), refresh: digest(grant, 0) }
                .execute(&mut connection)?;
            insert(grant, 0).execute(&mut connection)?;
        }
        connection.batch_execute("COMMIT")?;
        Ok(Self { connection, ages: vec![0; usize::try_from(GRANTS)?], turn: 0 })
    }

    /// One durable commit of one small row.
    pub fn commit_small(&mut self) -> Result<u64> {
        self.connection.batch_execute("UPDATE commits SET value = value + 1 WHERE only = 1")?;
        Ok(1)
    }

    /// `group` rotations in one commit, each overwriting the digest in its grant's row, as the server does.
    pub fn rotate_in_place(&mut self, group: usize) -> Result<u64> {
        self.in_group(group, |connection, grant, age| {
            let rotate = Rotate { next: digest(grant, age + 1), handle: handle(grant), spent: digest(grant, age) };
            let _: (Vec<u8>, String, String, String) = rotate.get_result(connection)?;
            Ok(())
        })
    }

    /// `group` rotations in one commit, each marking its row as spent and inserting the next.
    pub fn rotate_into_new_row(&mut self, group: usize) -> Result<u64> {
        self.in_group(group, |connection, grant, age| {
            let _: (Vec<u8>, String) = Consume { digest: digest(grant, age) }.get_result(connection)?;
            insert(grant, age + 1).execute(connection)?;
            Ok(())
        })
    }

    /// After this the living tokens are `digest(grant, 0)` again, in whichever table is rotated next.
    pub fn start_over(&mut self) {
        self.ages.fill(0);
    }

    /// One read by the primary key.
    pub fn read(&mut self) -> Result<u64> {
        let (grant, _) = self.next_grant()?;
        let _: (Vec<u8>, String) = Find { grant_id: grant_id(grant) }.get_result(&mut self.connection)?;
        Ok(1)
    }

    fn in_group(
        &mut self,
        group: usize,
        mut rotate: impl FnMut(&mut SqliteConnection, u64, u64) -> QueryResult<()>,
    ) -> Result<u64> {
        self.connection.batch_execute("BEGIN IMMEDIATE")?;
        for _ in 0..group {
            let (grant, age) = self.next_grant()?;
            let spent = *age;
            *age += 1;
            rotate(&mut self.connection, grant, spent)?;
        }
        self.connection.batch_execute("COMMIT")?;
        Ok(u64::try_from(group)?)
    }

    fn next_grant(&mut self) -> Result<(u64, &mut u64)> {
        self.turn += 1;
        // A prime step visits the grants in scattered order.
        let grant = self.turn * 7_919 % GRANTS;
        Ok((grant, self.ages.get_mut(usize::try_from(grant)?).context("grant")?))
    }
}

/// A statement with a fixed text, so that diesel prepares it once.
macro_rules! statement {
    ($name:ident -> $row:ty { $($field:ident: $kind:ty),+ }, $($piece:expr $(, $bind:ident: $sql_type:ty)?);+) => {
        #[derive(QueryId)]
        struct $name { $($field: $kind),+ }
        impl Query for $name {
            type SqlType = $row;
        }
        impl RunQueryDsl<SqliteConnection> for $name {}
        impl QueryFragment<Sqlite> for $name {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
                $(
                    out.push_sql($piece);
                    $(out.push_bind_param::<$sql_type, _>(&self.$bind)?;)?
                )+
                Ok(())
            }
        }
    };
}

statement!(Rotate -> (Binary, Text, Text, Text) { next: Vec<u8>, handle: Vec<u8>, spent: Vec<u8> },
    "UPDATE grants SET rotated_at = 1700000000000, refresh_expires_at = 1702592000000, \
     previous_refresh_digest = refresh_digest, refresh_digest = ", next: Binary;
    " WHERE handle_digest = ", handle: Binary;
    " AND client_id = '0190d1b8-5f3c-7a6e-9c1d-2b3a4c5d6e81' AND revoked_at IS NULL AND expires_at > 1700000000000 \
     AND refresh_expires_at > 1700000000000 AND refresh_digest = ", spent: Binary;
    " RETURNING handle_digest, user_id, scope, details");

statement!(Consume -> (Binary, Text) { digest: Vec<u8> },
    "UPDATE refresh_tokens SET consumed_at = 1700000000000 WHERE digest = ", digest: Binary;
    " AND consumed_at IS NULL AND expires_at > 1700000000000 RETURNING digest, grant_id");

statement!(Find -> (Binary, Text) { grant_id: String },
    "SELECT handle_digest, scope FROM grants WHERE grant_id = ", grant_id: Text;
    " AND expires_at > 1700000000000");

statement!(Insert -> () { digest: Vec<u8>, grant_id: String, expires_at: i64 },
    "INSERT INTO refresh_tokens (issued_at, digest, grant_id, expires_at) VALUES (1700000000000, ", digest: Binary;
    ", ", grant_id: Text;
    ", ", expires_at: BigInt;
    ")");

statement!(InsertGrant -> () { grant_id: String, handle: Vec<u8>, refresh: Vec<u8> },
    "INSERT INTO grants (client_id, user_id, session_id, scope, is_offline, details, auth_time, acr, amr, created_at, \
     code_digest, code_binding, code_expires_at, code_consumed_at, refresh_expires_at, expires_at, \
     grant_id, handle_digest, refresh_digest) VALUES ('0190d1b8-5f3c-7a6e-9c1d-2b3a4c5d6e81', \
     '0190d1b8-5f3c-7a6e-9c1d-2b3a4c5d6e7f', '0190d1b8-5f3c-7a6e-9c1d-2b3a4c5d6e80', \
     'openid profile email offline_access', TRUE, '{\"nonce\":\"a-nonce-of-the-usual-length\"}', 1700000000000, \
     'urn:countersign:password', 'pwd', 1700000000000, zeroblob(32), zeroblob(32), 1700000060000, 1700000001000, \
     1702592000000, 1707776000000, ", grant_id: Text;
    ", ", handle: Binary;
    ", ", refresh: Binary;
    ")");

fn insert(grant: u64, age: u64) -> Insert {
    let expires_at = 1_702_592_000_000 + i64::try_from(age).unwrap_or_default();
    Insert { digest: digest(grant, age), grant_id: grant_id(grant), expires_at }
}

/// As long as a UUID, and growing with time as the server's do.
fn grant_id(grant: u64) -> String {
    format!("{grant:036}")
}

fn handle(grant: u64) -> Vec<u8> {
    digest(grant, u64::MAX)
}

fn digest(grant: u64, age: u64) -> Vec<u8> {
    Sha256::digest([grant.to_be_bytes(), age.to_be_bytes()].concat()).to_vec()
}
