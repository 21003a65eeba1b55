//! The figures as Markdown tables, ready for docs/performance.md.

use std::fs;

use crate::drive::Run;
use crate::floor::{Cost, Floors};
use crate::millis;

/// What an operation may cost.
pub struct Bound {
    limit: f64,
    is_rate: bool,
    formula: String,
}

impl Bound {
    /// At most `factor` times the sum of the parts, in processor microseconds.
    pub fn cpu(factor: f64, parts: &[(&str, f64)]) -> Self {
        let limit = factor * parts.iter().map(|(_, micros)| micros).sum::<f64>();
        let sum: Vec<String> = parts.iter().map(|(name, micros)| format!("{name} {micros:.1}")).collect();
        Self { limit, is_rate: false, formula: format!("{factor} x ({})", sum.join(" + ")) }
    }

    /// At least `share` of a rate.
    pub fn rate(share: f64, rate: f64, name: &str) -> Self {
        Self { limit: share * rate, is_rate: true, formula: format!("{share} x {rate:.1} {name}") }
    }

    /// 1.0 and less is within the bound.
    fn used_by(&self, run: &Run) -> f64 {
        if self.is_rate { self.limit / run.per_second().max(1e-9) } else { run.cpu_micros() / self.limit }
    }

    fn unit(&self) -> &'static str {
        if self.is_rate { "req/s" } else { "us" }
    }
}

/// Prints as it goes and counts what is over.
#[derive(Default)]
pub struct Report {
    /// Which database it is about.
    on: &'static str,
    passed: usize,
    over: Vec<String>,
}

impl Report {
    pub fn machine() {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!(
            "Machine: {} x {}, Linux {}, load before the run {}",
            cores,
            model.map_or("unknown processor", |(_, name)| name),
            read("/proc/sys/kernel/osrelease").trim(),
            read("/proc/loadavg").split_whitespace().next().unwrap_or("unknown"),
        );
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("COUNTERSIGN_") {
                println!("Not the default configuration: {name} is set");
            }
        }
    }

    /// Which database the sections from here on are about; `title` says more of it.
    pub fn subject(&mut self, on: &'static str, title: &str) {
        self.on = on;
        println!("\n# {title}");
    }

    pub fn section(title: &str) {
        println!("\n## {title}\n");
        println!("| {:<56} | {:>40} | {:>20} | {:<12} |", "", "measured", "bound", "");
        println!("|{:-<58}|{:->41}:|{:->21}:|{:-<14}|", "", "", "", "");
    }

    /// One line under `section`; `bound` is its text and the share of it that is used.
    pub fn figure(&mut self, name: &str, measured: &str, bound: Option<(&str, f64)>) {
        let verdict = bound.map_or_else(String::new, |(_, used)| self.judge(name, used));
        let bound = bound.map_or("", |(bound, _)| bound);
        println!("| {name:<56} | {measured:>40} | {bound:>20} | {verdict:<12} |");
    }

    /// A run as one line under `section`.
    pub fn run(&mut self, name: &str, run: &Run) {
        let [middle, most] = [50, 99].map(|percent| millis(run.percentile(percent)));
        let line =
            format!("{:.0}/s, p50 {middle:.2} ms, p99 {most:.2} ms, {:.0} us", run.per_second(), run.cpu_micros());
        self.figure(name, &line, None);
        self.errors(name, run);
    }

    pub fn floors(floors: &Floors) {
        println!("\n## Floors\n");
        println!("| {:<48} | {:>10} | {:>12} |", "", "CPU us", "per second");
        println!("|{:-<50}|{:->11}:|{:->13}:|", "", "", "");
        let line = |name: &str, cpu: f64, rate: f64| println!("| {name:<48} | {cpu:>10.1} | {rate:>12.0} |");
        for (name, run) in
            [("bytes: actix-web, 2 KiB", &floors.bytes), ("form: actix-web, form and Basic header", &floors.form)]
        {
            line(name, run.cpu_micros(), run.per_second());
            if let Some(error) = &run.first_error {
                println!("{} errors, the first: {error}", run.errors);
            }
        }
        let cost = |name: &str, cost: Cost| line(name, cost.cpu, 1e6 / cost.wall);
        cost("signature ES256", floors.es256);
        cost("signature EdDSA", floors.eddsa);
        cost("signature RS256", floors.rs256);
        cost("verification ES256", floors.es256_verify);
        if !floors.update.is_empty() {
            cost("SQLite: one indexed read", floors.read);
            cost("SQLite: one durable commit of one small row", floors.commit);
        }
        for (group, rotation) in &floors.update {
            cost(&format!("SQLite: rotation in place, {group} to a commit"), *rotation);
        }
        for (group, rotation) in &floors.update_insert {
            cost(&format!("SQLite: rotation into a new row, {group} to a commit"), *rotation);
        }
        let argon2 = floors.argon2_per_second;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        line("Argon2id m=19456 t=2 p=1, all cores", cores as f64 * 1e6 / argon2, argon2);
    }

    pub fn operations() {
        println!("\n## Operations\n");
        println!(
            "| {:<36} | {:>8} | {:>7} | {:>7} | {:>9} | {:>9} | {:>11} | {:<12} | of what",
            "", "req/s", "p50 ms", "p99 ms", "client us", "CPU us", "bound", ""
        );
        println!(
            "|{:-<38}|{:->9}:|{:->8}:|{:->8}:|{:->10}:|{:->10}:|{:->12}:|{:-<14}|---",
            "", "", "", "", "", "", "", ""
        );
    }

    pub fn operation(&mut self, name: &str, run: &Run, bound: Option<&Bound>) {
        let verdict = bound.map_or_else(String::new, |bound| self.judge(name, bound.used_by(run)));
        let limit = bound.map_or_else(String::new, |bound| format!("{:.1} {}", bound.limit, bound.unit()));
        println!(
            "| {name:<36} | {:>8.0} | {:>7.2} | {:>7.2} | {:>9.1} | {:>9.1} | {limit:>11} | {verdict:<12} | {}",
            run.per_second(),
            millis(run.percentile(50)),
            millis(run.percentile(99)),
            run.client_micros(),
            run.cpu_micros(),
            bound.map_or("", |bound| bound.formula.as_str()),
        );
        self.errors(name, run);
    }

    pub fn errors(&mut self, name: &str, run: &Run) {
        if let Some(error) = &run.first_error {
            println!("{name}: {} errors, the first: {error}", run.errors);
            self.over.push(format!("{}: {name} (errors)", self.on));
        }
    }

    fn judge(&mut self, name: &str, used: f64) -> String {
        if used <= 1.0 {
            self.passed += 1;
            format!("{used:.2} PASS")
        } else {
            self.over.push(format!("{}: {name}", self.on));
            format!("{used:.2} over")
        }
    }

    pub fn verdict(&self) {
        println!("\n{} within their bounds, {} over: {}", self.passed, self.over.len(), self.over.join("; "));
    }
}

pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
