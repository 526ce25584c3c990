//! The listening sockets: one for each thread, all on the same address.
//!
//! `SO_REUSEPORT` lets the kernel spread new connections over the threads without any of
//! them touching another's queue. A socket that systemd holds is shared by all threads
//! instead: it outlives every restart, so no connection is ever refused. Accepted
//! connections inherit `TCP_NODELAY`.

use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, per thread.
const BACKLOG: i32 = 4096;

/// How a socket shares its address with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// There must be no other.
    Alone,
    /// There must be no other yet; more of this process will follow.
    First,
    /// There are already others of this process.
    Next,
}

/// Binds `count` sockets to `address`, where nothing else listens; port 0 becomes the same free port
/// for all.
pub fn bind(address: SocketAddr, count: usize) -> std::io::Result<Vec<TcpListener>> {
    let first = open(address, Sharing::First)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(open(address, Sharing::Next)?);
    }
    Ok(listeners)
}

/// Binds the only socket of `address`.
pub fn bind_alone(address: SocketAddr) -> std::io::Result<TcpListener> {
    open(address, Sharing::Alone)
}

/// The socket that systemd passed on; `None` if there is none.
pub fn inherited() -> std::io::Result<Option<TcpListener>> {
    let Some(socket) = ListenFd::from_env().take_tcp_listener(0)? else { return Ok(None) };
    socket.set_nonblocking(true)?;
    Ok(Some(socket))
}

/// Spreads sockets over `count` threads: each thread gets at least one, and no socket is left out,
/// because clients may wait in its queue.
pub fn spread(sockets: Vec<TcpListener>, count: usize) -> std::io::Result<Vec<Vec<TcpListener>>> {
    let mut shards: Vec<Vec<TcpListener>> = Vec::new();
    shards.resize_with(count, Vec::new);
    for thread in sockets.len()..count {
        shards[thread].push(sockets[thread % sockets.len()].try_clone()?);
    }
    for (number, socket) in sockets.into_iter().enumerate() {
        shards[number % count].push(socket);
    }
    Ok(shards)
}

fn open(address: SocketAddr, sharing: Sharing) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Elsewhere nothing is taken over, and a new process has to be able to bind beside the old one.
    let shares_later = sharing == Sharing::First && cfg!(target_os = "linux");
    socket.set_reuse_port(sharing != Sharing::Alone && !shares_later)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    if shares_later {
        // Linux checks this when another socket is bound: ours may follow now, and a foreign one
        // would have been noticed above.
        socket.set_reuse_port(true)?;
    }
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
    fn an_address_that_another_program_has_is_refused() {
        let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 2).expect("bound");
        let address = taken[0].local_addr().expect("bound");
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        for address in [address, everywhere] {
            let in_use = std::io::ErrorKind::AddrInUse;
            assert_eq!(bind_alone(address).expect_err("taken").kind(), in_use);
            if cfg!(target_os = "linux") {
                assert_eq!(bind(address, 2).expect_err("taken").kind(), in_use);
            }
        }
        drop(taken);
        bind_alone(address).expect("free again");
    }

    #[test]
    fn every_thread_gets_a_socket_and_every_socket_a_thread() {
        for (sockets, threads) in [(1, 4), (4, 1), (3, 2), (2, 3), (2, 2)] {
            let sockets = bind(SocketAddr::from(([127, 0, 0, 1], 0)), sockets).expect("bound");
            let count = sockets.len();
            let shards = spread(sockets, threads).expect("spread");
            assert!(shards.len() == threads && shards.iter().all(|shard| !shard.is_empty()));
            assert_eq!(shards.iter().map(Vec::len).sum::<usize>(), count.max(threads));
        }
    }
}
