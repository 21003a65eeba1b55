//! A TCP proxy: the balancer before several servers, or the counter between a server and its database. It has a thread of its
//! own, so that it does not wait for the load generator.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};

pub struct Proxy {
    pub address: SocketAddr,
    turns: Arc<AtomicU64>,
}

impl Proxy {
    /// Hands each connection to the next of `targets` that takes it; when one side ends it, the other is told.
    pub fn to(targets: &[SocketAddr]) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (address, turns) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let (targets, counted) = (targets.to_vec(), Arc::clone(&turns));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = move || {
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let listener = TcpListener::from_std(listener)?;
                for first in 0.. {
                    let (client, _) = listener.accept().await?;
                    let order = (0..targets.len()).filter_map(|step| targets.get((first + step) % targets.len()));
                    let order: Vec<SocketAddr> = order.copied().collect();
                    let counted = Arc::clone(&counted);
                    tokio::task::spawn_local(async move {
                        // An end of either side is the end of both.
                        drop(pass(client, &order, &counted).await);
                    });
                }
                Ok::<_, std::io::Error>(())
            })
        };
        // It ends with the program.
        std::thread::Builder::new().name("proxy".to_owned()).spawn(serve).context("a thread")?;
        Ok(Self { address, turns })
    }

    /// Round trips so far: how often a client spoke after the server had.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

async fn pass(mut client: TcpStream, targets: &[SocketAddr], turns: &AtomicU64) -> Result<()> {
    let mut connected = None;
    for target in targets {
        if let Ok(stream) = TcpStream::connect(target).await {
            connected = Some(stream);
            break;
        }
    }
    let mut server = connected.context("no server takes the connection")?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let asked = Cell::new(false);
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let ask = || {
        if !asked.replace(true) {
            turns.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::select! {
        ended = copy(from_client, to_server, ask) => ended,
        ended = copy(from_server, to_client, || asked.set(false)) => ended,
    }
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, seen: impl Fn()) -> Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        seen();
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
    }
}
