//! The real binary on a free loopback port, with a data directory of its own.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::http::{HTTP, get, post, send, try_send};
use super::{App, PASSWORD, wait_for};

pub struct TestServer {
    pub issuer: String,
    home: TempDir,
    env: Vec<(String, String)>,
    child: Mutex<Option<Child>>,
}

impl TestServer {
    /// A server with an empty database that does not run yet. `env` completes or overrides the environment.
    pub fn prepare(env: &[(&str, &str)]) -> Self {
        let port = free_port();
        let home = TempDir::with_prefix("countersign-test-").unwrap();
        let listen = format!("127.0.0.1:{port}");
        let mut own = vec![
            ("COUNTERSIGN_ISSUER".to_owned(), format!("http://{listen}")),
            ("COUNTERSIGN_LISTEN".to_owned(), listen.clone()),
            ("COUNTERSIGN_DATA_DIR".to_owned(), home.path().join("data").display().to_string()),
        ];
        if super::postgres::on_postgres() && !env.iter().any(|(key, _)| *key == "COUNTERSIGN_DATABASE_URL") {
            own.push(("COUNTERSIGN_DATABASE_URL".to_owned(), super::postgres::shared().database()));
            own.push(("COUNTERSIGN_DATABASE__CONNECTIONS".to_owned(), "8".to_owned()));
        }
        for (key, value) in env {
            own.retain(|(other, _)| other != key);
            own.push(((*key).to_owned(), (*value).to_owned()));
        }
        Self { issuer: format!("http://{listen}"), home, env: own, child: Mutex::default() }
    }

    /// One of several servers of an issuer that lies before them; `env` says what they share.
    pub fn node(issuer: &str, env: &[(&str, &str)]) -> Self {
        let mut env = env.to_vec();
        env.push(("COUNTERSIGN_ISSUER", issuer));
        let mut server = Self::prepare(&env);
        issuer.clone_into(&mut server.issuer);
        server
    }

    pub fn port(&self) -> u16 {
        self.url("").rsplit(':').next().unwrap().parse().unwrap()
    }

    pub fn running(env: &[(&str, &str)]) -> Self {
        let server = Self::prepare(env);
        server.start();
        server
    }

    /// Starts the server (on the same data, when it ran before) and gives the time until it was ready.
    pub fn start(&self) -> Duration {
        self.start_as(self.command(&["serve"]))
    }

    /// The same by a command of the test's own, which becomes the server.
    pub fn start_as(&self, mut command: Command) -> Duration {
        let start = Instant::now();
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        assert!(self.child.lock().unwrap().replace(child).is_none(), "it runs already");
        let deadline = start + Duration::from_secs(30);
        while !try_send(HTTP.get(self.url("/health/ready"))).is_ok_and(|answer| answer.status == 200) {
            let ended = self.child.lock().unwrap().as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the server ended ({ended:?}):\n{}", self.log());
            assert!(Instant::now() < deadline, "the server is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }

    /// SIGTERM, and the wait for the end.
    pub fn stop(&self) {
        let mut child = self.child.lock().unwrap().take().expect("it does not run");
        let kill = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(kill.success());
        let code = wait_for("the server's end", || child.try_wait().unwrap());
        assert!(code.success(), "SIGTERM ends in {code}:\n{}", self.log());
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("it does not run").id()
    }

    pub fn resident_kib(&self) -> u32 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    /// Files and connections that it has open.
    pub fn descriptors(&self) -> u64 {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count() as u64
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for an end that somebody else asked for.
    pub fn end(&self) -> ExitStatus {
        let mut child = self.child.lock().unwrap().take().expect("it does not run");
        wait_for("the server's end", || child.try_wait().unwrap())
    }

    /// SIGKILL.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    pub fn url(&self, path: &str) -> String {
        let listen = &self.env.iter().find(|(key, _)| key == "COUNTERSIGN_LISTEN").unwrap().1;
        format!("http://{listen}{path}")
    }

    pub fn database_url(&self) -> String {
        let named = self.env.iter().find(|(key, _)| key == "COUNTERSIGN_DATABASE_URL").map(|(_, url)| url.clone());
        named.unwrap_or_else(|| format!("sqlite://{}", self.data_dir().join("countersign.db").display()))
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    /// All that the server has written to standard output and standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The program with this server's environment and nobody else's configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        // Another build than the tests' own, where somebody names one: scripts/campaign does.
        let own = env!("CARGO_BIN_EXE_countersign").into();
        let mut command = Command::new(std::env::var_os("TEST_SERVER").unwrap_or(own));
        command.args(args).current_dir(self.home.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    pub fn cli(&self, args: &[&str], stdin: &str) -> Output {
        run(self.command(args), stdin)
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn cli_ok(&self, args: &[&str], stdin: &str) -> String {
        let output = self.cli(args, stdin);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?} ended in {}:\n{stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Creates a user whose password is [`PASSWORD`].
    pub fn user(&self, name: &str) {
        let email = format!("{name}@example.com");
        self.cli_ok(&["user", "create", name, "--email", &email, "--password-stdin"], &format!("{PASSWORD}\n"));
    }

    /// Replaces the claims of a user.
    pub fn set_claims(&self, name: &str, claims: &Value) {
        self.cli_ok(&["user", "set-claims", name, "-"], &claims.to_string());
    }

    /// Registers a resource; `more` are further arguments.
    pub fn resource(&self, identifier: &str, scope: &str, more: &[&str]) {
        let args = ["resource", "create", identifier, "--scope", scope];
        self.cli_ok(&[&args, more].concat(), "");
    }

    /// Registers a client and, beside a running server, waits until the server knows it.
    pub fn client(&self, metadata: &Value) -> App {
        let created = self.cli_ok(&["client", "create", "-"], &metadata.to_string());
        let created = serde_json::from_str(&created).unwrap_or_else(|e| panic!("{e}: {created}"));
        let app = App::new(&self.issuer, created);
        if self.child.lock().unwrap().is_some() {
            wait_for("the server to know the client", || self.knows(&app).then_some(()));
        }
        app
    }

    /// Whether the running server knows the client: as its authorization or its token endpoint tells.
    pub fn knows(&self, app: &App) -> bool {
        if app.redirect_uri.is_empty() {
            let request = post(self.url("/token"), &[("grant_type", "client_credentials")]);
            send(app.authenticated(request)).status == 200
        } else {
            get(app.request().url()).status != 400
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the server's output ---\n{}", self.log());
        }
    }
}

/// A port to listen on, now and after a restart: below those that the system gives to outgoing connections, which could
/// take it in between.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let offset = (std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let port = 20_000 + u16::try_from(offset).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Runs a command to its end, with `stdin` as its standard input.
pub fn run(mut command: Command, stdin: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that ends without reading its input closes the pipe: its own answer tells more.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}
