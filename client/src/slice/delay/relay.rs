//! Receives frames from one device and sends them from another once their delay is over.
//!
//! Each direction has one thread that receives frames and one that sends them, so that a late frame
//! never makes the next one late as well.

use std::io::{self, ErrorKind, Write};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::time::Instant;

use super::{Hold, READY, checksum};

/// As many as the kernel's delay is configured to hold.
const MOST_FRAMES: usize = 10_000;
/// A limit in bytes as well, since frames are not always short.
const MOST_BYTES: usize = 32 << 20;
/// Room for frames that arrive while this program waits for a processor.
const RECEIVE_BUFFER: usize = 8 << 20;
const LONGEST_FRAME: usize = 66_000;

/// The receiving and the sending side of a device.
type Ends = (Box<dyn DataLinkReceiver>, Box<dyn DataLinkSender>);

/// A frame, and when it leaves.
struct DelayedFrame {
    until: Instant,
    frame: Vec<u8>,
}

pub(super) fn run(holds: &[Hold], out: &mut dyn Write) -> Result<()> {
    be_on_time();
    let (ended, end) = mpsc::channel();
    for hold in holds {
        let (from_near, to_near) = open(&hold.near)?;
        let (from_far, to_far) = open(&hold.far)?;
        pass(from_near, to_far, hold.forth, &ended)?;
        pass(from_far, to_near, hold.back, &ended)?;
    }
    writeln!(out, "{READY}")?;
    out.flush()?;
    Err(anyhow::Error::new(end.recv()?).context("a device is gone"))
}

/// Makes sleeps end on time, whatever else the machine does: without the 50 us that they may be
/// late, and with priority over other processes. Threads inherit both.
fn be_on_time() {
    const FIRST: i32 = -20;
    let is_exact = std::fs::write("/proc/self/timerslack_ns", "1");
    let is_first = rustix::process::setpriority_process(None, FIRST);
    if let Err(error) = is_exact.and(is_first.map_err(io::Error::from)) {
        tracing::warn!("delays are longer than asked for where the machine is busy: {error}");
    }
}

fn open(device: &str) -> Result<Ends> {
    let found = pnet_datalink::interfaces().into_iter().find(|it| it.name == device);
    let interface = found.with_context(|| format!("there is no device `{device}`"))?;
    // No protocol until the socket is bound, so that it receives no frames of other devices.
    let (family, kind, flags) = (AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    let config = Config {
        read_buffer_size: LONGEST_FRAME,
        promiscuous: false,
        socket_fd: Some(socket.into_raw_fd()),
        ..Config::default()
    };
    match pnet_datalink::channel(&interface, config).with_context(|| device.to_owned())? {
        Channel::Ethernet(sender, receiver) => Ok((receiver, sender)),
        _ => bail!("`{device}` is no Ethernet device"),
    }
}

/// Starts to forward frames in one direction.
fn pass(
    from: Box<dyn DataLinkReceiver>,
    mut to: Box<dyn DataLinkSender>,
    delay: Duration,
    ended: &Sender<io::Error>,
) -> io::Result<()> {
    let ended = ended.clone();
    if delay.is_zero() {
        let send = move |frame: &mut [u8]| lose_or_send(to.as_mut(), frame);
        return start(move || receive(from, send, &ended));
    }
    let held_bytes = Arc::new(AtomicUsize::new(0));
    let (frames, waiting) = mpsc::sync_channel(MOST_FRAMES);
    let bytes = Arc::clone(&held_bytes);
    start(move || receive(from, |frame| hold(frame, delay, &frames, &bytes), &ended))?;
    start(move || send(&waiting, to.as_mut(), &held_bytes))
}

fn start(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().spawn(work).map(drop)
}

/// Receives frames until the device is gone.
fn receive(
    mut from: Box<dyn DataLinkReceiver>,
    mut take: impl FnMut(&mut [u8]),
    ended: &Sender<io::Error>,
) {
    let mut buffer = Vec::with_capacity(LONGEST_FRAME);
    loop {
        match from.next() {
            Ok(frame) => {
                buffer.clear();
                buffer.extend_from_slice(frame);
                checksum::complete(&mut buffer);
                take(&mut buffer);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                // `run` waits for the first error only.
                let _first = ended.send(error);
                return;
            }
        }
    }
}

/// Queues a frame until its delay is over; drops it if too much is queued.
fn hold(
    frame: &[u8],
    delay: Duration,
    frames: &SyncSender<DelayedFrame>,
    held_bytes: &AtomicUsize,
) {
    let until = Instant::now() + delay;
    let before = held_bytes.fetch_add(frame.len(), Ordering::Relaxed);
    let is_kept = before + frame.len() <= MOST_BYTES
        && frames.try_send(DelayedFrame { until, frame: frame.to_vec() }).is_ok();
    if !is_kept {
        held_bytes.fetch_sub(frame.len(), Ordering::Relaxed);
    }
}

/// Sends the queued frames, each when its delay is over.
#[expect(clippy::disallowed_methods, reason = "waiting is what this is for")]
fn send(waiting: &Receiver<DelayedFrame>, to: &mut dyn DataLinkSender, held_bytes: &AtomicUsize) {
    for DelayedFrame { until, frame } in waiting {
        thread::sleep(until.saturating_duration_since(Instant::now()));
        held_bytes.fetch_sub(frame.len(), Ordering::Relaxed);
        lose_or_send(to, &frame);
    }
}

/// Sends a frame. If the device does not accept it, it is lost, as on a wire.
fn lose_or_send(to: &mut dyn DataLinkSender, frame: &[u8]) {
    let _sent = to.send_to(frame, None);
}
