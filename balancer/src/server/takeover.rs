//! Handing over the listening sockets of an old process to a new one.
//!
//! Closing a socket also closes the connections that wait in its queue, even if another process
//! listens on the same port. So a new balancer does not bind a second set: it asks the old one for
//! its sockets, over a Unix socket named after the address (in the abstract namespace, so that no
//! file is left behind), and both accept from the same queues until the old one is told to stop.
//! Where workers join, only the new one accepts, so that all of them join it. The Unix socket
//! itself is handed over too, so that the next process finds the one that still runs. As with
//! `SO_REUSEPORT`, both must belong to the same user; each checks the other. The connection
//! between them stays open: when it ends, the old process knows that no other serves the clients
//! in the queues.
//!
//! The operator's socket is lent to a process that has the same two addresses. A verb must not
//! reach one of two processes by chance, so the old one stops accepting there before the new one
//! gets the socket, and accepts again when the new one is gone.

use std::io::{IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::watch;

/// Sockets passed in one message; the kernel allows 253.
const PER_MESSAGE: usize = 128;
/// Maximum number of sockets that are taken over.
const MAX_SOCKETS: usize = 2048;
/// The other process has to answer within this time.
const LIMIT: Duration = Duration::from_secs(2);
/// The operator's port is lent after this time even if this process still accepts there.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);
/// Pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What can be taken over from this process.
#[derive(Debug)]
pub struct Takeover {
    door: UnixListener,
    sockets: Vec<OwnedFd>,
    /// Whether another process has taken the sockets and still runs.
    is_taken: watch::Sender<bool>,
    /// The connection to the process that had them before: its end tells that process that this
    /// one is gone.
    _from: Option<UnixStream>,
}

/// Listening sockets that were another process's, and the [`Takeover`] that passes them on.
pub type Taken = (Vec<TcpListener>, Takeover);

impl Takeover {
    /// Offers `listeners` to any process that connects to a new socket.
    pub fn offer(address: SocketAddr, listeners: &[TcpListener]) -> Result<Self> {
        Self::at(UnixListener::bind_addr(&in_abstract(&name(address))?)?, listeners)
    }

    /// Takes the sockets of the process that listens on `address`, if there is one.
    pub fn take(address: SocketAddr) -> Result<Option<Taken>> {
        let Some(stream) = connect(&name(address)) else { return Ok(None) };
        stream.set_read_timeout(Some(LIMIT))?;
        if !is_same_user(&stream) {
            return Ok(None);
        }
        let mut sockets = receive(&stream)?.into_iter();
        let Some(door) = sockets.next() else { return Ok(None) };
        let listeners: Vec<TcpListener> = sockets.map(TcpListener::from).collect();
        if listeners.is_empty() {
            return Ok(None);
        }
        let takeover = Self::at(UnixListener::from(door), &listeners)?;
        Ok(Some((listeners, Self { _from: Some(stream), ..takeover })))
    }

    fn at(door: UnixListener, listeners: &[TcpListener]) -> Result<Self> {
        door.set_nonblocking(true)?;
        let mut sockets = vec![door.as_fd().try_clone_to_owned()?];
        for listener in listeners {
            sockets.push(listener.as_fd().try_clone_to_owned()?);
        }
        Ok(Self { door, sockets, is_taken: watch::Sender::new(false), _from: None })
    }

    /// True while another process has the sockets as well.
    pub fn is_taken(&self) -> watch::Receiver<bool> {
        self.is_taken.subscribe()
    }

    /// Gives the sockets to a process of the same user that asks for them, and to the next one when
    /// that is gone.
    pub async fn run(self) {
        if let Err(error) = self.serve().await {
            tracing::warn!(%error, "sockets can no longer be handed over");
        }
    }

    async fn serve(self) -> Result<()> {
        let door = tokio::net::UnixListener::from_std(self.door)?;
        loop {
            let stream = accept(&door).await;
            if !is_same_user(&stream) {
                continue;
            }
            // Set first, so that no worker joins here while the other process waits for it.
            self.is_taken.send_replace(true);
            if send(&stream, &self.sockets).is_ok() {
                tracing::info!("another process has taken over the listening sockets");
                // Nothing more is sent: from now on it only shows whether the other process runs.
                drop(stream.shutdown(Shutdown::Write));
                // A later process is served by that one, which listens on the same Unix socket.
                until_closed(stream).await;
            }
            self.is_taken.send_replace(false);
        }
    }
}

/// The operator's socket, borrowed from another process.
#[derive(Debug)]
pub struct AdminSocket {
    /// The socket that was taken over.
    pub listener: TcpListener,
    /// Lends it to the next process.
    pub lender: Lender,
    /// The loan, while it is borrowed.
    pub loan: Option<Loan>,
}

/// The connection to the process that lends a socket. The loan ends with it.
pub type Loan = UnixStream;

/// Lends the operator's socket.
#[derive(Debug)]
pub struct Lender {
    door: UnixListener,
    socket: OwnedFd,
}

impl AdminSocket {
    /// Borrows the socket of the process that has the same two addresses, if there is one.
    pub fn borrow(listen: SocketAddr, admin: SocketAddr) -> Result<Option<Self>> {
        let Some(loan) = connect(&admin_name(listen, admin)) else {
            return Ok(None);
        };
        loan.set_read_timeout(Some(LIMIT))?;
        if !is_same_user(&loan) {
            return Ok(None);
        }
        let mut sockets = Vec::new();
        receive_some(&loan, &mut sockets)?;
        let mut sockets = sockets.into_iter();
        let (Some(door), Some(socket)) = (sockets.next(), sockets.next()) else { return Ok(None) };
        let listener = TcpListener::from(socket);
        let lender = Lender::at(UnixListener::from(door), &listener)?;
        Ok(Some(Self { listener, lender, loan: Some(loan) }))
    }
}

impl Lender {
    /// Offers `listener` to a process with the same two addresses.
    pub fn offer(listen: SocketAddr, admin: SocketAddr, listener: &TcpListener) -> Result<Self> {
        Self::at(UnixListener::bind_addr(&in_abstract(&admin_name(listen, admin))?)?, listener)
    }

    fn at(door: UnixListener, listener: &TcpListener) -> Result<Self> {
        door.set_nonblocking(true)?;
        Ok(Self { door, socket: listener.as_fd().try_clone_to_owned()? })
    }

    /// Lends the socket to one process at a time. `lent` is true from the request of a process
    /// until it is gone; it gets the socket when this process `pauses` accepting there.
    pub async fn run(self, lent: watch::Sender<bool>, pauses: watch::Receiver<bool>) {
        if let Err(error) = self.serve(&lent, pauses).await {
            tracing::warn!(%error, "the admin port can no longer be handed over");
        }
        // The receivers may outlive this task.
        lent.send_replace(false);
    }

    async fn serve(
        &self,
        lent: &watch::Sender<bool>,
        mut pauses: watch::Receiver<bool>,
    ) -> Result<()> {
        let door = tokio::net::UnixListener::from_std(self.door.try_clone()?)?;
        let sockets = [self.door.as_fd().try_clone_to_owned()?, self.socket.try_clone()?];
        loop {
            let stream = accept(&door).await;
            if !is_same_user(&stream) {
                continue;
            }
            lent.send_replace(true);
            let has_paused = pauses.wait_for(|is_paused| *is_paused);
            drop(tokio::time::timeout(PAUSE_LIMIT, has_paused).await);
            if send(&stream, &sockets).is_ok() {
                tracing::info!("another process has taken over the admin port");
                // No other process is served meanwhile: the borrower listens on the same
                // Unix socket.
                until_closed(stream).await;
                tracing::info!("the other process is gone, serving the admin port again");
            }
            lent.send_replace(false);
        }
    }
}

/// Accepts the next process that asks. If this one has no descriptor left, that one waits: an error
/// here must not keep the sockets from all later ones.
async fn accept(door: &tokio::net::UnixListener) -> UnixStream {
    let mut is_told = false;
    loop {
        match door.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => return stream,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(%error, "a process that takes over has to wait");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits until the other side has closed.
async fn until_closed(stream: UnixStream) {
    let Ok(stream) = tokio::net::UnixStream::from_std(stream) else { return };
    let mut byte = [0];
    loop {
        let Ok(()) = stream.readable().await else { return };
        match stream.try_read(&mut byte) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => {}
        }
    }
}

fn name(address: SocketAddr) -> String {
    format!("imagefleet-balancer/{address}")
}

fn admin_name(listen: SocketAddr, admin: SocketAddr) -> String {
    format!("imagefleet-balancer/{listen}/admin/{admin}")
}

fn in_abstract(name: &str) -> Result<UnixAddr> {
    UnixAddr::from_abstract_name(name)
}

/// Connects to the process that listens under a name, if it accepts immediately: any user of this
/// machine may listen there, and one that accepts nothing must not keep this process from starting.
fn connect(name: &str) -> Option<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(&SockAddr::unix(format!("\0{name}")).ok()?).ok()?;
    socket.set_nonblocking(false).ok()?;
    Some(UnixStream::from(OwnedFd::from(socket)))
}

fn is_same_user(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// Does not block: the buffer of a socket that is not read yet has room for all of this.
fn send(stream: &UnixStream, sockets: &[OwnedFd]) -> Result<()> {
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    for part in sockets.chunks(PER_MESSAGE) {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(PER_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(part));
        sendmsg(stream, &[IoSlice::new(b"1")], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

fn receive(stream: &UnixStream) -> Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    while sockets.len() < MAX_SOCKETS && receive_some(stream, &mut sockets)? {}
    Ok(sockets)
}

/// Adds the sockets of one message; false at the end of the stream.
fn receive_some(stream: &UnixStream, sockets: &mut Vec<OwnedFd>) -> Result<bool> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let message = recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = part {
            sockets.extend(passed);
        }
    }
    Ok(message.bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_process_gets_the_same_sockets_and_passes_them_on() {
        let listeners = super::super::bind(([127, 0, 0, 1], 0).into(), 3).expect("bound");
        let address = listeners[0].local_addr().expect("bound");
        let first = Takeover::offer(address, &listeners).expect("offered");
        let (mut is_taken, first) = (first.is_taken(), tokio::spawn(first.run()));
        let take = || tokio::task::spawn_blocking(move || Takeover::take(address));
        let (taken, second) = take().await.expect("ran").expect("taken").expect("another process");
        assert_eq!(taken.len(), 3);
        assert!(taken.iter().all(|socket| socket.local_addr().is_ok_and(|own| own == address)));
        assert!(*is_taken.borrow());
        // A process that gets no further leaves the queues to the first one again.
        drop((taken, second));
        let left = is_taken.wait_for(|is_taken| !is_taken);
        tokio::time::timeout(Duration::from_secs(20), left).await.expect("in time").expect("told");
        let (taken, second) = take().await.expect("ran").expect("taken").expect("another process");
        assert!(*is_taken.borrow() && taken.len() == 3);
        first.abort();
        drop((first.await, listeners));
        let second = tokio::spawn(second.run());
        let third = take().await.expect("ran").expect("taken").expect("another process");
        assert_eq!(third.0.len(), 3);
        second.abort();
    }

    #[tokio::test]
    async fn of_two_processes_that_still_run_the_later_one_passes_the_sockets_on() {
        let listeners = super::super::bind(([127, 0, 0, 1], 0).into(), 1).expect("bound");
        let address = listeners[0].local_addr().expect("bound");
        let take = || tokio::task::spawn_blocking(move || Takeover::take(address));
        let first = Takeover::offer(address, &listeners).expect("offered");
        let (was_taken, first) = (first.is_taken(), tokio::spawn(first.run()));
        let (_taken, second) = take().await.expect("ran").expect("taken").expect("another process");
        let (mut is_taken, second) = (second.is_taken(), tokio::spawn(second.run()));
        for _ in 0..8 {
            let third = take().await.expect("ran").expect("taken").expect("another process");
            assert!(*is_taken.borrow() && *was_taken.borrow());
            drop(third);
            is_taken.wait_for(|is_taken| !is_taken).await.expect("told");
        }
        first.abort();
        second.abort();
    }

    #[tokio::test]
    async fn the_admin_socket_is_lent_to_the_youngest_and_comes_back() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 1));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let admin = listener.local_addr().expect("bound");
        let borrow = || tokio::task::spawn_blocking(move || AdminSocket::borrow(listen, admin));
        let first = Lender::offer(listen, admin, &listener).expect("offered");
        let (lent, mut is_lent) = watch::channel(false);
        let (pause, pauses) = watch::channel(false);
        let lender = tokio::spawn(first.run(lent, pauses.clone()));
        let mut asking = borrow();
        is_lent.wait_for(|lent| *lent).await.expect("asked");
        let early = tokio::time::timeout(PAUSE_LIMIT / 4, &mut asking).await;
        assert!(early.is_err(), "this process still accepts there");
        pause.send_replace(true);
        let second = asking.await.expect("ran").expect("borrowed").expect("another process");
        assert_eq!(second.listener.local_addr().expect("bound"), admin);
        let (lent_on, mut is_lent_on) = watch::channel(false);
        let second_lender = tokio::spawn(second.lender.run(lent_on, pauses));
        let third = borrow().await.expect("ran").expect("borrowed").expect("another process");
        is_lent_on.wait_for(|lent| *lent).await.expect("the youngest lends");
        assert!(*is_lent.borrow());
        drop(third);
        is_lent_on.wait_for(|lent| !*lent).await.expect("it comes back");
        drop(second.loan);
        is_lent.wait_for(|lent| !*lent).await.expect("it comes back");
        second_lender.abort();
        lender.abort();
    }

    #[tokio::test]
    async fn a_process_with_another_public_address_does_not_get_the_admin_socket() {
        let [listen, other] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let admin = listener.local_addr().expect("bound");
        let _first = Lender::offer(listen, admin, &listener).expect("offered");
        assert!(AdminSocket::borrow(other, admin).expect("no error").is_none());
    }

    #[test]
    fn who_listens_under_the_name_and_accepts_nothing_holds_up_no_start() {
        let address = SocketAddr::from(([127, 0, 0, 1], 2));
        let own = SockAddr::unix(format!("\0{}", name(address))).expect("short");
        let silent = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        silent.bind(&own).expect("bound");
        silent.listen(0).expect("listening");
        let waiting: Vec<UnixStream> =
            std::iter::from_fn(|| connect(&name(address))).take(100).collect();
        assert!((1..100).contains(&waiting.len()), "{} fit into its queue", waiting.len());
        assert!(Takeover::take(address).expect("no error").is_none());
    }

    #[test]
    fn nobody_to_take_over_from_is_no_error() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(Takeover::take(address).expect("no error").is_none());
    }
}
