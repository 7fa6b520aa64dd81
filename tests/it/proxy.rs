//! A TCP proxy before a database that cuts the connection at a chosen step of the protocol.
//!
//! It understands as little as it needs: it looks for a few bytes on their way to the server. One
//! trap is set at a time and springs once.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::pair::SETTLED_MAX;

/// When it springs, seen from the message that holds the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The message never reaches the server: cut.
    BeforeItIsSent,
    /// The server has it: cut at once.
    OnceItIsSent,
    /// The server has it and its answer is lost: cut by [`Proxy::cut`].
    BeforeItIsAnswered,
    /// On its way until [`Proxy::let_go`], whatever becomes of the client.
    HeldBack,
}

/// What a cut takes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// The one connection; others go on, and a new one is let through.
    OneConnection,
    /// Every connection, and no new one until [`Proxy::heal`].
    UntilHealed,
}

#[derive(Debug, Clone, Copy)]
struct Trap {
    bytes: &'static str,
    moment: Moment,
    outage: Outage,
}

struct Shared {
    upstream: SocketAddr,
    trap: Mutex<Option<Trap>>,
    /// Every message with these bytes is cut before it is sent.
    barred: Mutex<Option<&'static str>>,
    down: watch::Sender<bool>,
    /// How many traps have sprung, and how many connections that lost their answers were cut.
    sprung: watch::Sender<u64>,
    cut: watch::Sender<u64>,
    let_go: watch::Sender<u64>,
    /// Connections that came in an outage.
    refused: watch::Sender<u64>,
}

pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// A proxy on a free port before `port`.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            upstream: SocketAddr::from(([127, 0, 0, 1], port)),
            trap: Mutex::default(),
            barred: Mutex::default(),
            down: watch::Sender::new(false),
            sprung: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            let_go: watch::Sender::new(0),
            refused: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(shared.clone(), listener));
        Self { shared, port: own, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the trap for the next message that holds these bytes.
    pub fn set(&self, bytes: &'static str, moment: Moment, outage: Outage) {
        let trap = Trap { bytes, moment, outage };
        let before = self.shared.trap.lock().unwrap().replace(trap);
        assert!(before.is_none(), "the trap before has not sprung: {before:?}");
        self.shared.sprung.send_replace(0);
    }

    /// Cuts every connection that brings a message with these bytes, until it is `None` again.
    pub fn bar(&self, bytes: Option<&'static str>) {
        *self.shared.barred.lock().unwrap() = bytes;
    }

    /// Waits until the trap has sprung.
    pub async fn sprung(&self) {
        let mut sprung = self.shared.sprung.subscribe();
        let sprung = tokio::time::timeout(SETTLED_MAX, sprung.wait_for(|count| *count > 0)).await;
        assert!(sprung.is_ok(), "{:?} never came", self.shared.trap.lock().unwrap());
    }

    /// Cuts the connection whose answers are being lost, and all others in an outage.
    pub fn cut(&self, outage: Outage) {
        if outage == Outage::UntilHealed {
            self.shared.down.send_replace(true);
        }
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Sends on what is held back.
    pub fn let_go(&self) {
        self.shared.let_go.send_modify(|count| *count += 1);
    }

    /// Waits until so many connections were refused.
    pub async fn refused(&self, count: u64) {
        self.shared.refused.subscribe().wait_for(|refused| *refused >= count).await.unwrap();
    }

    /// Lets new connections through.
    pub fn heal(&self) {
        self.shared.down.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.down.send_replace(true);
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    while let Ok((client, _)) = listener.accept().await {
        if *shared.down.borrow() {
            shared.refused.send_modify(|count| *count += 1);
            continue;
        }
        tokio::spawn(carry(shared.clone(), client));
    }
}

/// Carries one connection. Whatever returns first drops, and so cuts, both ends.
async fn carry(shared: Arc<Shared>, client: TcpStream) {
    let Ok(server) = TcpStream::connect(shared.upstream).await else { return };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let mut down = shared.down.subscribe();
    let mut cut = shared.cut.subscribe();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let losing = watch::Sender::new(false);
    tokio::select! {
        () = requests(&shared, from_client, to_server, &losing) => {}
        () = answers(from_server, to_client, &losing) => {}
        _ = down.wait_for(|down| *down) => {}
        () = cut_while_losing(&mut cut, &losing) => {}
    }
}

async fn requests(
    shared: &Shared,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    losing: &watch::Sender<bool>,
) {
    let mut seen: Vec<u8> = Vec::new();
    loop {
        let fresh = seen.len();
        if !matches!(from.read_buf(&mut seen).await, Ok(read) if read > 0) {
            return;
        }
        if shared.is_barred(&seen) {
            return;
        }
        let sprung = shared.spring(&seen);
        let Some((trap, at)) = sprung else {
            if to.write_all(&seen[fresh..]).await.is_err() {
                return;
            }
            // Bytes may come in two pieces.
            seen.drain(..seen.len().saturating_sub(64));
            continue;
        };
        let lost = trap.moment == Moment::BeforeItIsAnswered;
        let held = trap.moment == Moment::HeldBack;
        let mut let_go = shared.let_go.subscribe();
        let before = trap.moment == Moment::BeforeItIsSent;
        let sent = if before || held { at.max(fresh) } else { seen.len() };
        losing.send_replace(lost);
        let _ = to.write_all(&seen[fresh..sent]).await;
        if !lost && trap.outage == Outage::UntilHealed {
            shared.down.send_replace(true);
        }
        shared.sprung.send_replace(1);
        if held {
            let _ = let_go.changed().await;
            let _ = to.write_all(&seen[sent..]).await;
        }
        if !lost && !held {
            return;
        }
        seen.clear();
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, losing: &watch::Sender<bool>) {
    let mut bytes = Vec::new();
    while matches!(from.read_buf(&mut bytes).await, Ok(read) if read > 0) {
        if !*losing.borrow() && to.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
    }
}

async fn cut_while_losing(cut: &mut watch::Receiver<u64>, losing: &watch::Sender<bool>) {
    losing.subscribe().wait_for(|losing| *losing).await.expect("borrowed");
    cut.mark_unchanged();
    let _ = cut.changed().await;
}

fn find(seen: &[u8], text: &str) -> Option<usize> {
    seen.windows(text.len()).position(|window| window == text.as_bytes())
}

impl Shared {
    fn is_barred(&self, seen: &[u8]) -> bool {
        self.barred.lock().unwrap().is_some_and(|bytes| find(seen, bytes).is_some())
    }

    /// Takes the trap if these bytes spring it, with the place of the message that holds them.
    fn spring(&self, seen: &[u8]) -> Option<(Trap, usize)> {
        let mut trap = self.trap.lock().unwrap();
        let at = find(seen, trap.as_ref()?.bytes)?;
        // Both protocols put five bytes before a statement; what stands before them in a batch
        // reaches the server.
        trap.take().map(|trap| (trap, at.saturating_sub(5)))
    }
}
