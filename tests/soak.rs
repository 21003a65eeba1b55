//! Hours of mixed traffic at a gentle rate, while all that is given runs out and is swept: does anything grow (reliability
//! figure 16)? The short form of some seconds looks whether the eyes see; `TEST_MINUTES` makes it long, as scripts/campaign does.
//!
//! What has ended stays in its table for a day, so the server's clock is set 47 seconds ahead each second: each half hour it lives
//! through a day. Between two requests, so that no code dies on its way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a campaign prints what it saw")]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::time::{Duration, Instant};

use countersign::config::DatabaseUrl;
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection as _, PgConnection, QueryableByName, RunQueryDsl as _, SqliteConnection, sql_query};
use support::app::Tokens;
use support::clock::FalseClock;
use support::{Answer, Browser, PASSWORD, Page, TO_DIRECTORY, World, post, wait_until};

const AHEAD: u64 = 47;
/// So few that the account's own list of what happened, the last hundred of each kind, fills soon.
const PEOPLE: [&str; 4] = ["ada", "grace", "edsger", "barbara"];
/// Sign-ins that go on being refreshed.
const CHAINS: usize = 10;

#[derive(QueryableByName)]
struct Named {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// What there is of everything at one moment.
#[derive(Debug, Clone, Default)]
struct Sample {
    at: Duration,
    resident_kib: u32,
    descriptors: u64,
    /// Rows of each table, and KiB of the database.
    sizes: BTreeMap<String, u64>,
    /// How long each kind of request took since the sample before.
    times: BTreeMap<&'static str, Vec<Duration>>,
}

impl Sample {
    fn take(w: &World, at: Duration, times: BTreeMap<&'static str, Vec<Duration>>) -> Self {
        let mut sizes: BTreeMap<_, _> = rows(&w.server.database_url()).into_iter().collect();
        if let DatabaseUrl::Sqlite(path) = DatabaseUrl::parse(&w.server.database_url()).unwrap() {
            let kib = |ending| fs::metadata(format!("{}{ending}", path.display())).map_or(0, |file| file.len() / 1024);
            sizes.extend([("KiB of the file".to_owned(), kib("")), ("KiB of its log".to_owned(), kib("-wal"))]);
        }
        let (resident_kib, descriptors) = (w.server.resident_kib(), w.server.descriptors());
        Self { at, resident_kib, descriptors, sizes, times }
    }
}

fn rows(url: &str) -> Vec<(String, u64)> {
    fn count<C>(conn: &mut C, tables: &str, more: &str) -> Vec<(String, u64)>
    where
        C: diesel::connection::LoadConnection,
        for<'q> diesel::query_builder::SqlQuery: diesel::query_dsl::LoadQuery<'q, C, Named>,
    {
        let tables: Vec<Named> = sql_query(tables).load(conn).unwrap();
        let each =
            tables.iter().map(|table| format!("SELECT '{0}' AS name, count(*) AS count FROM \"{0}\"", table.name));
        let text =
            each.chain([more.to_owned()]).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" UNION ALL ");
        let counted: Vec<Named> = sql_query(text).load(conn).unwrap();
        counted.into_iter().map(|row| (row.name, row.count.try_into().unwrap())).collect()
    }
    match DatabaseUrl::parse(url).unwrap() {
        DatabaseUrl::Sqlite(path) => count(
            &mut SqliteConnection::establish(path.to_str().unwrap()).unwrap(),
            "SELECT name, 0 AS count FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%sqlite%'",
            "",
        ),
        DatabaseUrl::Postgres(_) => count(
            &mut PgConnection::establish(url).unwrap(),
            "SELECT table_name::text AS name, 0::bigint AS count FROM information_schema.tables \
             WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'",
            "SELECT 'KiB of the database', pg_database_size(current_database()) / 1024",
        ),
    }
}

/// Those who use the server, one after another.
struct Traffic<'a> {
    w: &'a World,
    turn: u64,
    /// The browser of a sign-in, and what its application holds.
    chains: VecDeque<(Browser, Tokens)>,
    times: BTreeMap<&'static str, Vec<Duration>>,
}

impl Traffic<'_> {
    fn timed<T>(&mut self, kind: &'static str, request: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let answer = request();
        self.times.entry(kind).or_default().push(start.elapsed());
        answer
    }

    /// A form pressed by a stranger of some other network.
    fn press(&mut self, kind: &'static str, from: (&Browser, &Page), button: &str, fields: &[(&str, &str)]) -> Answer {
        let (browser, page) = from;
        let form = page.form_of(button);
        let request = post(page.url.join(&form.action).unwrap(), &form.filled(fields));
        let network = format!("10.{}.{}.1", self.turn / 256 % 256, self.turn % 256);
        let request = request.header("origin", &self.w.server.issuer).header("x-forwarded-for", network);
        self.timed(kind, || browser.send(request))
    }

    /// What happens in one second.
    fn turn(&mut self) {
        let app = &self.w.web;
        if self.turn.is_multiple_of(4) {
            let person = PEOPLE[usize::try_from(self.turn / 4).unwrap() % PEOPLE.len()];
            let browser = self.w.browser();
            let page = browser.open(app.request().with("scope", "openid offline_access").url());
            let code = self.timed("sign-in", || browser.sign_in_as(&page, person, PASSWORD)).code();
            let tokens = self.timed("exchange", || app.redeem(&code)).ok();
            self.chains.push_back((browser, Tokens(tokens)));
        }
        let at = usize::try_from(self.turn).unwrap() % self.chains.len();
        let tokens = self.chains[at].1.clone();
        let tokens = Tokens(self.timed("refresh", || app.refresh(tokens.refresh())).ok());
        assert_eq!(self.timed("introspection", || app.introspect(tokens.access()))["active"], true);
        self.timed("UserInfo", || app.userinfo(tokens.access())).ok();
        self.chains[at].1 = tokens;
        if self.chains.len() > CHAINS {
            let (browser, tokens) = self.chains.pop_front().unwrap();
            // One of three is forgotten, and runs out.
            match self.turn / 4 % 3 {
                0 => self.timed("revocation", || app.revoke(tokens.refresh())),
                1 => {
                    let home = browser.open(app.url("/"));
                    self.timed("sign-out", || browser.press(&home, "sign-out", &[]));
                }
                _ => {}
            }
        }
        let stranger = self.w.browser();
        match self.turn % 16 {
            1 | 9 => {
                let page = stranger.open(app.request().url());
                let nobody = format!("nobody{}", self.turn);
                let fields = [("username", nobody.as_str()), ("password", "not the right password")];
                let answer = self.press("wrong password", (&stranger, &page), "login-submit", &fields);
                assert!(answer.status == 303 || answer.status == 401 || answer.status == 200, "{answer:?}");
            }
            5 => {
                let page = stranger.open(app.url("/register"));
                let (name, email) = (format!("new{}", self.turn), format!("new{}@example.com", self.turn));
                let fields = [("username", name.as_str()), ("email", &email), ("password", PASSWORD)];
                let answer = self.press("registration", (&stranger, &page), "register-submit", &fields);
                assert!(answer.status < 400, "{answer:?}");
            }
            13 => {
                let page = stranger.open(app.url("/password/forgot"));
                let answer =
                    self.press("forgotten password", (&stranger, &page), "forgot-submit", &[("email", PEOPLE[3])]);
                assert!(answer.status < 400, "{answer:?}");
            }
            _ => {}
        }
        self.turn += 1;
    }
}

/// MiB more each hour, by the line that fits best.
fn slope(samples: &[Sample]) -> f64 {
    let points =
        || samples.iter().map(|sample| (sample.at.as_secs_f64() / 3600.0, f64::from(sample.resident_kib) / 1024.0));
    let count = f64::from(u32::try_from(samples.len()).unwrap());
    let (x, y) = points().fold((0.0, 0.0), |sum, point| (sum.0 + point.0 / count, sum.1 + point.1 / count));
    let (above, below) =
        points().fold((0.0, 0.0), |sum, p| (sum.0 + (p.0 - x) * (p.1 - y), sum.1 + (p.0 - x) * (p.0 - x)));
    above / below
}

fn p99(samples: &[Sample], kind: &str) -> (Duration, usize) {
    let mut times: Vec<_> = samples.iter().filter_map(|sample| sample.times.get(kind)).flatten().collect();
    times.sort();
    (times.get(times.len() * 99 / 100).copied().copied().unwrap_or_default(), times.len())
}

/// What grew, of a run in `parts` of equal length. The first one warms up: its answers are what the last ones' are held
/// against, its sizes say nothing.
fn verdict(samples: &[Sample], parts: usize) -> Vec<String> {
    let part = |number: usize| &samples[samples.len() * number / parts..samples.len() * (number + 1) / parts];
    let (first, second, last) = (part(0), part(1), part(parts - 1));
    let mut grown = Vec::new();
    let mut judge = |told: String, held: bool| {
        println!("{} {told}", if held { "held  " } else { "MISSED" });
        if !held {
            grown.push(told);
        }
    };
    let rise = slope(&samples[first.len()..]);
    judge(format!("resident memory {rise:+.2} MiB an hour after the first part; <= 1"), rise <= 1.0);
    let most = |part: &[Sample], of: &dyn Fn(&Sample) -> u64| part.iter().map(of).max().unwrap();
    let descriptors = |sample: &Sample| sample.descriptors;
    let (then, now) = (most(second, &descriptors), most(last, &descriptors));
    judge(format!("descriptors {then} -> {now}; level"), now <= then + 2);
    for name in last[0].sizes.keys() {
        let size = |sample: &Sample| sample.sizes[name];
        let (then, now) = (most(second, &size), most(last, &size));
        judge(format!("{name} {then} -> {now}; level within a tenth"), now <= then + then / 10 + 10);
    }
    let kinds: std::collections::BTreeSet<_> = last.iter().flat_map(|sample| sample.times.keys()).collect();
    for kind in kinds {
        let ((then, before), (now, count)) = (p99(first, kind), p99(last, kind));
        // Of a few the slowest is chance.
        if before >= 50 {
            let told = format!("{kind} p99 {then:.1?} of {before} -> {now:.1?} of {count}; <= 1.1 x");
            judge(told, now.as_secs_f64() <= 1.1 * then.as_secs_f64());
        }
    }
    grown
}

#[test]
fn hours_of_traffic_leave_nothing_that_grows() {
    let minutes: u32 = std::env::var("TEST_MINUTES").map_or(0, |value| value.parse().unwrap());
    let long = minutes > 0;
    let clock = FalseClock::new();
    let environment = clock.environment();
    let mut env: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.extend([
        TO_DIRECTORY,
        ("COUNTERSIGN_REGISTRATION__ENABLED", "true"),
        ("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1"),
        ("COUNTERSIGN_SESSION__LIFETIME", "4h"),
        ("COUNTERSIGN_SESSION__IDLE", "4h"),
        ("COUNTERSIGN_REFRESH_TOKEN__LIFETIME", "4h"),
        ("COUNTERSIGN_REFRESH_TOKEN__IDLE", "4h"),
    ]);
    let w = World::new(&env);
    for name in &PEOPLE[1..] {
        w.server.user(name);
    }
    let (interval, turns, per_sample) =
        if long { (Duration::from_secs(1), u64::from(minutes) * 60, 60) } else { (Duration::from_millis(60), 96, 8) };
    let parts = usize::try_from(minutes / 60).unwrap().max(4);
    let mut traffic = Traffic { w: &w, turn: 0, chains: VecDeque::new(), times: BTreeMap::new() };
    let (start, mut samples) = (Instant::now(), Vec::new());
    for turn in 1..=turns {
        clock.set(&format!("+{}s", turn * AHEAD));
        traffic.turn();
        if turn.is_multiple_of(per_sample) {
            let sample = Sample::take(&w, start.elapsed(), std::mem::take(&mut traffic.times));
            if long {
                let Sample { at, resident_kib, descriptors, sizes, .. } = &sample;
                println!(
                    "{:.0} min: {resident_kib} KiB, {descriptors} descriptors, {sizes:?}",
                    at.as_secs_f64() / 60.0
                );
            }
            samples.push(sample);
            // Whoever gets mail takes it away.
            let mails = fs::read_dir(w.server.home().join("mail")).into_iter().flatten();
            mails.for_each(|mail| drop(fs::remove_file(mail.unwrap().path())));
        }
        if start + interval * u32::try_from(turn).unwrap() > Instant::now() {
            wait_until(start + interval * u32::try_from(turn).unwrap());
        }
    }
    println!("{turns} turns in {:.2} h, {parts} parts", start.elapsed().as_secs_f64() / 3600.0);
    let grown = verdict(&samples, parts);
    let log = w.server.log();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    if long {
        assert!(grown.is_empty(), "{grown:#?}");
        return;
    }
    // In some seconds nothing levels but what should not grow at all; the eyes must see what does.
    let (then, now) = (&samples[2], samples.last().unwrap());
    assert!(now.descriptors <= then.descriptors + 2, "{} {}", then.descriptors, now.descriptors);
    assert!(then.sizes["sessions"] < now.sizes["sessions"] && now.sizes["sessions"] == 24, "{:?}", now.sizes);
    assert!(now.sizes["users"] == PEOPLE.len() as u64 && now.sizes["clients"] == 6, "{:?}", now.sizes);
    assert!(grown.iter().any(|told| told.starts_with("sessions")), "{grown:?}");
    for kind in
        ["sign-in", "exchange", "refresh", "introspection", "UserInfo", "revocation", "sign-out", "registration"]
    {
        assert!(samples.iter().any(|sample| sample.times.contains_key(kind)), "{kind}");
    }
}

#[test]
fn what_grows_is_found() {
    let run = |grow: &dyn Fn(u32, &mut Sample)| {
        let sample = |minute: u32| {
            let times = BTreeMap::from([("refresh", vec![Duration::from_millis(2); 99])]);
            let mut sample = Sample {
                at: Duration::from_mins(minute.into()),
                resident_kib: 50_000 + minute % 7,
                descriptors: u64::from(30 + minute % 2),
                sizes: BTreeMap::from([("grants".to_owned(), 1000)]),
                times,
            };
            grow(minute, &mut sample);
            sample
        };
        verdict(&(0..240).map(sample).collect::<Vec<_>>(), 4)
    };
    assert_eq!(run(&|_, _| {}), Vec::<String>::new());
    let found = [
        run(&|minute, sample| sample.resident_kib += 20 * minute),
        run(&|minute, sample| sample.descriptors += u64::from(minute / 30)),
        run(&|minute, sample| *sample.sizes.get_mut("grants").unwrap() += u64::from(3 * minute)),
        run(&|minute, sample| {
            sample.times.get_mut("refresh").unwrap().push(Duration::from_millis((minute / 60).into()));
        }),
    ];
    for (grown, name) in found.iter().zip(["resident", "descriptors", "grants", "refresh"]) {
        assert!(grown.len() == 1 && grown[0].starts_with(name), "{name}: {grown:?}");
    }
}
