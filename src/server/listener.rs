//! Connections: accepting, bounding, and stopping them in order.
//!
//! A connection that sends no head in time is closed, also when it idles. Over the limit a
//! connection hears 503 and is closed. On the signal to stop, transactions are refused and what
//! runs is finished; then connections close as soon as they have been answered.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{interval, sleep, timeout};

use super::api::{App, router};
use super::backend::Service;
use super::options::{Options, OptionsError};
use super::problem::{Kind, Problem};

/// Largest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most header fields.
const HEADERS_COUNT_MAX: usize = 64;

/// How long answered connections may take to close when the server stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often samples are folded into histograms; scraping does it too.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait before accepting again when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option must be changed.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A server that listens but does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Checks the options and listens.
    pub async fn bind(service: Service, options: Options) -> Result<Self, Error> {
        options.validate()?;
        let address = options.address;
        let failed = |source| Error::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let connections = Arc::new(Semaphore::new(options.connections_max));
        Ok(Self { listener, address, app: Arc::new(App::new(service, options)), connections })
    }

    /// The address that it really listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` resolves, then drains: new transactions get 503, those that run are
    /// finished within the shutdown timeout, and connections are closed.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) {
        let (close, closing) = watch::channel(false);
        let accepting = self.accept(closing);
        let draining = async {
            stop.await;
            self.app.draining.store(true, Ordering::Relaxed);
            let bound = self.app.options.shutdown_timeout;
            let left = self.app.service.backend.shutdown(bound).await;
            if left > 0 {
                tracing::warn!(left, "transactions are left to recovery at the next start");
            }
            close.send_replace(true);
        };
        tokio::join!(accepting, draining);
        let all = u32::try_from(self.app.options.connections_max).unwrap_or(u32::MAX);
        if timeout(CLOSE_TIMEOUT, self.connections.acquire_many(all)).await.is_err() {
            tracing::warn!("closed connections that had not been answered in time");
        }
    }

    async fn accept(&self, mut closing: watch::Receiver<bool>) {
        let router = router(Arc::clone(&self.app));
        let mut upkeep = interval(UPKEEP_INTERVAL);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = upkeep.tick() => {
                    self.app.metrics.upkeep();
                    continue;
                }
                _ = closing.changed() => return,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream, &router, &closing),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, router: &Router, closing: &watch::Receiver<bool>) {
        let limit = self.app.options.connections_max;
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            self.app.metrics.connection_refused();
            turn_away(&stream, limit);
            return;
        };
        self.app.metrics.connections(limit - self.connections.available_permits());
        let connection = Connection { stream, permit, closing: closing.clone() };
        tokio::spawn(connection.serve(router.clone(), Arc::clone(&self.app)));
    }
}

/// Closes the connection that a request came by, whatever is still to be written there: what waits
/// for a client to read cannot be ended from within its answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Cutter(Arc<Notify>);

impl Cutter {
    pub(super) fn cut(&self) {
        self.0.notify_one();
    }
}

struct Connection {
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    closing: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(mut self, router: Router, app: Arc<App>) {
        // Answers are small and somebody waits for each: never hold one back.
        if self.stream.set_nodelay(true).is_err() {
            return;
        }
        let (cutter, router) = (Cutter::default(), TowerToHyperService::new(router));
        let cut = cutter.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(cutter.clone());
            router.call(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(app.options.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_COUNT_MAX)
            .serve_connection(TokioIo::new(self.stream), service);
        let mut served = pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = cut.0.notified() => {
                tracing::debug!("cut off a client that takes no answers");
                Ok(())
            }
            _ = self.closing.changed() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
        drop(self.permit);
    }
}

/// One write that fits any socket's buffer; whether the client reads it is its own affair.
fn turn_away(stream: &TcpStream, limit: usize) {
    let detail = format!("{limit} connections are open, the limit");
    let body = Problem::new(Kind::Unavailable, detail).body();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        tracing::debug!(%error, "a refused connection was gone");
    }
}
