//! A real nginx in front of two servers, by the file that we ship.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// What is told to it beside our file, so that it runs as anybody in a folder of its own.
const AROUND: &str = "daemon off; worker_processes 2; pid nginx.pid; error_log error.log;
events { worker_connections 1024; }
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include site.conf;
}
";

pub struct Nginx {
    folder: TempDir,
    port: u16,
    nodes: [u16; 2],
    /// A shell that ends it when its standard input ends: when we do.
    running: Child,
}

impl Nginx {
    /// Listens on this port of this machine, in front of servers on those.
    pub fn start(port: u16, nodes: [u16; 2]) -> Self {
        const GUARD: &str = r#""$@" & pid=$!; cat; kill -s TERM $pid; wait $pid"#;
        let folder = TempDir::with_prefix("countersign-nginx-").unwrap();
        let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
        fs::write(folder.path().join("nginx.conf"), format!("{user}{AROUND}")).unwrap();
        fs::write(folder.path().join("site.conf"), site(port, nodes, None)).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD, "sh"]).arg(program()).arg("-p").arg(folder.path());
        command.args(["-e", "error.log", "-c", "nginx.conf"]);
        let running = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let nginx = Self { folder, port, nodes, running };
        super::wait_for("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        nginx
    }

    /// Sends nothing to this server any more, as an operator has it who writes `down` behind it and reloads; `None` takes
    /// all back. Done when the workers that knew it otherwise are leaving.
    pub fn take_out(&self, node: Option<usize>) {
        let before = self.workers();
        fs::write(self.folder.path().join("site.conf"), site(self.port, self.nodes, node)).unwrap();
        let pid = fs::read_to_string(self.folder.path().join("nginx.pid")).unwrap();
        assert!(Command::new("kill").args(["-s", "HUP", pid.trim()]).status().unwrap().success());
        super::wait_for("nginx to read its file", || {
            self.workers().iter().any(|worker| !before.contains(worker)).then_some(())
        });
    }

    fn workers(&self) -> Vec<String> {
        let pid = fs::read_to_string(self.folder.path().join("nginx.pid")).unwrap();
        let pid = pid.trim();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().map(str::to_owned).collect()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.running.stdin.take());
        let _ = self.running.wait();
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- nginx, the last first ---\n{}", last.join("\n"));
        }
    }
}

/// `deploy/nginx.conf` with this machine's addresses in the place of the containers', and without TLS.
fn site(port: u16, nodes: [u16; 2], down: Option<usize>) -> String {
    let mut text = include_str!("../../deploy/nginx.conf").to_owned();
    let mut replace = |from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "deploy/nginx.conf has no one {from:?} any more");
        text = text.replace(from, to);
    };
    replace("listen 443 ssl http2;", &format!("listen 127.0.0.1:{port};"));
    replace("    ssl_certificate /etc/nginx/tls/fullchain.pem;\n", "");
    replace("    ssl_certificate_key /etc/nginx/tls/privkey.pem;\n", "");
    for (number, node) in nodes.iter().enumerate() {
        let mut server = format!("server 127.0.0.1:{node} ");
        if down == Some(number) {
            write!(server, "down ").unwrap();
        }
        replace(&format!("server node{}:8080 ", number + 1), &server);
    }
    text
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join("nginx")).find(|path| path.exists());
    found.expect("nginx is missing; scripts/test installs it")
}
