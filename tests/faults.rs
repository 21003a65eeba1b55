//! What goes wrong around the server: its clock, its disk, its database's lock, the people who connect. Made from outside;
//! the server is the one that is deployed (reliability figures 15, 17 and 18, short forms).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait")]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use support::app::Tokens;
use support::clock::FalseClock;
use support::server::free_port;
use support::{Answer, TestServer, World, get, post, send, wait_for, wait_until};

/// What happens to a file happens to the embedded database.
const ON_FILE: (&str, &str) = ("COUNTERSIGN_DATABASE_URL", "sqlite://data/countersign.db");

/// One write that the server cannot make just now: not lost, not half done, and told as such.
#[track_caller]
fn not_now(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.comes_back_soon(), "{answer:?}");
}

/// What needs no write goes on.
#[track_caller]
fn reads_go_on(w: &World, access: &str) {
    for path in ["/jwks", "/.well-known/openid-configuration", "/health/live"] {
        assert_eq!(w.get(path).status, 200, "{path}");
    }
    assert!(w.web.is_active(access));
    assert_eq!(w.web.userinfo(access).status, 200);
    w.machine.post("/token", &[("grant_type", "client_credentials")]).ok();
}

/// Whether nothing else runs on this machine, so that the figures themselves are demanded. Otherwise much wider bounds are.
fn is_alone() -> bool {
    std::env::var_os("TEST_ALONE").is_some()
}

// ---- The clock ----

#[test]
fn s90_a_replaced_key_leaves_the_jwks_at_its_time_without_a_change_or_a_restart() {
    let clock = FalseClock::new();
    let environment = clock.environment();
    let w = World::new(&environment.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>());
    let keys = || w.jwks()["keys"].as_array().unwrap().len();
    let before = keys();
    w.server.cli_ok(&["key", "rotate"], "");
    wait_for("the new keys", || (keys() == 2 * before).then_some(()));
    clock.set("+60d");
    wait_for("the old keys to go", || (keys() == before).then_some(()));
}

#[test]
fn a_clock_set_back_brings_nothing_to_life_and_time_goes_on() {
    let clock = FalseClock::new();
    let operator = format!("127.0.0.1:{}", free_port());
    let environment = clock.environment();
    let mut env: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.extend([
        ("COUNTERSIGN_ACCESS_TOKEN__LIFETIME", "2s"),
        ("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s"),
        ("COUNTERSIGN_METRICS__LISTEN", &operator),
    ]);
    let w = World::new(&env);
    let behind = || {
        let page = get(format!("http://{operator}/metrics")).body;
        let line = page.lines().find_map(|line| line.strip_prefix("countersign_clock_behind_seconds "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let tokens = w.web.tokens(&w.browser(), "openid offline_access");
    let dead = wait_for("the token's end", || (!w.web.is_active(tokens.access())).then(|| tokens.access().to_owned()));

    // A leap second, of which a clock tells one twice: what was given in it and what was spent in it stay so.
    let browser = w.browser();
    let mut codes = [w.web.code(&browser, "openid"), w.web.code(&browser, "openid")].into_iter();
    let [spent, kept] = [(); 2].map(|()| codes.next().unwrap());
    w.web.redeem(&spent).ok();
    let ended = w.web.tokens(&browser, "openid offline_access");
    w.web.revoke(ended.refresh());
    clock.set("-1s");
    assert!(!w.web.is_active(&dead) && !w.web.is_active(ended.refresh()) && !w.web.is_active(ended.access()));
    w.web.redeem(&spent).refused(400, "invalid_grant");
    assert!(w.web.is_active(&w.web.redeem(&kept).text("access_token")));
    browser.open(w.web.request().url()).code();

    // Seconds of NTP: nobody is signed out, nothing lives again, time stands still meanwhile.
    clock.set("-20s");
    assert!(!w.web.is_active(&dead), "20 seconds back");
    browser.open(w.web.request().url()).code();
    clock.set("+0");

    clock.set("-1h");
    assert!(!w.web.is_active(&dead), "an hour back");
    assert!(behind() >= 3590, "{}", behind());
    wait_for("the log to tell", || w.server.log().contains("is behind what this database has seen").then_some(()));
    // Life goes on, and so does time: what is issued now ends when it should.
    let next = Tokens(w.web.refresh(tokens.refresh()).ok());
    let issued = Instant::now();
    assert!(w.web.is_active(next.access()));
    wait_until(issued + Duration::from_millis(2100));
    assert!(!w.web.is_active(next.access()), "a token lives no longer by a clock that stands elsewhere");
    w.web.refresh(tokens.refresh()).refused(400, "invalid_grant");
    w.web.refresh(next.refresh()).refused(400, "invalid_grant");

    // Neither does a new start forget the time.
    w.server.restart();
    assert!(!w.web.is_active(&dead) && !w.web.is_active(next.access()), "after a restart");
    assert!(behind() >= 3590, "{}", behind());
    w.server.kill();
    w.server.start();
    assert!(!w.web.is_active(&dead) && behind() >= 3590, "after a kill");

    // Only an operator's word makes the machine's clock the right one.
    let output = w.server.cli(&["db", "accept-clock"], "");
    assert!(!output.status.success(), "while the server runs");
    w.server.stop();
    w.server.cli_ok(&["db", "accept-clock"], "");
    w.server.start();
    assert_eq!(behind(), 0);
    // Forward is believed at once: what has expired by any clock has expired.
    let tokens = w.web.tokens(&w.browser(), "openid");
    clock.set("-59m");
    assert!(!w.web.is_active(tokens.access()));
    // A day ahead, and back: what that day ended has ended, and the next one is told from there.
    let chain = w.web.tokens(&w.browser(), "openid offline_access");
    clock.set("+1d");
    assert!(!w.web.is_active(chain.access()));
    let next = Tokens(w.web.refresh(chain.refresh()).ok());
    clock.set("+0");
    assert!(!w.web.is_active(chain.access()) && w.web.is_active(next.access()), "a day back");
    assert!(behind() >= 86_390, "{}", behind());
    wait_for("the token's end", || (!w.web.is_active(next.access())).then_some(()));
}

// ---- The disk ----

/// Starts the server in a mount namespace of its own, in which `mount` was run before it. The folder of the data is a
/// copy that is gone with the server.
fn start_mounted(server: &TestServer, mount: &str) {
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    command.arg("--mount").args((!root).then_some("--map-root-user"));
    let script = format!("{mount} && exec \"$0\" serve");
    let serve = server.command(&[]);
    command.args(["sh", "-c", &script]).arg(serve.get_program()).current_dir(server.home()).env_clear();
    command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("DATA", server.data_dir());
    server.start_as(command);
}

const SMALL_DISK: &str =
    "mount -t tmpfs -o size=6m,mode=0700 none /mnt && cp -a \"$DATA/.\" /mnt/ && mount --bind /mnt \"$DATA\"";

/// Takes all the room there is.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    let mut size = 64 * 1024;
    while size > 0 {
        if let Err(error) = file.write_all(&vec![1; size]) {
            assert_eq!(error.kind(), ErrorKind::StorageFull);
            size /= 2;
        }
    }
    path
}

fn is_whole(data: &Path) {
    let mut database = SqliteConnection::establish(data.join("countersign.db").to_str().unwrap()).unwrap();
    let verdict: String =
        diesel::dsl::sql::<diesel::sql_types::Text>("PRAGMA integrity_check").get_result(&mut database).unwrap();
    assert_eq!(verdict, "ok");
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_what_was_written() {
    let w = World::new(&[ON_FILE, ("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s")]);
    w.server.stop();
    start_mounted(&w.server, SMALL_DISK);
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid offline_access");
    let code = w.web.code(&browser, "openid");
    // What the server sees as its data, seen from here.
    let inside =
        PathBuf::from(format!("/proc/{}/root", w.server.pid())).join(w.server.data_dir().strip_prefix("/").unwrap());
    let filler = fill(&inside);
    // What needs room is refused; what is written over in place may still go through. Either way it is as it was told.
    let mut token = tokens.refresh().to_owned();
    let mut told = [0, 0];
    for _ in 0..300 {
        let started = get(w.third.request().url());
        assert!(started.status == 303 || started.status == 503, "{started:?}");
        if started.status == 503 {
            not_now(&started);
        }
        let answer = w.web.refresh(&token);
        if answer.status == 200 {
            token = answer.text("refresh_token");
        } else {
            not_now(&answer);
        }
        assert!(w.web.is_active(&token));
        told[usize::from(started.status == 503)] += 1;
    }
    assert!(told[1] > 100, "the disk was not full: {told:?}");
    reads_go_on(&w, tokens.access());
    let code_was_taken = match w.web.redeem(&code) {
        taken if taken.status == 200 => true,
        refused => {
            not_now(&refused);
            false
        }
    };

    fs::remove_file(filler).unwrap();
    assert_eq!(w.get("/health/ready").status, 200);
    assert_eq!(get(w.third.request().url()).status, 303);
    let next = Tokens(w.web.refresh(&token).ok());
    assert!(w.web.is_active(next.refresh()) && !w.web.is_active(&token));
    assert_eq!(w.web.redeem(&code).status, if code_was_taken { 400 } else { 200 });
    is_whole(&inside);
    assert!(!w.server.log().contains("ERROR"), "503 is a warning; nothing broke");
}

#[test]
fn a_file_that_may_grow_no_further_refuses_writes_and_keeps_what_was_written() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let w = World::new(&[ON_FILE, ("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s")]);
    w.server.stop();
    // A limit on the length of files stands in for a quota: the server's file system has room, and a write fails all the same,
    // by another error than that of a full disk (EFBIG; of a quota EDQUOT). Its signal is a shell's to turn off.
    let mut command = Command::new("sh");
    let serve = w.server.command(&[]);
    command.args(["-c", "trap '' XFSZ && exec \"$0\" serve"]).arg(serve.get_program());
    command.current_dir(w.server.home()).env_clear();
    command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    w.server.start_as(command);
    let tokens = w.web.tokens(&w.browser(), "openid offline_access");
    let log = w.server.data_dir().join("countersign.db-wal");
    let pid = Pid::from_raw(w.server.pid().try_into().unwrap());
    let may_grow_to = |length| {
        prlimit(pid, Resource::Fsize, Rlimit { current: length, maximum: None }).unwrap();
    };
    // In the middle of the next page.
    may_grow_to(Some(fs::metadata(&log).unwrap().len() + 2000));
    for _ in 0..50 {
        not_now(&w.web.refresh(tokens.refresh()));
        not_now(&get(w.third.request().url()));
    }
    assert_eq!(w.get("/health/ready").status, 503);
    assert!(w.web.is_active(tokens.refresh()));
    reads_go_on(&w, tokens.access());

    may_grow_to(None);
    assert_eq!(w.get("/health/ready").status, 200);
    assert_eq!(get(w.third.request().url()).status, 303);
    let next = Tokens(w.web.refresh(tokens.refresh()).ok());
    assert!(w.web.is_active(next.refresh()) && !w.web.is_active(tokens.refresh()));
    w.server.kill();
    w.server.start();
    assert!(w.web.is_active(next.refresh()) && !w.web.is_active(tokens.refresh()));
    is_whole(&w.server.data_dir());
    assert!(!w.server.log().contains("ERROR"), "503 is a warning; nothing broke");
}

#[test]
fn a_disk_that_takes_no_writes_is_told_at_the_start() {
    let server = TestServer::prepare(&[ON_FILE]);
    server.user("ada");
    let mut command = Command::new("unshare");
    let root = rustix::process::geteuid().is_root();
    command.arg("--mount").args((!root).then_some("--map-root-user"));
    let serve = server.command(&[]);
    command.args([
        "sh",
        "-c",
        "mount --bind \"$DATA\" \"$DATA\" && mount -o remount,bind,ro \"$DATA\" && exec \"$0\" serve",
    ]);
    command.arg(serve.get_program()).current_dir(server.home()).env_clear();
    command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("DATA", server.data_dir());
    let output = support::server::run(command, "");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("cannot be written by this user"), "{told}");
}

#[test]
fn a_database_that_somebody_holds_costs_writes_a_second_and_reads_nothing() {
    let w = World::new(&[ON_FILE]);
    let tokens = w.web.tokens(&w.browser(), "openid offline_access");
    let path = w.server.data_dir().join("countersign.db");
    let mut database = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    database.batch_execute("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    // A crowd waits once, together, and not one after the other.
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| not_now(&w.web.refresh(tokens.refresh())));
        }
    });
    assert!(start.elapsed() < Duration::from_millis(3500), "{:?}", start.elapsed());
    reads_go_on(&w, tokens.access());
    assert_eq!(w.get("/health/ready").status, 503);
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let start = Instant::now();
        assert_eq!(w.get("/jwks").status, 200);
        slowest = slowest.max(start.elapsed());
    }
    database.batch_execute("ROLLBACK").unwrap();
    let start = Instant::now();
    w.web.refresh(tokens.refresh()).ok();
    println!("JWKS meanwhile {slowest:?} at worst; writes again after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5));
}

// ---- Those who connect ----

fn connect(server: &TestServer) -> TcpStream {
    let stream = TcpStream::connect(server.issuer.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// A request whose answer is read, on a connection that stays.
fn ask(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    let (mut seen, mut buffer) = (Vec::<u8>::new(), [0; 4096]);
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the connection ended");
        seen.extend(&buffer[..length]);
    }
}

/// Whether the other side has ended the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn one_who_takes_no_answers_is_let_go() {
    let server = TestServer::running(&[]);
    let mut stream = connect(&server);
    stream.set_nonblocking(true).unwrap();
    // Requests without end, and not one answer read: at some point nothing goes in either direction.
    let request = b"GET /.well-known/openid-configuration HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let start = Instant::now();
    let mut stuck: Option<Instant> = None;
    let ended = loop {
        match stream.write(&request) {
            Ok(_) => stuck = None,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                stuck.get_or_insert_with(Instant::now);
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => break error,
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it is kept: stuck for {:?}", stuck.map(|at| at.elapsed()));
    };
    println!("let go after {:?} ({ended}), stuck for {:?}", start.elapsed(), stuck.map(|at| at.elapsed()));
    assert!(start.elapsed() > Duration::from_secs(5), "it had time to read: {ended}");
}

/// The 99th percentile of what introspections take.
fn p99(w: &World, token: &str) -> Duration {
    let count = if is_alone() { 2000 } else { 200 };
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            let start = Instant::now();
            assert!(w.web.is_active(token));
            start.elapsed()
        })
        .collect();
    times.sort();
    times[count * 99 / 100 - 1]
}

#[test]
fn ten_thousand_idle_and_two_thousand_slow_connections_disturb_nobody() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let room = usize::try_from(limit.maximum.unwrap_or(1_000_000)).unwrap().saturating_sub(500);
    let (idle, slow) = (room.saturating_sub(2000).min(10_000), 2000.min(room / 2));
    let w = World::new(&[]);
    let token = w.web.tokens(&w.browser(), "openid").access().to_owned();
    let (quiet, before) = (p99(&w, &token), w.server.resident_kib());

    let mut kept: Vec<_> = (0..idle)
        .map(|_| {
            let mut stream = connect(&w.server);
            ask(&mut stream, "/health/live");
            stream
        })
        .collect();
    let (crowded, with_idle) = (p99(&w, &token), w.server.resident_kib());
    let start = Instant::now();
    let mut loris: Vec<_> = (0..slow)
        .map(|_| {
            let mut stream = connect(&w.server);
            stream.write_all(b"POST /token HTTP/1.1\r\nhost: x\r\nx: ").unwrap();
            stream
        })
        .collect();
    let besieged = p99(&w, &token);
    // Those beyond what is kept were answered and closed; the others may stay as long as they like.
    let closed = kept.iter_mut().map(is_closed).filter(|closed| *closed).count();
    assert!((idle.saturating_sub(8000)..=idle.saturating_sub(7990)).contains(&closed), "{closed} of {idle}");
    wait_for("the slow ones to be let go", || loris.iter_mut().all(is_closed).then_some(()));
    let released = start.elapsed();
    println!(
        "p99 {quiet:?} alone, {crowded:?} beside {idle} idle, {besieged:?} beside {slow} slow; let go within {released:?}; \
         resident {before} KiB, {with_idle} KiB with the idle ones"
    );
    let bound = 2 * quiet + Duration::from_millis(if is_alone() { 0 } else { 50 });
    assert!(crowded < bound && besieged < bound, "{quiet:?} {crowded:?} {besieged:?}");
    assert!(with_idle < before + 100 * 1024, "{before} {with_idle}: more than 100 MiB");
    drop(kept);
    let posted = post(w.server.url("/token"), &[("grant_type", "client_credentials")]);
    assert_eq!(send(w.machine.authenticated(posted)).status, 200);
}

/// Refreshes by so many clients at once for so long: how many were done each second, and how many were told to come again.
fn refreshes(w: &World, tokens: &mut [String], span: Duration) -> (f64, usize) {
    let start = Instant::now();
    let counts: Vec<(u32, usize)> = std::thread::scope(|scope| {
        let clients: Vec<_> = tokens
            .iter_mut()
            .map(|token| {
                scope.spawn(move || {
                    let (mut done, mut refused) = (0, 0);
                    while start.elapsed() < span {
                        let answer = w.web.refresh(token);
                        if answer.status == 200 {
                            *token = answer.text("refresh_token");
                            done += 1;
                        } else {
                            not_now(&answer);
                            refused += 1;
                        }
                    }
                    (done, refused)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let done: u32 = counts.iter().map(|count| count.0).sum();
    (f64::from(done) / start.elapsed().as_secs_f64(), counts.iter().map(|count| count.1).sum())
}

#[test]
fn many_more_token_requests_than_there_is_room_for_get_no_less_done() {
    let operator = format!("127.0.0.1:{}", free_port());
    let w = World::new(&[("COUNTERSIGN_METRICS__LISTEN", &operator)]);
    let browser = w.browser();
    let mut tokens: Vec<_> =
        (0..96).map(|_| w.web.tokens(&browser, "openid offline_access").refresh().to_owned()).collect();
    let span = Duration::from_secs(if is_alone() { 8 } else { 2 });
    let (peak, _) = refreshes(&w, &mut tokens[..32], span);
    let (storm, refused) = std::thread::scope(|scope| {
        let storm = scope.spawn(|| refreshes(&w, &mut tokens, 2 * span));
        std::thread::sleep(span);
        let page = get(format!("http://{operator}/metrics")).body;
        let queued = page.lines().find_map(|line| line.strip_prefix("countersign_store_write_queue ")).unwrap();
        assert!(queued.parse::<usize>().unwrap() <= 1024, "{queued}");
        storm.join().unwrap()
    });
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    while start.elapsed() < Duration::from_millis(500) {
        let begun = Instant::now();
        let answer = w.web.refresh(&tokens[0]);
        tokens[0] = answer.text("refresh_token");
        slowest = slowest.max(begun.elapsed());
    }
    println!(
        "{peak:.0} refreshes a second by 32 at once, {storm:.0} by 96 ({refused} told to come again); then {slowest:?} at worst"
    );
    assert!(storm > if is_alone() { 0.9 } else { 0.6 } * peak, "{peak} {storm}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
