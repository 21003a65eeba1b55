//! Runs many connections on one thread and counts what they did.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::http::{Answer, Connection};
use crate::process::{Cpu, Process};

/// One connection's work: requests made one after the other, each from the answers before.
pub trait Operation {
    /// Writes the next request; `false` when there is nothing left to ask.
    fn request(&mut self, into: &mut Vec<u8>) -> bool;
    fn answer(&mut self, answer: &Answer<'_>) -> Result<()>;
}

/// How long to run. The warm-up is not counted; `count` ends the measured part early.
#[derive(Clone, Copy)]
pub struct Span {
    pub warm_up: Duration,
    pub measured: Duration,
    pub count: u64,
}

impl Span {
    pub fn of(measured: Duration) -> Self {
        Self { warm_up: measured / 4, measured, count: u64::MAX }
    }
}

/// What all connections of a run share.
#[derive(Default)]
pub struct Control {
    recording: Cell<bool>,
    stopped: Cell<bool>,
    remaining: Cell<u64>,
    latencies: RefCell<Vec<Duration>>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

impl Control {
    pub fn goes_on(&self) -> bool {
        !self.stopped.get() && self.remaining.get() > 0
    }

    pub fn record(&self, started: Instant, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.errors.set(self.errors.get() + 1);
            self.first_error.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
        } else if self.recording.get() && self.goes_on() {
            self.latencies.borrow_mut().push(started.elapsed());
            self.remaining.set(self.remaining.get() - 1);
        }
    }
}

/// The figures of one run.
#[derive(Default)]
pub struct Run {
    pub requests: usize,
    pub wall: Duration,
    pub server_cpu: Duration,
    pub client_cpu: Duration,
    latencies: Vec<Duration>,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Run {
    /// Goes on where this one ended.
    pub fn add(&mut self, more: Self) {
        self.requests += more.requests;
        self.wall += more.wall;
        self.server_cpu += more.server_cpu;
        self.client_cpu += more.client_cpu;
        self.latencies.extend(more.latencies);
        self.latencies.sort_unstable();
        self.errors += more.errors;
        self.first_error = self.first_error.take().or(more.first_error);
    }

    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    /// Microseconds of processor time the server spent on one request.
    pub fn cpu_micros(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / (self.requests.max(1) as f64)
    }

    pub fn client_micros(&self) -> f64 {
        self.client_cpu.as_secs_f64() * 1e6 / (self.requests.max(1) as f64)
    }

    /// The latency that `percent` of the requests did not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

pub type Worker = Pin<Box<dyn Future<Output = ()>>>;

/// Runs `workers` together for `span` and measures the servers meanwhile.
pub async fn measure(
    servers: &[&Process],
    span: Span,
    workers: impl FnOnce(&Rc<Control>) -> Vec<Worker>,
) -> Result<Run> {
    let control = Rc::new(Control::default());
    control.remaining.set(span.count);
    let mut running = JoinSet::new();
    for worker in workers(&control) {
        running.spawn_local(worker);
    }
    tokio::time::sleep(span.warm_up).await;
    let (server_before, client_before) = (Cpu::of(servers)?, Cpu::own()?);
    let started = Instant::now();
    control.recording.set(true);
    let all_done = async { while running.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(span.measured, all_done).await;
    let (server_after, client_after) = (Cpu::of(servers)?, Cpu::own()?);
    let ended = Instant::now();
    control.stopped.set(true);
    // Requests under way are finished, so that a rotation's answer is not lost.
    while running.join_next().await.is_some() {}

    let mut latencies = control.latencies.take();
    latencies.sort_unstable();
    Ok(Run {
        requests: latencies.len(),
        wall: ended - started,
        server_cpu: server_after.since(&server_before),
        client_cpu: client_after.since(&client_before),
        latencies,
        errors: control.errors.get(),
        first_error: control.first_error.take(),
    })
}

/// One connection for each operation, all at full speed.
pub async fn drive<O: Operation + 'static>(server: &Process, span: Span, operations: Vec<O>) -> Result<Run> {
    pace(&[server], server.address, span, operations, Duration::ZERO).await
}

/// As `drive`, to one or more servers behind `address`, with at least `interval` between two requests of a connection.
pub async fn pace<O: Operation + 'static>(
    servers: &[&Process],
    address: SocketAddr,
    span: Span,
    operations: Vec<O>,
    interval: Duration,
) -> Result<Run> {
    measure(servers, span, |control| {
        let worker = |operation| -> Worker {
            Box::pin(repeat(Connection::new(address), operation, interval, Rc::clone(control)))
        };
        operations.into_iter().map(worker).collect()
    })
    .await
}

async fn repeat(mut connection: Connection, mut operation: impl Operation, interval: Duration, control: Rc<Control>) {
    let mut request = Vec::with_capacity(4096);
    while control.goes_on() && operation.request(&mut request) {
        let started = Instant::now();
        let outcome = match connection.exchange(&request).await {
            Ok(answer) => operation.answer(&answer),
            Err(error) => Err(error),
        };
        control.record(started, outcome);
        if !interval.is_zero() {
            tokio::time::sleep(interval.saturating_sub(started.elapsed())).await;
        }
    }
}
