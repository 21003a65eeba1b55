//! A power cut, as far as the files of SQLite go. strace writes down each write and each flush of the server from outside.
//! After the server is killed the files are made anew: from what they were at its start, all that was flushed, and of the
//! rest what chance kept, sector by sector.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Dice, TestServer};

const SECTOR: usize = 512;
const CALLS: &str = "trace=pwrite64,write,ftruncate,fsync,fdatasync";

pub struct Power {
    /// The files as they were when the server started, and what was written down since.
    before: tempfile::TempDir,
    dice: Mutex<Dice>,
}

enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Cut { length: usize },
}

/// One file's changes since the start, and how many of them were flushed.
#[derive(Default)]
struct Changes {
    all: Vec<Change>,
    flushed: usize,
}

impl Power {
    pub fn new(seed: u64) -> Self {
        Self { before: tempfile::tempdir().unwrap(), dice: Mutex::new(Dice::new(seed)) }
    }

    fn log(&self) -> PathBuf {
        self.before.path().join("strace")
    }

    /// Starts the server with all that it writes written down.
    pub fn start(&self, server: &TestServer) -> Duration {
        for name in ["countersign.db", "countersign.db-wal"] {
            let kept = self.before.path().join(name);
            drop(fs::remove_file(&kept));
            if server.data_dir().join(name).exists() {
                fs::copy(server.data_dir().join(name), kept).unwrap();
            }
        }
        let serve = server.command(&["serve"]);
        let mut command = Command::new("strace");
        // -D: the server stays the child that we started.
        command
            .args(["-D", "-f", "-q", "-y", "-xx", "--seccomp-bpf", "-s", "70000", "-e", CALLS, "-o"])
            .arg(self.log());
        command.arg(serve.get_program()).args(serve.get_args()).current_dir(server.home()).env_clear();
        command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
        server.start_as(command)
    }

    /// Kills the server and takes from its files what no flush had made durable, as chance has it.
    pub fn cut(&self, server: &TestServer) {
        let end = format!("{} +++ killed by SIGKILL +++", server.pid());
        server.kill();
        // Its last words, or the end of strace, which at times leaves before it says them of the first thread; on a busy machine
        // it is far behind.
        let gives_up = Instant::now() + Duration::from_mins(1);
        let log = loop {
            let ended = !is_named_by_a_process(&self.log());
            let log = fs::read_to_string(self.log()).unwrap();
            if ended || log.contains(&end) {
                break log;
            }
            assert!(Instant::now() < gives_up, "strace has not ended: {:?}", log.lines().last());
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut files = read(&log);
        for name in ["countersign.db", "countersign.db-wal"] {
            let path = server.data_dir().join(name);
            let mut bytes = fs::read(self.before.path().join(name)).unwrap_or_default();
            let changes = files.remove(&path).unwrap_or_default();
            let mut dice = self.dice.lock().unwrap();
            for (number, change) in changes.all.iter().enumerate() {
                // A coin for each write that was not flushed, and one for each of its sectors.
                let safe = number < changes.flushed;
                if safe || dice.below(2) == 0 {
                    apply(&mut bytes, change, |_| safe || dice.below(8) != 0);
                }
            }
            fs::write(&path, bytes).unwrap();
        }
        // Only in memory ever.
        drop(fs::remove_file(server.data_dir().join("countersign.db-shm")));
    }
}

/// Whether a process has this path in its command line, as strace has the log's.
fn is_named_by_a_process(path: &Path) -> bool {
    let name = path.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(name))
}

fn apply(file: &mut Vec<u8>, change: &Change, mut keeps: impl FnMut(usize) -> bool) {
    match change {
        Change::Cut { length } => file.resize(*length, 0),
        Change::Write { at, bytes } => {
            for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                if !keeps(number) {
                    continue;
                }
                let start = at + number * SECTOR;
                file.resize(file.len().max(start + sector.len()), 0);
                file[start..start + sector.len()].copy_from_slice(sector);
            }
        }
    }
}

/// What strace wrote down, by file. A call that was still under way when another thread's was told is written in two parts.
fn read(log: &str) -> HashMap<PathBuf, Changes> {
    let mut files = HashMap::<PathBuf, Changes>::new();
    let mut begun = HashMap::<&str, (PathBuf, usize)>::new();
    for line in log.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if call.starts_with("<... fsync resumed>") || call.starts_with("<... fdatasync resumed>") {
            if let Some((path, up_to)) = begun.remove(thread).filter(|_| call.ends_with("= 0")) {
                files.entry(path).or_default().flushed = up_to;
            }
            continue;
        }
        let Some((name, rest)) = call.split_once('(') else { continue };
        let Some((_, rest)) = rest.split_once('<') else { continue };
        let Some((path, arguments)) = rest.split_once('>') else { continue };
        let path = path_of(path);
        let unfinished = call.ends_with("<unfinished ...>");
        let changes = files.entry(path.clone()).or_default();
        let mut words = arguments.split(", ").skip(1);
        match name {
            "pwrite64" => {
                let bytes = unhex(words.next().unwrap().trim_matches('"'));
                let place = words.nth(1).unwrap();
                let digits: String = place.chars().take_while(char::is_ascii_digit).collect();
                changes.all.push(Change::Write { at: digits.parse().unwrap(), bytes });
            }
            "ftruncate" => {
                let digits: String = words.next().unwrap().chars().take_while(char::is_ascii_digit).collect();
                changes.all.push(Change::Cut { length: digits.parse().unwrap() });
            }
            "fsync" | "fdatasync" if unfinished => drop(begun.insert(thread, (path, changes.all.len()))),
            "fsync" | "fdatasync" if call.ends_with("= 0") => changes.flushed = changes.all.len(),
            "fsync" | "fdatasync" => {}
            other => assert!(!path.to_string_lossy().contains("countersign.db"), "{other} on {}", path.display()),
        }
    }
    files
}

/// A path as -y writes it: plain, or its bytes in hexadecimal.
fn path_of(text: &str) -> PathBuf {
    if text.starts_with("\\x") { Path::new(&String::from_utf8(unhex(text)).unwrap()).to_owned() } else { text.into() }
}

fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}
