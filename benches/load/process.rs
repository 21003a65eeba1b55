//! A child process and what the kernel counts of it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::http::{Connection, write_get};

pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts the command and asks for `path` until it answers 200; gives the time that took.
    pub async fn start(command: &mut Command, address: SocketAddr, path: &str) -> Result<(Self, Duration)> {
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {command:?}"))?;
        let mut process = Self { child, address };
        let mut request = Vec::new();
        write_get(&mut request, &address.to_string(), path, "");
        let mut connection = Connection::new(address);
        loop {
            if connection.exchange(&request).await.is_ok_and(|answer| answer.status == 200) {
                return Ok((process, started.elapsed()));
            }
            if let Some(status) = process.child.try_wait()? {
                bail!("{command:?} ended with {status} before it answered");
            }
            if started.elapsed() > Duration::from_secs(20) {
                bail!("{command:?} does not answer {path}");
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }

    /// SIGTERM, and the time until the process is gone.
    pub async fn stop(&mut self) -> Result<Duration> {
        let started = Instant::now();
        Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().context("kill")?;
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > Duration::from_secs(30) {
                bail!("the server does not end on SIGTERM");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(started.elapsed())
    }

    /// SIGKILL; when this returns, nothing of it is left.
    pub fn kill(self) {
        drop(self);
    }

    /// Resident memory in bytes now, and the most there has been since the last `forget_peak`.
    pub fn memory(&self) -> Result<(u64, u64)> {
        memory(self.child.id())
    }

    pub fn forget_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").context("clear_refs")
    }
}

/// Resident memory of a process in bytes: now, and at most.
pub fn memory(process: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("/proc/PID/status")?;
        let kib: u64 = line.split_whitespace().next().context("VmRSS")?.parse()?;
        Ok(kib * 1024)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone after `stop`; otherwise it is to be killed, or an error ended the run early.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of processes: per thread to the nanosecond, and in total by the tick.
#[derive(Default)]
pub struct Cpu {
    threads: BTreeMap<String, u64>,
    ticks: u64,
}

impl Cpu {
    /// Of this process.
    pub fn own() -> Result<Self> {
        Self::of_ids([std::process::id()])
    }

    pub fn of(servers: &[&Process]) -> Result<Self> {
        Self::of_ids(servers.iter().map(|server| server.child.id()))
    }

    fn of_ids(ids: impl IntoIterator<Item = u32>) -> Result<Self> {
        let mut sum = Self::default();
        for id in ids {
            sum.add(Self::read(&PathBuf::from(format!("/proc/{id}")))?);
        }
        Ok(sum)
    }

    /// Of those that are there.
    pub fn of_living(ids: impl IntoIterator<Item = u32>) -> Self {
        let mut sum = Self::default();
        ids.into_iter().filter_map(|id| Self::of_ids([id]).ok()).for_each(|one| sum.add(one));
        sum
    }

    fn add(&mut self, other: Self) {
        self.threads.extend(other.threads);
        self.ticks += other.ticks;
    }

    fn read(process: &Path) -> Result<Self> {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(process.join("task")).context("the server is gone")? {
            let task = task?;
            // A thread may end between the listing and the reading.
            if let Ok(line) = fs::read_to_string(task.path().join("schedstat")) {
                let on_cpu = line.split_whitespace().next().context("schedstat")?.parse()?;
                threads.insert(task.file_name().to_string_lossy().into_owned(), on_cpu);
            }
        }
        let stat = fs::read_to_string(process.join("stat"))?;
        let after_name = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
        let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Self { threads, ticks })
    }

    /// Time used since `before`. Threads that ended in between are only in the ticks, so then those decide.
    pub fn since(&self, before: &Self) -> Duration {
        if before.threads.keys().all(|thread| self.threads.contains_key(thread)) {
            return self.of_living_since(before);
        }
        Duration::from_millis(self.ticks.saturating_sub(before.ticks) * 10)
    }

    /// The same of the threads that are there still.
    pub fn of_living_since(&self, before: &Self) -> Duration {
        let used = |(thread, now): (&String, &u64)| now - before.threads.get(thread).copied().unwrap_or(0);
        Duration::from_nanos(self.threads.iter().map(used).sum())
    }
}

/// Processor time of the calling thread so far.
pub fn thread_cpu() -> Result<Duration> {
    let line = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(line.split_whitespace().next().context("schedstat")?.parse()?))
}

/// A loopback address nobody listens on, now and after a restart: below those that the system gives to outgoing connections.
pub fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 4_000)?;
    loop {
        let port = 20_000 + first + NEXT.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(port < 32_000, "no free port");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr()?);
        }
    }
}

/// A folder on a disk, where databases lie while they are measured: /tmp is memory on some machines. PostgreSQL may run as
/// somebody else, who must get there.
pub fn scratch() -> Result<TempDir> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let open = |folder: &Path| fs::metadata(folder).is_ok_and(|folder| folder.mode() & 0o001 != 0);
    let place = if target.ancestors().all(open) { target } else { Path::new("/var/tmp") };
    tempfile::Builder::new().prefix("countersign-bench-").tempdir_in(place).context("a folder for the databases")
}

/// Every file below `folder` with its size.
pub fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files(&entry.path())?);
        } else if kind.is_file() {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}

/// Bytes of all files below `folder`.
pub fn folder_size(folder: &Path) -> Result<u64> {
    Ok(files(folder)?.iter().map(|(_, size)| size).sum())
}

/// Has the kernel forget what it holds in memory of the files below `folder`, so that the next reads come from the disk.
pub fn forget_files(folder: &Path) -> Result<()> {
    for (path, size) in files(folder)? {
        if size >= 1 << 16 {
            fs::File::open(&path)?.sync_all()?;
            let mut input = std::ffi::OsString::from("if=");
            input.push(&path);
            let status = Command::new("dd").arg(input).args(["iflag=nocache", "count=0", "status=none"]).status();
            anyhow::ensure!(status.context("dd")?.success(), "dd iflag=nocache {}", path.display());
        }
    }
    Ok(())
}
