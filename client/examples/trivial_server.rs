//! The smallest possible service: an empty 200 to every request, by `recv` and `send` on a thread.
//!
//! `client load --get /` against it measures the generator, since an answer costs this program
//! less than it costs any generator. The end of a head counts as the end of a request, so
//! requests must not have a body.
//!
//! ```text
//! cargo run --release --example trivial_server &
//! cargo run --release --bin client -- load --target 127.0.0.1:7000 --get / --rate 50000
//! ```

#[cfg(target_os = "linux")]
fn main() -> std::io::Result<()> {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    use slab::Slab;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const END: &[u8] = b"\r\n\r\n";
    const LISTENER: u64 = u64::MAX;

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let listener = TcpListener::bind(&address)?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections = Slab::new();
    let (mut events, mut buffer) = (Vec::with_capacity(1024), [0; 16 * 1024]);
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let key = event.data.u64();
            if key == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                let vacant = connections.vacant_entry();
                let key = EventData::new_u64(vacant.key() as u64);
                epoll::add(&poll, &stream, key, EventFlags::IN)?;
                vacant.insert((stream, Vec::new()));
                continue;
            }
            let key = usize::try_from(key).unwrap_or(usize::MAX);
            let Some((stream, begun)) = connections.get_mut(key) else { continue };
            let count = stream.read(&mut buffer).unwrap_or(0);
            begun.extend_from_slice(&buffer[..count]);
            let (mut at, mut is_open) = (0, count > 0);
            while let Some(end) = begun[at..].windows(END.len()).position(|end| end == END) {
                at += end + END.len();
                is_open &= stream.write_all(ANSWER).is_ok();
            }
            begun.drain(..at);
            if !is_open {
                connections.remove(key);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("trivial_server waits for connections as only Linux can.");
    std::process::exit(2);
}
