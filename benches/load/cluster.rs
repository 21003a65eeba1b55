//! A PostgreSQL cluster of the measurement's own, made from the installed programs, whose commits survive power loss; what it
//! spends, and pgbench beside it. Where the measurement runs as root, PostgreSQL runs as `nobody`, because it refuses root.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use diesel::connection::SimpleConnection as _;
use diesel::sql_types::BigInt;
use diesel::{Connection as _, PgConnection, QueryableByName, RunQueryDsl as _, sql_query};

use crate::process::{Cpu, forget_files, free_address, scratch};

const NOBODY: u32 = 65_534;
const DATABASE: &str = "countersign";
/// What an operator would set on a machine of this size. The rest is as PostgreSQL comes: every commit is flushed to disk.
const SETTINGS: [&str; 8] = [
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=1GB",
    "max_wal_size=8GB",
    "max_connections=200",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
];

/// A program of PostgreSQL, of the newest version that is installed.
fn program(name: &str) -> Option<PathBuf> {
    let version = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path()));
    let mut versions: Vec<(u32, PathBuf)> =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().filter_map(version).collect();
    versions.sort();
    let newest = versions.into_iter().rev().map(|(_, folder)| folder.join("bin").join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest.chain(std::env::split_paths(&path).map(|folder| folder.join(name))).find(|path| path.exists())
}

pub fn is_installed() -> bool {
    program("initdb").is_some()
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

pub struct Cluster {
    port: u16,
    home: PathBuf,
    /// A shell that ends the server when its standard input ends: when we do.
    guard: Option<Child>,
}

/// What a cluster has spent so far.
pub struct Spent {
    cpu: Cpu,
    log_bytes: i64,
    flushes: i64,
}

/// What it spent in between.
pub struct Spending {
    pub cpu: Duration,
    pub log_bytes: i64,
    pub flushes: i64,
}

impl Cluster {
    pub fn start() -> Result<Self> {
        let home = scratch()?.keep();
        if is_root() {
            std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY))?;
        }
        let mut cluster = Self { port: free_address()?.port(), home, guard: None };
        let mut initdb = cluster.unprivileged(&program("initdb").context("PostgreSQL is not installed")?);
        initdb.args(["--username=countersign", "--auth=trust", "--locale=C", "--encoding=UTF8", "-D"]);
        let output = initdb.arg(cluster.data()).output()?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        cluster.run()?;
        let mut conn = PgConnection::establish(&Self::url_of("postgres", cluster.port))?;
        conn.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
        Ok(cluster)
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn unprivileged(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.home).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn run(&mut self) -> Result<()> {
        // An interrupt of the measurement reaches the shell too, which has to clear up.
        const GUARD: &str =
            r#"trap '' INT; home=$1; shift; "$@" & pid=$!; cat; kill -QUIT $pid; wait $pid; rm -rf "$home""#;
        let log = fs::File::options().create(true).append(true).open(self.home.join("log"))?;
        let mut command = self.unprivileged(Path::new("/bin/sh"));
        command.args(["-c", GUARD, "sh"]).arg(&self.home);
        command.arg(program("postgres").context("postgres")?).arg("-D").arg(self.data());
        command.arg("-c").arg(format!("port={}", self.port));
        for setting in SETTINGS {
            command.arg("-c").arg(setting);
        }
        self.guard = Some(command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()?);
        let started = Instant::now();
        while let Err(error) = PgConnection::establish(&Self::url_of("postgres", self.port)) {
            if started.elapsed() > Duration::from_mins(1) {
                let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
                bail!("PostgreSQL does not start: {error}\n{log}");
            }
            wait(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Stops it and starts it again with nothing in memory: neither in its own nor in the kernel's.
    pub fn restart_cold(&mut self) -> Result<()> {
        Command::new("kill").args(["-s", "INT", &self.server()?.to_string()]).status()?;
        while self.data().join("postmaster.pid").exists() {
            wait(Duration::from_millis(20));
        }
        if let Some(mut guard) = self.guard.take() {
            // Before it clears up.
            guard.kill()?;
            guard.wait()?;
        }
        forget_files(&self.data())?;
        self.run()
    }

    fn server(&self) -> Result<u32> {
        let file = fs::read_to_string(self.data().join("postmaster.pid"))?;
        Ok(file.lines().next().context("postmaster.pid")?.parse()?)
    }

    fn url_of(database: &str, port: u16) -> String {
        format!("postgres://countersign@127.0.0.1:{port}/{database}")
    }

    pub fn url(&self) -> String {
        Self::url_of(DATABASE, self.port)
    }

    /// The same database by another way.
    pub fn url_by(port: u16) -> String {
        Self::url_of(DATABASE, port)
    }

    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::establish(&self.url())?)
    }

    pub fn execute(&self, text: &str) -> Result<()> {
        Ok(self.connect()?.batch_execute(text)?)
    }

    /// The one number that an expression gives.
    pub fn number(&self, expression: &str) -> Result<i64> {
        let row: Number =
            sql_query(format!("SELECT ({expression})::bigint AS number")).get_result(&mut self.connect()?)?;
        Ok(row.number)
    }

    /// What it is, for the report.
    pub fn describe(&self) -> Result<String> {
        let version = self.number("current_setting('server_version_num')")?;
        let (major, minor, place) = (version / 10_000, version % 10_000, file_system(&self.home));
        Ok(format!("PostgreSQL {major}.{minor} on {place}: {}", SETTINGS.get(..4).unwrap_or_default().join(", ")))
    }

    /// Bytes of its database.
    pub fn size(&self) -> Result<u64> {
        Ok(u64::try_from(self.number("pg_database_size(current_database())")?)?)
    }

    pub fn spent(&self) -> Result<Spent> {
        let server = self.server()?;
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"))?;
        let ids = children.split_whitespace().filter_map(|id| id.parse().ok()).chain([server]);
        // Before the questions below, which start a process that ends.
        let cpu = Cpu::of_living(ids);
        let flushes = if self.number("current_setting('server_version_num')")? < 180_000 {
            "SELECT wal_sync FROM pg_stat_wal"
        } else {
            "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"
        };
        let log_bytes = self.number("pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")?;
        Ok(Spent { cpu, log_bytes, flushes: self.number(flushes)? })
    }

    pub fn spent_since(&self, before: &Spent) -> Result<Spending> {
        let now = self.spent()?;
        Ok(Spending {
            cpu: now.cpu.of_living_since(&before.cpu),
            log_bytes: now.log_bytes - before.log_bytes,
            flushes: now.flushes - before.flushes,
        })
    }

    /// Transactions per second of pgbench with a script of its own, prepared statements and a thread for each core.
    pub fn pgbench(&self, script: &str, connections: usize, seconds: f64, variables: &[(&str, usize)]) -> Result<f64> {
        let file = self.home.join("script.sql");
        fs::write(&file, script)?;
        let mut command = Command::new(program("pgbench").context("pgbench is not installed")?);
        let threads = std::thread::available_parallelism()?.get().min(connections);
        command.args(["--no-vacuum", "--protocol=prepared", "--host=127.0.0.1", "--username=countersign"]);
        command.arg(format!("--port={}", self.port)).arg(format!("--client={connections}"));
        command.arg(format!("--jobs={threads}")).arg(format!("--time={:.0}", seconds.ceil().max(1.0)));
        command.arg("--file").arg(&file);
        for (name, value) in variables {
            command.arg("--define").arg(format!("{name}={value}"));
        }
        let output = command.arg(DATABASE).output()?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "pgbench: {text}{errors}");
        let line = text.lines().find_map(|line| line.strip_prefix("tps = ")).context("pgbench tells no tps")?;
        Ok(line.split_whitespace().next().context("tps")?.parse()?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            // It clears up after itself.
            let _ = guard.wait();
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// The kind of file system that a folder lies on.
fn file_system(folder: &Path) -> String {
    let output = Command::new("stat").args(["-f", "-c", "%T"]).arg(folder).output();
    output.map_or_else(
        |_| "an unknown file system".to_owned(),
        |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[expect(clippy::disallowed_methods, reason = "nothing else is to be done meanwhile")]
fn wait(span: Duration) {
    std::thread::sleep(span);
}
