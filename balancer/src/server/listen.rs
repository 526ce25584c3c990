//! The listening sockets: one for each thread, all on the same address.
//!
//! `SO_REUSEPORT` lets the kernel spread new connections over the threads without any of them
//! touching another's queue. A socket that systemd holds is shared by all threads instead: it
//! outlives every restart, so no connection is ever refused. `TCP_NODELAY` is inherited by what is
//! accepted.

use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, for each thread.
const BACKLOG: i32 = 4096;

/// Binds `count` sockets to `address`; port 0 becomes the same free port for all.
pub fn bind(address: SocketAddr, count: usize) -> std::io::Result<Vec<TcpListener>> {
    let first = open(address)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(open(address)?);
    }
    Ok(listeners)
}

/// The socket that systemd passed on; `None` if there is none.
pub fn inherited() -> std::io::Result<Option<TcpListener>> {
    let Some(socket) = ListenFd::from_env().take_tcp_listener(0)? else { return Ok(None) };
    socket.set_nonblocking(true)?;
    Ok(Some(socket))
}

/// Spreads sockets over `count` threads: each gets at least one, and none is left out, because
/// clients may wait in its queue.
pub fn spread(sockets: Vec<TcpListener>, count: usize) -> std::io::Result<Vec<Vec<TcpListener>>> {
    let mut lanes: Vec<Vec<TcpListener>> = Vec::new();
    lanes.resize_with(count, Vec::new);
    for thread in sockets.len()..count {
        lanes[thread].push(sockets[thread % sockets.len()].try_clone()?);
    }
    for (number, socket) in sockets.into_iter().enumerate() {
        lanes[number % count].push(socket);
    }
    Ok(lanes)
}

fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sockets_share_one_free_port() {
        let listeners = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 3).expect("bound");
        let ports: Vec<u16> =
            listeners.iter().map(|l| l.local_addr().expect("bound").port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[test]
    fn every_thread_gets_a_socket_and_every_socket_a_thread() {
        for (sockets, threads) in [(1, 4), (4, 1), (3, 2), (2, 3), (2, 2)] {
            let sockets = bind(SocketAddr::from(([127, 0, 0, 1], 0)), sockets).expect("bound");
            let count = sockets.len();
            let lanes = spread(sockets, threads).expect("spread");
            assert!(lanes.len() == threads && lanes.iter().all(|lane| !lane.is_empty()));
            assert_eq!(lanes.iter().map(Vec::len).sum::<usize>(), count.max(threads));
        }
    }
}
