//! `client agent`: sends its share of a run for `client load --agents`.

use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use super::frame::{self, ORDER, SMALL};
use super::message::{FromAgent, FromController, Order, PROTOCOL, Trusted};
use super::secret::{Nonces, Secret, Side, nonce};
use super::{EVERY, SILENCE};
use crate::driver::{self, Destination, Measured, Part, Progress};
use crate::error::Error;
use crate::experiment::Trial;
use crate::schedule::Arrivals;
use crate::target::Target;
use crate::tls::Trust;
use crate::workload::Workload;

const EXAMPLES: &str = "\
Examples:
  client agent                                     for `client load --agents 127.0.0.1:9000` here
  openssl rand -hex 32 > token                     the same file on every machine
  client agent --listen 0.0.0.0:9000 --token-file token
  client load --agents a:9000,b:9000 --agent-token-file token --target http://host:5000 --rate 50000

One run at a time. Who knows the token can have this machine send requests anywhere, so only trusted
networks should reach the port; the token is proved and never sent, the requests travel as they are.";

/// Flags of `client agent`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where to listen. Beyond loopback a token is needed.
    #[arg(
        long,
        env = "CLIENT_AGENT_LISTEN",
        default_value = "127.0.0.1:9000",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// File with the token that controllers must know.
    #[arg(long, env = "CLIENT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Sender threads. Default: one per processor.
    #[arg(long, env = "CLIENT_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// Limit on connected controllers; only one of them can have a run.
const CONTROLLERS: usize = 16;
/// How long a controller may take to prove that it knows the token.
const GREETING: Duration = Duration::from_secs(5);
/// Limit on the threads of one agent.
const MOST_THREADS: usize = 256;
/// Limits on what a controller may request.
const MOST_SAMPLES: usize = 10_000_000;
const MOST_USERS: usize = 1_000_000;
const LONGEST: Duration = Duration::from_hours(24);
/// A start further away than this indicates a clock error.
const SOON: Duration = Duration::from_secs(30);
/// Samples in one message.
const SAMPLES: usize = 2000;

/// Listens for controllers until the program is terminated.
pub fn run(args: &Args, _out: &mut dyn Write) -> Result<ExitCode> {
    if !args.listen.ip().to_canonical().is_loopback() && args.token_file.is_none() {
        let text = "an agent that other machines reach needs a --token-file: make a token with openssl rand -hex 32";
        return Err(Error::Usage(text.to_owned()).into());
    }
    let secret = Secret::load(args.token_file.as_deref())?;
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = args.threads.unwrap_or(cores).get().min(MOST_THREADS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(args.listen).await;
        let listener = listener.with_context(|| format!("--listen {}", args.listen))?;
        tracing::info!(address = %listener.local_addr()?, "agent listens");
        let agent = Agent { secret, threads, epoch: Instant::now(), turn: Mutex::new(()) };
        listen(&listener, Rc::new(agent)).await
    })
}

/// State shared by all controller connections.
struct Agent {
    secret: Secret,
    threads: usize,
    /// Zero of the agent's clock.
    epoch: Instant,
    /// Held while a controller has a run.
    turn: Mutex<()>,
}

async fn listen(listener: &TcpListener, agent: Rc<Agent>) -> Result<ExitCode> {
    let places = Arc::new(Semaphore::new(CONTROLLERS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let Ok((stream, peer)) = listener.accept().await else {
            // Most likely out of descriptors, some of which are released when a run ends.
            tokio::time::sleep(EVERY).await;
            continue;
        };
        let agent = Rc::clone(&agent);
        tokio::task::spawn_local(async move {
            let _place = place;
            if let Err(error) = agent.serve(stream).await {
                tracing::warn!(%peer, "controller left: {error:#}");
            }
        });
    }
}

impl Agent {
    async fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        timeout(GREETING, self.greet(&mut stream)).await.context("no greeting in time")??;
        let Ok(_turn) = self.turn.try_lock() else {
            return refuse(
                &mut stream,
                &anyhow::anyhow!("it sends requests for another controller"),
            )
            .await;
        };
        let mut prepared = None;
        loop {
            let Some(message) = frame::read(&mut stream, ORDER).await? else { return Ok(()) };
            match message {
                FromController::Clock => {
                    let nanos = self.epoch.elapsed().as_nanos();
                    let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
                    frame::write(&mut stream, &FromAgent::Time { nanos }).await?;
                }
                FromController::Prepare(order) => {
                    match prepare(&mut stream, *order).await? {
                        Ok(found) => prepared = Some(found),
                        Err(error) => return refuse(&mut stream, &error).await,
                    }
                    frame::write(&mut stream, &FromAgent::Ready).await?;
                }
                FromController::Start { nanos } => {
                    let prepared = prepared.context("a start without an order")?;
                    let start = self.epoch + Duration::from_nanos(nanos);
                    return send(prepared, start, stream).await;
                }
                FromController::Alive => {}
                FromController::Hello { .. }
                | FromController::Stop { .. }
                | FromController::Abandon => bail!("out of turn"),
            }
        }
    }

    /// Authenticates a controller: it must know the token.
    async fn greet(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
        let mine = nonce()?;
        let challenge = FromAgent::Challenge {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: mine.clone(),
            has_token: self.secret.is_set,
            threads: self.threads,
        };
        frame::write(stream, &challenge).await?;
        let Some(FromController::Hello { nonce, proof }) = frame::read(stream, SMALL).await? else {
            bail!("no greeting");
        };
        let nonces = Nonces { agent: mine, controller: nonce };
        if !self.secret.is_proof(&proof, Side::Controller, &nonces) {
            let wrong = anyhow::anyhow!("the token is another one (--agent-token-file)");
            refuse(stream, &wrong).await?;
            return Err(wrong);
        }
        let proof = self.secret.proof(Side::Agent, &nonces);
        Ok(frame::write(stream, &FromAgent::Welcome { proof }).await?)
    }
}

/// Sends the reason for a refusal and waits until the other side has hung up.
async fn refuse<S>(stream: &mut S, error: &anyhow::Error) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let refused = match error.downcast_ref() {
        Some(Error::Unreachable { reason, .. }) => {
            FromAgent::Refused { reason: reason.clone(), is_unreachable: true }
        }
        _ => FromAgent::Refused { reason: format!("{error:#}"), is_unreachable: false },
    };
    frame::write(stream, &refused).await?;
    hear_out(stream).await;
    Ok(())
}

/// Reads and discards until the other side hangs up: closing a connection with unread data could
/// discard the last message that this side sent.
async fn hear_out(stream: &mut (impl AsyncRead + Unpin)) {
    let mut nothing = tokio::io::sink();
    // A peer that keeps sending for longer has had time to receive it.
    let _ended = timeout(SILENCE, tokio::io::copy(stream, &mut nothing)).await;
}

/// Checks whether an order can be carried out, and reports `Preparing` in the meantime.
async fn prepare(stream: &mut TcpStream, order: Order) -> Result<Result<Prepared>> {
    let mut looking = tokio::task::spawn_blocking(move || Prepared::try_new(order));
    loop {
        match timeout(EVERY, &mut looking).await {
            Ok(found) => return Ok(found?),
            Err(_elapsed) => frame::write(stream, &FromAgent::Preparing).await?,
        }
    }
}

/// An order that can be carried out.
struct Prepared {
    trial: Trial,
    first: usize,
    threads: NonZeroUsize,
    destination: Destination,
    workload: Arc<Workload>,
}

impl Prepared {
    /// Checks that this machine can carry out all of the order and that the service is reachable.
    fn try_new(order: Order) -> Result<Self> {
        let trial = order.trial();
        trial.validate()?;
        check(&trial)?;
        let target = Target::from_str(&order.target).map_err(Error::Usage)?;
        let trust = match order.trust {
            Trusted::Public => Trust::Public,
            Trusted::Any => Trust::Any,
            Trusted::Text(text) => Trust::Text(text),
        };
        let threads = NonZeroUsize::new(order.threads).context("a part without threads")?;
        ensure!(threads.get() <= MOST_THREADS, "{threads} threads");
        let end = order.first.checked_add(order.threads);
        ensure!(end.is_some_and(|end| end <= trial.threads.get()), "threads beyond the last one");
        driver::check_room(&trial, threads)?;
        let destination = target.destination(trial.protocol, &trust)?;
        let workload = Arc::new(order.requests.unpack()?);
        Ok(Self { trial, first: order.first, threads, destination, workload })
    }
}

/// Rejects orders that would never end or would exhaust memory.
fn check(trial: &Trial) -> Result<()> {
    let limits = [
        (trial.keep_samples <= MOST_SAMPLES, "samples to keep"),
        (trial.backlog <= MOST_SAMPLES, "requests that wait"),
        (trial.timeout <= LONGEST, "time for a request"),
        (trial.duration.is_some_and(|it| it <= LONGEST), "time to run"),
        (!matches!(trial.arrivals, Arrivals::Closed { users, .. } if users > MOST_USERS), "users"),
    ];
    let refused = limits.iter().find(|(is_allowed, _)| !is_allowed);
    refused.map_or(Ok(()), |(_, what)| bail!("too many, or too much: {what}"))
}

/// Sends the requests, and reports progress and the result.
async fn send(prepared: Prepared, start: Instant, stream: TcpStream) -> Result<()> {
    let ahead = start.saturating_duration_since(Instant::now());
    ensure!(ahead < SOON, "a start in {ahead:?}");
    tracing::info!(threads = prepared.threads, "run begins");
    let progress = Arc::new(Progress::default());
    let (kept, samples) = mpsc::channel();
    let mut running = tokio::task::spawn_blocking({
        let progress = Arc::clone(&progress);
        let Prepared { trial, first, threads, destination, workload } = prepared;
        move || {
            let part = Part { first, threads, start };
            driver::run_part(&trial, part, &destination, &workload, &progress, Some(kept))
        }
    });
    let (mut reader, mut writer) = stream.into_split();
    let ended = tokio::select! {
        told = tell(&mut writer, &progress, &samples, &mut running) => told,
        lost = obey(&mut reader, &progress, start) => Err(lost),
    };
    match ended {
        Ok(()) => {
            tracing::info!("run ended");
            hear_out(&mut reader).await;
        }
        Err(error) => {
            tracing::warn!("run given up: {error:#}");
            // The answers are no longer needed. The next run can begin once this one has ended.
            progress.abandon();
            if !running.is_finished() {
                let _unwanted = running.await;
            }
        }
    }
    Ok(())
}

/// Carries out the controller's messages until it is gone.
async fn obey(
    reader: &mut (impl AsyncRead + Unpin),
    progress: &Progress,
    start: Instant,
) -> anyhow::Error {
    loop {
        match frame::read(reader, SMALL).await {
            Ok(Some(FromController::Alive)) => {}
            Ok(Some(FromController::Stop { after })) => {
                progress.stop_at(start + after.min(LONGEST));
            }
            Ok(Some(FromController::Abandon)) => progress.abandon(),
            Ok(Some(_)) => return anyhow::anyhow!("the controller spoke out of turn"),
            Ok(None) => return anyhow::anyhow!("the controller is gone"),
            Err(error) => return anyhow::Error::new(error).context("the controller is gone"),
        }
    }
}

/// Reports the progress of the run, and at its end what was measured.
async fn tell(
    writer: &mut (impl AsyncWrite + Unpin),
    progress: &Progress,
    samples: &mpsc::Receiver<crate::sample::Sample>,
    running: &mut tokio::task::JoinHandle<Result<Measured>>,
) -> Result<()> {
    let mut ended = None;
    loop {
        if ended.is_none() {
            ended = timeout(EVERY, &mut *running).await.ok();
        }
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let some: Vec<_> = samples.try_iter().take(SAMPLES).collect();
        let is_last = some.len() < SAMPLES && ended.is_some();
        let message = FromAgent::Progress {
            succeeded: load(&progress.succeeded),
            failed: load(&progress.failed),
            draining: load(&progress.draining),
            waiting: load(&progress.waiting),
            samples: some,
        };
        frame::write(writer, &message).await?;
        if !is_last {
            continue;
        }
        let message = match ended.take().context("it has ended")?? {
            Ok(Measured { tally, sieve }) => {
                FromAgent::Done { tally: Box::new(tally), kept_below: sieve.below() }
            }
            Err(error) => {
                FromAgent::Refused { reason: format!("{error:#}"), is_unreachable: false }
            }
        };
        return Ok(frame::write(writer, &message).await?);
    }
}
