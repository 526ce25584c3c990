//! The smallest possible load generator: `recv` and `send` in turn on every connection. It ignores
//! the content of answers and reads the clock once per round of events, so its rate is the limit
//! that system calls set for any generator.
//!
//! ```text
//! cargo run --release --example trivial_server &
//! cargo run --release --example least_client 127.0.0.1:7000 64 5
//! ```
//!
//! Prints the requests per second. Each answer must arrive in one piece, as with `trivial_server`.

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use rustix::event::epoll;
    use tokio::time::Instant;

    let usage = "least_client ADDRESS CONNECTIONS SECONDS";
    let [address, connections, seconds] =
        <[String; 3]>::try_from(std::env::args().skip(1).collect::<Vec<_>>()).map_err(|_| usage)?;
    let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut streams = Vec::new();
    for number in 0..connections.parse()? {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_nodelay(true)?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        stream.write_all(request.as_bytes())?;
        streams.push(stream);
    }
    let (begun, time) = (Instant::now(), Duration::from_secs_f64(seconds.parse()?));
    let mut events = Vec::with_capacity(streams.len());
    let (mut answers, mut buffer) = (0_u64, [0; 4096]);
    while begun.elapsed() < time {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let stream = &mut streams[usize::try_from(event.data.u64())?];
            if stream.read(&mut buffer)? == 0 {
                return Err("the service has closed a connection".into());
            }
            answers += 1;
            stream.write_all(request.as_bytes())?;
        }
    }
    writeln!(std::io::stdout(), "{:.0}", answers as f64 / begun.elapsed().as_secs_f64())?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("least_client waits for connections as only Linux can.");
    std::process::exit(2);
}
