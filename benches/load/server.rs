//! The server under test: its process, its commands, the people and clients it knows.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http::{Connection, basic, json_string, write_post};
use crate::process::{Process, free_address, memory, scratch};

pub const REDIRECT_URI: &str = "https://rp.example/callback";
pub const PASSWORD: &str = "an ordinary long passphrase";

/// Where the binary is and what it is told.
pub struct Installation {
    binary: PathBuf,
    folder: tempfile::TempDir,
    /// A database on PostgreSQL; without one it is a file in `data`.
    database: Option<String>,
    pub endpoint: Endpoint,
}

/// Where the server listens.
#[derive(Clone, Copy)]
pub struct Endpoint {
    pub address: SocketAddr,
}

impl Endpoint {
    pub fn host(self) -> String {
        self.address.to_string()
    }

    pub fn issuer(self) -> String {
        format!("http://{}", self.address)
    }
}

/// A confidential client.
#[derive(Clone)]
pub struct Client {
    pub id: String,
    /// Its `Authorization` line.
    pub authorization: String,
}

impl Installation {
    pub fn new(binary: PathBuf, database: Option<String>) -> Result<Self> {
        Ok(Self { binary, folder: scratch()?, database, endpoint: Endpoint { address: free_address()? } })
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn database_file(&self) -> PathBuf {
        self.data().join("countersign.db")
    }

    pub fn binary_size(&self) -> Result<u64> {
        Ok(std::fs::metadata(&self.binary).with_context(|| format!("{}", self.binary.display()))?.len())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        // Another folder, so that no countersign.toml of the caller is read. The caller's variables do count.
        command
            .current_dir(self.folder.path())
            .env("COUNTERSIGN_ISSUER", self.endpoint.issuer())
            .env("COUNTERSIGN_LISTEN", self.endpoint.host())
            .env("COUNTERSIGN_DATA_DIR", self.data())
            // For receivers of logout tokens on this machine.
            .env("COUNTERSIGN_OUTBOUND__ALLOW_PRIVATE", "true");
        match &self.database {
            Some(url) => command.env("COUNTERSIGN_DATABASE_URL", url),
            None => command.env_remove("COUNTERSIGN_DATABASE_URL"),
        };
        command
    }

    /// Starts the server; gives the time to its first answer.
    pub async fn start(&self) -> Result<(Process, Duration)> {
        self.start_with(self.endpoint.address, &[]).await
    }

    /// The same at another address and with other settings.
    pub async fn start_with(&self, address: SocketAddr, env: &[(&str, &str)]) -> Result<(Process, Duration)> {
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = self.command();
        command.env("COUNTERSIGN_LISTEN", address.to_string()).envs(env.iter().copied());
        command.arg("serve").stdout(log.try_clone()?).stderr(log);
        Process::start(&mut command, address, "/jwks")
            .await
            .with_context(|| format!("the server's log: {}", std::fs::read_to_string(self.log()).unwrap_or_default()))
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// How many lines and bytes the server has logged, and its last words.
    pub fn logged(&self) -> (usize, usize, String) {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        (log.lines().count(), log.len(), last.join("\n"))
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // A command that ends without reading tells why by its status and its errors.
        let _ = child.stdin.take().context("stdin")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
    }

    /// Runs a command; its peak of resident memory in bytes, and the time it took.
    pub async fn run_weighed(&self, arguments: &[&str]) -> Result<(u64, Duration)> {
        let started = Instant::now();
        let log = std::fs::File::options().append(true).open(self.log())?;
        let mut child = self.command().args(arguments).stdout(Stdio::null()).stderr(log).spawn()?;
        let mut peak = 0;
        loop {
            if let Some(status) = child.try_wait()? {
                if !status.success() {
                    bail!("{arguments:?} failed");
                }
                return Ok((peak, started.elapsed()));
            }
            // Gone between the two looks: what was seen before stands.
            peak = memory(child.id()).map_or(peak, |(_, most)| most.max(peak));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn create_user(&self, name: &str) -> Result<()> {
        let email = format!("{name}@users.example");
        self.run(&["user", "create", name, "--email", &email, "--password-stdin"], &format!("{PASSWORD}\n"))?;
        Ok(())
    }

    pub fn create_client(&self, metadata: &str) -> Result<Client> {
        let output = self.run(&["client", "create", "-"], metadata)?;
        let id = json_string(&output, "client_id").context("client_id")?;
        let secret = json_string(&output, "client_secret").context("client_secret")?;
        Ok(Client { id: id.to_owned(), authorization: basic(id, secret) })
    }

    /// The machine client, for `client_credentials`.
    pub fn create_machine(&self) -> Result<Client> {
        self.create_client(
            r#"{"client_name": "Bench machine", "grant_types": ["client_credentials"], "response_types": [],
                "token_endpoint_auth_method": "client_secret_basic"}"#,
        )
    }

    /// The web application, for everything with a person in it.
    pub fn create_web(&self) -> Result<Client> {
        self.create_client(&format!(
            r#"{{"client_name": "Bench web", "redirect_uris": ["{REDIRECT_URI}"], "response_types": ["code"],
                "grant_types": ["authorization_code", "refresh_token"], "skip_consent": true,
                "token_endpoint_auth_method": "client_secret_basic", "id_token_signed_response_alg": "ES256"}}"#
        ))
    }

    /// Waits until the running server knows the client.
    pub async fn await_client(&self, machine: &Client) -> Result<()> {
        let started = Instant::now();
        let mut connection = Connection::new(self.endpoint.address);
        let mut request = Vec::new();
        write_post(
            &mut request,
            &self.endpoint.host(),
            "/token",
            &machine.authorization,
            "grant_type=client_credentials",
        );
        loop {
            let answer = connection.exchange(&request).await?;
            if answer.status == 200 {
                return Ok(());
            }
            if started.elapsed() > Duration::from_secs(10) {
                answer.expect(200).context("the server does not see the new client")?;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
