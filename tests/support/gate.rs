//! What lies between two machines, in the hands of a test: TCP connections that are handed to one of several targets, and
//! that can be refused, cut, slowed down, or left without an answer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const OPEN: u8 = 0;
const REFUSING: u8 = 1;
const SILENT: u8 = 2;

struct Shared {
    targets: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
    round_trips: AtomicUsize,
    state: AtomicU8,
    /// What each answer is held back, in milliseconds.
    delay: AtomicU64,
    /// Messages to the server until one is the last of its connection; negative where none is.
    until_cut: AtomicI64,
    live: Mutex<Vec<TcpStream>>,
}

pub struct Gate {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Gate {
    /// A gate to these ports of this machine, each connection to the next one that takes it.
    pub fn to(ports: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            targets: Mutex::new(addresses(ports)),
            turn: AtomicUsize::new(0),
            round_trips: AtomicUsize::new(0),
            state: AtomicU8::new(OPEN),
            delay: AtomicU64::new(0),
            until_cut: AtomicI64::new(-1),
            live: Mutex::default(),
        });
        let here = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let here = Arc::clone(&here);
                std::thread::spawn(move || here.serve(client));
            }
        });
        Self { address, shared }
    }

    pub fn set_targets(&self, ports: &[u16]) {
        *self.shared.targets.lock().unwrap() = addresses(ports);
    }

    /// How often a client has spoken after its server had.
    pub fn round_trips(&self) -> usize {
        self.shared.round_trips.load(Ordering::SeqCst)
    }

    /// Cuts what is open and lets nobody in.
    pub fn refuse(&self) {
        self.shared.state.store(REFUSING, Ordering::SeqCst);
        for stream in self.shared.live.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Swallows every byte from now on, as a network does that has lost its way.
    pub fn fall_silent(&self) {
        self.shared.state.store(SILENT, Ordering::SeqCst);
    }

    /// Holds each answer back for so long.
    pub fn slow_down(&self, delay: Duration) {
        self.shared.delay.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Cuts one connection once so many more messages have gone to the server, whose answer to the last is lost.
    pub fn cut_after(&self, messages: i64) {
        self.shared.until_cut.store(messages, Ordering::SeqCst);
    }

    pub fn open(&self) {
        self.shared.state.store(OPEN, Ordering::SeqCst);
    }
}

fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
    ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
}

impl Shared {
    fn serve(self: Arc<Self>, client: TcpStream) {
        if self.state.load(Ordering::SeqCst) == REFUSING {
            return;
        }
        let targets = self.targets.lock().unwrap().clone();
        let first = self.turn.fetch_add(1, Ordering::SeqCst);
        let mut order = (0..targets.len()).map(|step| targets[(first + step) % targets.len()]);
        let Some(server) = order.find_map(|target| TcpStream::connect(target).ok()) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        self.live.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let here = Arc::clone(&self);
        let asked = Arc::new(AtomicBool::new(false));
        let answered = Arc::clone(&asked);
        std::thread::spawn(move || here.pass(back.0, back.1, true, &answered));
        self.pass(client, server, false, &asked);
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, answers: bool, asked: &AtomicBool) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let start = Instant::now();
            let late = || answers && start.elapsed() < Duration::from_millis(self.delay.load(Ordering::SeqCst));
            while self.state.load(Ordering::SeqCst) == SILENT || late() {
                std::thread::sleep(Duration::from_millis(10));
            }
            if self.state.load(Ordering::SeqCst) == REFUSING {
                break;
            }
            let cut = !answers && self.until_cut.fetch_sub(1, Ordering::SeqCst) == 0;
            if cut {
                let _ = from.shutdown(Shutdown::Both);
            }
            if !asked.swap(!answers, Ordering::SeqCst) && !answers {
                self.round_trips.fetch_add(1, Ordering::SeqCst);
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
