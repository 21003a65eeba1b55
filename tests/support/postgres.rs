//! PostgreSQL clusters of the tests' own, made from the installed programs: never a server that happens to run. Where the
//! tests run as root, PostgreSQL runs as `nobody`, because it refuses root.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use countersign::config::DatabaseUrl;
use diesel::connection::SimpleConnection;
use diesel::{Connection as _, PgConnection, RunQueryDsl as _, SqliteConnection};
use tempfile::TempDir;

use super::server::free_port;

const NOBODY: u32 = 65_534;
const TEMPLATE: &str = "template_countersign";

/// Whether this pass of the tests runs on PostgreSQL.
pub fn on_postgres() -> bool {
    match std::env::var("TEST_DATABASE").as_deref() {
        Ok("postgres") => true,
        Err(_) | Ok("sqlite") => false,
        Ok(other) => panic!("TEST_DATABASE is postgres or sqlite, not {other}"),
    }
}

/// The URL of a database of this pass for one test alone: empty or not there yet. Its file, if it is one, lies in `folder`.
pub fn database(folder: &Path) -> String {
    if on_postgres() { shared().database() } else { format!("sqlite://{}", folder.join("countersign.db").display()) }
}

/// Runs statements past the program.
pub fn execute(url: &str, statements: &str) {
    match DatabaseUrl::parse(url).unwrap() {
        DatabaseUrl::Sqlite(path) => {
            let mut conn = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
            conn.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
            conn.batch_execute(statements).unwrap();
        }
        DatabaseUrl::Postgres(_) => PgConnection::establish(url).unwrap().batch_execute(statements).unwrap(),
    }
}

/// Does something while a change is made past the program and not committed yet: whoever writes to the same waits for it, and
/// has read what was before.
pub fn amid<T: Send>(url: &str, change: &str, meanwhile: impl FnOnce() -> T + Send) -> T {
    fn run<C: SimpleConnection>(conn: &mut C, statements: &str) {
        conn.batch_execute(statements).unwrap();
    }
    fn during<C: SimpleConnection, T: Send>(conn: &mut C, meanwhile: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let meanwhile = scope.spawn(meanwhile);
            super::wait_until(Instant::now() + Duration::from_millis(400));
            run(conn, "COMMIT");
            meanwhile.join().unwrap()
        })
    }
    match DatabaseUrl::parse(url).unwrap() {
        DatabaseUrl::Sqlite(path) => {
            let mut conn = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
            run(&mut conn, &format!("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE; {change}"));
            during(&mut conn, meanwhile)
        }
        DatabaseUrl::Postgres(_) => {
            let mut conn = PgConnection::establish(url).unwrap();
            run(&mut conn, &format!("BEGIN; {change}"));
            during(&mut conn, meanwhile)
        }
    }
}

/// A program of PostgreSQL: of the folder that `TEST_POSTGRES_BIN` names, or of the newest version that is installed.
fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("TEST_POSTGRES_BIN") {
        return Path::new(&folder).join(name);
    }
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let path = entry.path().join("bin").join(name);
            Some((entry.file_name().to_str()?.parse().ok()?, path)).filter(|(_, path)| path.exists())
        })
        .collect();
    versions.sort();
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists())
    };
    let found = versions.pop().map(|(_, path)| path).or_else(on_path);
    found.unwrap_or_else(|| panic!("{name} is missing; install the package postgresql"))
}

/// The cluster of this test program. Its end is the program's, however that ends.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::make(&[], &[], true))
}

pub struct Cluster {
    pub port: u16,
    home: PathBuf,
    settings: Vec<String>,
    /// A shell that ends the server when its standard input ends: when we do.
    running: Mutex<Option<Child>>,
    remove_with_us: bool,
}

impl Cluster {
    /// A cluster for one test, with settings such as `fsync=off`, running.
    pub fn start(settings: &[&str]) -> Self {
        Self::make(settings, &[], false)
    }

    /// The same, with files of the test's own in its data directory.
    pub fn start_with(settings: &[&str], files: &[(&str, &str)]) -> Self {
        Self::make(settings, files, false)
    }

    fn make(settings: &[&str], files: &[(&str, &str)], remove_with_us: bool) -> Self {
        let home = TempDir::with_prefix("countersign-postgres-").unwrap().keep();
        if is_root() {
            std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let cluster = Self { port: free_port(), home, settings, running: Mutex::default(), remove_with_us };
        let mut initdb = cluster.unprivileged(&program("initdb"));
        initdb.args(["--username=countersign", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync", "-D"]);
        let output = initdb.arg(cluster.data()).output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        for (name, text) in files {
            cluster.write(name, text);
        }
        cluster.run();
        cluster
    }

    /// Writes a file into its data directory, the server's alone.
    pub fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.data().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if is_root() {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    pub fn data(&self) -> PathBuf {
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

    /// Starts the server, as at first or after [`Cluster::stop`], and waits until it takes connections.
    pub fn run(&self) {
        const GUARD: &str =
            r#"home=$1; shift; "$@" & pid=$!; cat; kill -9 $pid; wait $pid; [ -z "$home" ] || rm -rf "$home""#;
        let log = std::fs::File::options().create(true).append(true).open(self.home.join("log")).unwrap();
        let mut command = self.unprivileged(Path::new("/bin/sh"));
        command.args(["-c", GUARD, "sh"]).arg(if self.remove_with_us { self.home.as_os_str() } else { "".as_ref() });
        command.arg(program("postgres")).arg("-D").arg(self.data());
        let port = self.port;
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            "unix_socket_directories=".to_owned(),
            "max_connections=400".to_owned(),
            "shared_buffers=64MB".to_owned(),
        ];
        settings.extend(self.settings.iter().cloned());
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        let child = command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        assert!(self.running.lock().unwrap().replace(child).is_none(), "it runs already");
        let deadline = Instant::now() + Duration::from_mins(1);
        while let Err(error) = PgConnection::establish(&self.url("postgres")) {
            assert!(Instant::now() < deadline, "PostgreSQL does not start: {error}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server as its operator would: sessions are cut, all is written.
    pub fn stop(&self) {
        let mut child = self.running.lock().unwrap().take().expect("it does not run");
        assert!(kill("INT", &self.pid()));
        super::wait_for("PostgreSQL's end", || (!self.data().join("postmaster.pid").exists()).then_some(()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    /// SIGKILL for every process of it: power loss, as far as processes go.
    pub fn kill(&self) {
        let mut child = self.running.lock().unwrap().take().expect("it does not run");
        // At rest it makes no new ones.
        assert!(kill("STOP", &self.pid()));
        for process in self.children().iter().chain([&self.pid()]) {
            kill("KILL", process);
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    fn pid(&self) -> String {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        file.lines().next().unwrap().to_owned()
    }

    fn children(&self) -> Vec<String> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().map(str::to_owned).collect()
    }

    /// Stops every process of the server in its tracks: connections stay open, and nobody answers.
    pub fn pause(&self) {
        self.signal_all("STOP");
    }

    pub fn resume(&self) {
        self.signal_all("CONT");
    }

    fn signal_all(&self, signal: &str) {
        assert!(kill(signal, &self.pid()));
        for child in self.children() {
            // It may have ended meanwhile.
            kill(signal, &child);
        }
    }

    /// Makes this cluster, which must not run, a standby of another: nothing is acknowledged there any more before it is on
    /// disk here. Both run at the end.
    pub fn follow(&self, primary: &Self) {
        primary.stop();
        drop(std::fs::remove_dir_all(self.data()));
        let copied = Command::new("cp").arg("-a").args([primary.data(), self.data()]).status().unwrap();
        assert!(copied.success());
        primary.write("postgresql.auto.conf", "synchronous_standby_names = '*'\n");
        let source = format!("host=127.0.0.1 port={} user=countersign", primary.port);
        self.write("postgresql.auto.conf", &format!("primary_conninfo = '{source}'\n"));
        self.write("standby.signal", "");
        primary.run();
        self.run();
        let mut conn = PgConnection::establish(&primary.url("postgres")).unwrap();
        super::wait_for("the standby to follow", || {
            let count = "(SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync')";
            let following: i64 =
                diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>(count)).get_result(&mut conn).unwrap();
            (following == 1).then_some(())
        });
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        execute(&self.url("postgres"), "SELECT pg_promote()");
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://countersign@127.0.0.1:{}/{database}", self.port)
    }

    /// A database of its own for one test, its schema up to date.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static MAKING: Mutex<()> = Mutex::new(());
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let _alone = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut conn = PgConnection::establish(&self.url("postgres")).unwrap();
        if conn.batch_execute(&format!("CREATE DATABASE {TEMPLATE}")).is_ok() {
            let mut migrate = Command::new(env!("CARGO_BIN_EXE_countersign"));
            migrate.args(["db", "migrate"]).current_dir(&self.home).env_clear();
            migrate.env("COUNTERSIGN_DATABASE_URL", self.url(TEMPLATE));
            migrate.env("COUNTERSIGN_DATA_DIR", self.home.join("unused"));
            let output = migrate.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        // The migration's connection may take a moment to be gone.
        super::wait_for("the template", || {
            conn.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).ok()
        });
        self.url(&name)
    }

    /// An empty database without a schema.
    pub fn empty_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("empty_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        execute(&self.url("postgres"), &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.lock().unwrap().take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        drop(std::fs::remove_dir_all(&self.home));
    }
}

fn kill(signal: &str, pid: &str) -> bool {
    Command::new("kill").args(["-s", signal, pid]).stderr(Stdio::null()).status().unwrap().success()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
