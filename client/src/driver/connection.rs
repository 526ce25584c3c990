//! Connections of one sender thread: opened on demand up to a cap, reused last in, first out.
//!
//! A [`Connection`] is the right to send one request: a whole HTTP/1.1 connection, or one stream of
//! an HTTP/2 connection. How many streams the service allows is known before the first request is
//! sent, so that no request waits inside a connection where it would count as served.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::http1::{Http1, Unanswered};
use super::sender::SenderState;
use super::transport::{Destination, Transport};
use crate::experiment::{Protocol, Reuse};
use crate::sample::Failure;
use crate::tls::Tls;

/// Maximum number of requests that share one HTTP/2 connection, even if the service allows more.
const STREAMS: usize = 100;
/// The stream limit until the settings arrive: a service that allowed no streams could not be used.
const UNKNOWN: usize = 0;
/// How often a new HTTP/2 connection is checked for the arrival of its settings.
const SETTINGS_EVERY: Duration = Duration::from_millis(1);

/// The right to have one connection; given back when the connection is closed.
#[derive(Debug)]
pub(crate) struct Permit {
    address: SocketAddr,
    tls: Option<Tls>,
    openable: Rc<Cell<usize>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.openable.set(self.openable.get() + 1);
    }
}

/// The right to send one request.
#[derive(Debug)]
pub(crate) enum Connection {
    /// A whole HTTP/1.1 connection; boxed, because it is moved around a lot.
    Whole(Box<Whole>),
    /// A stream of an HTTP/2 connection.
    Stream(Stream),
}

/// An HTTP/1.1 connection, which takes one request at a time.
#[derive(Debug)]
pub(crate) struct Whole {
    http1: Http1,
    _permit: Permit,
}

/// An HTTP/2 connection that several requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    connection: Rc<RefCell<H2>>,
    lent: Cell<usize>,
    _permit: Permit,
}

type H2 = http2::Connection<TokioIo<Transport>, Full<Bytes>, Local>;

impl Shared {
    /// Lends a stream, if the service allows one more.
    fn lend(self: &Rc<Self>) -> Option<Stream> {
        let allowed = self.connection.borrow().current_max_send_streams().min(STREAMS);
        (self.lent.get() < allowed).then(|| {
            self.lent.set(self.lent.get() + 1);
            Stream { sender: self.sender.clone(), body: None, shared: Rc::clone(self) }
        })
    }
}

/// One of the concurrent streams that a connection allows.
#[derive(Debug)]
pub(crate) struct Stream {
    sender: http2::SendRequest<Full<Bytes>>,
    /// Body of the answer, once there is one.
    body: Option<Incoming>,
    shared: Rc<Shared>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lent.set(self.shared.lent.get() - 1);
    }
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

impl From<response::Parts> for AnswerHead {
    fn from(parts: response::Parts) -> Self {
        Self { status: parts.status, headers: parts.headers }
    }
}

impl Connection {
    /// Waits until the connection can take a request; false if it is closed.
    pub(crate) async fn is_ready(&mut self) -> bool {
        match self {
            Self::Whole(whole) => whole.http1.is_usable(),
            Self::Stream(stream) => stream.sender.ready().await.is_ok(),
        }
    }

    /// Sends request number `item` and returns the head of the answer.
    pub(crate) async fn send(
        &mut self,
        state: &SenderState,
        item: usize,
    ) -> Result<AnswerHead, Unanswered> {
        match self {
            Self::Whole(whole) => Ok(whole.http1.send(state.over_http1(item)).await?.parts.into()),
            Self::Stream(stream) => {
                let request = state.assignment.workload.over_h2(item);
                let answer = stream.sender.send_request(request).await.map_err(|error| {
                    match (error.is_canceled(), error.is_parse()) {
                        (true, _) => Unanswered::NothingSent,
                        (false, true) => Unanswered::Failed(Failure::Malformed),
                        (false, false) => Unanswered::Failed(Failure::Closed),
                    }
                })?;
                let (head, body) = answer.into_parts();
                stream.body = Some(body);
                Ok(head.into())
            }
        }
    }

    /// The next part of the answer's body; `None` after the last.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::Whole(whole) => whole.http1.part().await,
            Self::Stream(stream) => {
                while let Some(frame) = stream.body.as_mut().ok_or(Failure::Closed)?.frame().await {
                    if let Ok(data) = frame.map_err(|_| Failure::Closed)?.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(None)
            }
        }
    }
}

/// How a request gets to the service.
#[derive(Debug)]
pub(crate) enum Acquired {
    /// On an existing connection.
    Connection(Connection),
    /// On one that has to be opened.
    Permit(Permit),
}

/// A newly opened connection, and the part of it that other requests may share.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) shared: Option<Rc<Shared>>,
}

/// Opens the connection that `permit` allows.
pub(crate) async fn open(permit: Permit, protocol: Protocol) -> Result<Opened, Failure> {
    let stream = TcpStream::connect(permit.address).await.map_err(|error| blame(&error))?;
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    let transport = match &permit.tls {
        None => Transport::Plain(stream),
        Some(tls) => {
            let encrypted = tls.connect(stream).await.map_err(|_| Failure::Tls)?;
            Transport::Encrypted(Box::new(encrypted))
        }
    };
    match protocol {
        Protocol::Http1 => {
            let whole = Box::new(Whole { http1: Http1::new(transport), _permit: permit });
            Ok(Opened { connection: Connection::Whole(whole), shared: None })
        }
        Protocol::H2 => {
            let mut builder = http2::Builder::new(Local);
            let handshake =
                builder.initial_max_send_streams(UNKNOWN).handshake(TokioIo::new(transport));
            let (sender, connection) = handshake.await.map_err(|_| Failure::Connect)?;
            let connection = Rc::new(RefCell::new(connection));
            tokio::task::spawn_local(drive(Rc::clone(&connection)));
            while connection.borrow().current_max_send_streams() == UNKNOWN {
                if sender.is_closed() {
                    return Err(Failure::Connect);
                }
                tokio::time::sleep(SETTINGS_EVERY).await;
            }
            let shared = Shared { sender, connection, lent: Cell::new(0), _permit: permit };
            let shared = Rc::new(shared);
            let stream = shared.lend().ok_or(Failure::Connect)?;
            Ok(Opened { connection: Connection::Stream(stream), shared: Some(shared) })
        }
    }
}

/// Drives an HTTP/2 connection until it ends; its state can be read in between.
async fn drive(connection: Rc<RefCell<H2>>) {
    // Requests that fail with the connection report that themselves.
    let _ended = poll_fn(|context| Pin::new(&mut *connection.borrow_mut()).poll(context)).await;
}

/// Decides whether a missing connection is the fault of the service or of this machine.
fn blame(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        return Failure::NoPort;
    }
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        if [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].map(Some).contains(&errno) {
            return Failure::NoDescriptor;
        }
    }
    Failure::Connect
}

/// Spawns on the sender's own thread.
#[derive(Debug, Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// The idle connections of one thread, and how many more it may open.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Vec<Connection>,
    shared: Vec<Rc<Shared>>,
    destination: Destination,
    opened: usize,
    reuse: Reuse,
    openable: Rc<Cell<usize>>,
}

impl Pool {
    /// A pool that may open `cap` connections, to each address in turn, from number `first` on.
    pub(crate) fn new(cap: usize, destination: Destination, first: usize, reuse: Reuse) -> Self {
        let openable = Rc::new(Cell::new(cap));
        Self { idle: Vec::new(), shared: Vec::new(), destination, opened: first, reuse, openable }
    }

    /// The connection that was used last, or else a new one, unless the cap is reached.
    pub(crate) fn acquire(&mut self) -> Option<Acquired> {
        if let Some(connection) = self.idle.pop() {
            return Some(Acquired::Connection(connection));
        }
        self.shared.retain(|shared| !shared.sender.is_closed());
        if let Some(stream) = self.shared.iter().rev().find_map(Shared::lend) {
            return Some(Acquired::Connection(Connection::Stream(stream)));
        }
        let left = self.openable.get().checked_sub(1)?;
        self.openable.set(left);
        let Destination { addresses, tls } = &self.destination;
        let address = addresses[self.opened % addresses.len()];
        self.opened += 1;
        Some(Acquired::Permit(Permit {
            address,
            tls: tls.clone(),
            openable: Rc::clone(&self.openable),
        }))
    }

    /// Keeps a connection whose request has ended, for the next request.
    pub(crate) fn keep(&mut self, connection: Connection) {
        let is_whole = matches!(&connection, Connection::Whole(whole) if whole.http1.is_done());
        if self.reuse == Reuse::KeepAlive && is_whole {
            self.idle.push(connection);
        }
    }

    /// Lets other requests share a connection that was just opened.
    pub(crate) fn share(&mut self, shared: Rc<Shared>) {
        if self.reuse == Reuse::KeepAlive {
            self.shared.push(shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::blame;
    use crate::sample::Failure;

    #[test]
    fn what_this_machine_lacks_is_not_the_fault_of_the_service() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let no_port = io::Error::from(io::ErrorKind::AddrNotAvailable);
        assert_eq!([blame(&refused), blame(&no_port)], [Failure::Connect, Failure::NoPort]);
        #[cfg(unix)]
        {
            let full = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
            assert_eq!(blame(&full), Failure::NoDescriptor);
        }
    }
}
