//! The controlling side: prepares all agents, compares clocks, starts the run, and adds up results.

use std::net::ToSocketAddrs;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};

use super::frame::{self, RESULT, SMALL};
use super::message::{FromAgent, FromController, Order, PROTOCOL, Trusted};
use super::secret::{Nonces, Secret, Side, nonce};
use super::{EVERY, SILENCE};
use crate::driver::{Generator, Progress, Run, Sieve, Tally};
use crate::error::Error;
use crate::experiment::{Options, Trial};
use crate::input;
use crate::sample::Sample;
use crate::schedule::Arrivals;
use crate::tls::Trust;
use crate::workload::{Packed, Workload};

/// A larger number is taken for a mistake, which would otherwise go unnoticed.
const MOST_AGENTS: usize = 100;
const CONNECT: Duration = Duration::from_secs(5);
/// Clock readings per agent; the one with the shortest round trip counts.
const CLOCKS: usize = 16;
/// How long in advance agents are told of the start, and of the end.
const AHEAD: Duration = Duration::from_millis(500);

/// What to run, and on which agents.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) addresses: &'a [String],
    pub(crate) secret: Secret,
    pub(crate) trial: &'a Trial,
    pub(crate) workload: &'a Workload,
    pub(crate) options: &'a Options,
    /// Limit on the threads of each agent. Default: as many as it offers.
    pub(crate) threads: Option<NonZeroUsize>,
}

/// Agents that are ready to begin.
#[derive(Debug)]
pub(crate) struct Agents {
    runtime: Runtime,
    links: Vec<Link>,
    trial: Trial,
}

/// A connection to an agent.
#[derive(Debug)]
struct Link {
    address: String,
    stream: TcpStream,
    threads: usize,
    /// How far its clock is ahead of this one, in nanoseconds.
    offset: i128,
    /// Uncertainty of `offset`.
    error: Duration,
}

impl Agents {
    /// Connects to all agents and has each check whether it could begin.
    pub(crate) fn prepare(wanted: &Wanted<'_>) -> Result<Self> {
        let count = wanted.addresses.len();
        if count > MOST_AGENTS {
            return Err(Error::Usage(format!("{count} agents; {MOST_AGENTS} are the most")).into());
        }
        let most = most_threads(wanted)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut links = LocalSet::new().block_on(&runtime, async {
            let mut meeting = JoinSet::new();
            for (number, address) in wanted.addresses.iter().cloned().enumerate() {
                let secret = wanted.secret.clone();
                meeting.spawn_local(async move {
                    let told = format!("agent {address}");
                    Ok((number, Link::meet(address, &secret, most).await.context(told)?))
                });
            }
            all(meeting).await
        })?;
        let threads = links.iter().map(|link| link.threads).sum();
        let threads = NonZeroUsize::new(threads).context("an agent has a thread")?;
        let trial = Trial { threads, ..wanted.trial.clone() };
        trial.validate()?;
        let orders = orders(wanted, &trial, &links)?;
        links = LocalSet::new().block_on(&runtime, async {
            let barrier = Rc::new(Barrier::new(links.len()));
            let mut preparing = JoinSet::new();
            for (number, (link, order)) in links.into_iter().zip(orders).enumerate() {
                let (barrier, target) = (Rc::clone(&barrier), wanted.options.target.to_string());
                preparing.spawn_local(async move {
                    Ok((number, link.prepare(order, &target, &barrier).await?))
                });
            }
            all(preparing).await
        })?;
        Ok(Self { runtime, links, trial })
    }

    /// The trial with the threads of all agents.
    pub(crate) fn trial(&self) -> &Trial {
        &self.trial
    }

    /// Has the agents run the trial; the samples that they keep also go to `kept`.
    pub(crate) fn run(
        self,
        progress: &Arc<Progress>,
        kept: Option<&mpsc::Sender<Sample>>,
    ) -> Result<Run> {
        let Self { runtime, links, trial } = self;
        let ended = LocalSet::new().block_on(&runtime, async {
            let links = start(links).await?;
            let mut following = JoinSet::new();
            for (number, (link, start)) in links.into_iter().enumerate() {
                let (progress, kept) = (Arc::clone(progress), kept.cloned());
                let course = Course { trial: trial.clone(), start, progress, kept };
                following.spawn_local(async move { Ok((number, course.follow(link).await)) });
            }
            all(following).await
        })?;
        add_up(&trial, ended)
    }
}

/// The result of a task, with the number of its agent.
type Numbered<T> = (usize, T);

/// The results of all tasks, ordered by number; the first error ends the others.
async fn all<T: 'static>(mut tasks: JoinSet<Result<Numbered<T>>>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        found.push(ended.context("an agent's task")??);
    }
    found.sort_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, it)| it).collect())
}

/// Limit on the threads of each agent: a thread needs a connection, and in a closed loop a user.
fn most_threads(wanted: &Wanted<'_>) -> Result<usize, Error> {
    let agents = wanted.addresses.len();
    let mut most = wanted.trial.connections.get() / agents;
    if let Arrivals::Closed { users, .. } = wanted.trial.arrivals {
        most = most.min(users / agents);
    }
    if most == 0 {
        let text = format!("{agents} agents need a connection each, and a user in a closed loop");
        return Err(Error::Usage(text));
    }
    Ok(most.min(wanted.threads.map_or(usize::MAX, NonZeroUsize::get)))
}

fn orders(wanted: &Wanted<'_>, trial: &Trial, links: &[Link]) -> Result<Vec<Order>> {
    let trust = match wanted.options.trust() {
        Trust::Public => Trusted::Public,
        Trust::Any => Trusted::Any,
        Trust::Text(text) => Trusted::Text(text),
        Trust::File(file) => Trusted::Text(input::read_text(&file, input::SMALL)?),
    };
    let instants = match &trial.arrivals {
        Arrivals::Recorded { instants } => Some(instants.to_vec()),
        Arrivals::Poisson { .. }
        | Arrivals::Uniform { .. }
        | Arrivals::SeedCompat { .. }
        | Arrivals::Staged { .. }
        | Arrivals::Closed { .. } => None,
    };
    let requests = Packed::from(wanted.workload);
    let mut first = 0;
    let orders = links.iter().map(|link| {
        let order = Order {
            trial: trial.clone(),
            instants: instants.clone(),
            requests: requests.clone(),
            target: wanted.options.target.to_string(),
            trust: trust.clone(),
            first,
            threads: link.threads,
        };
        first += link.threads;
        order
    });
    Ok(orders.collect())
}

impl Link {
    /// Connects, and verifies that both sides know the token.
    async fn meet(address: String, secret: &Secret, most: usize) -> Result<Self> {
        let name = address.clone();
        let found = tokio::task::spawn_blocking(move || name.to_socket_addrs()).await?;
        let found: Vec<_> = found.context("HOST:PORT is expected")?.collect();
        let mut stream = timeout(CONNECT, TcpStream::connect(&*found)).await??;
        stream.set_nodelay(true)?;
        let challenge: Option<FromAgent> = frame::read(&mut stream, SMALL).await?;
        let Some(FromAgent::Challenge { protocol, version, nonce: theirs, has_token, threads }) =
            challenge
        else {
            bail!("what listens there is no agent");
        };
        let mine = env!("CARGO_PKG_VERSION");
        ensure!(protocol == PROTOCOL, "it is version {version}, which does not understand {mine}");
        ensure!(!has_token || secret.is_set, "it wants a token (--agent-token-file)");
        let nonces = Nonces { agent: theirs, controller: nonce()? };
        let proof = secret.proof(Side::Controller, &nonces);
        let hello = FromController::Hello { nonce: nonces.controller.clone(), proof };
        frame::write(&mut stream, &hello).await?;
        match frame::read(&mut stream, SMALL).await? {
            Some(FromAgent::Welcome { proof }) => {
                // The order may contain secrets, so the agent must know the token, too.
                let is_known = secret.is_proof(&proof, Side::Agent, &nonces);
                ensure!(is_known, "it does not know the token");
            }
            Some(FromAgent::Refused { reason, .. }) => bail!("{reason}"),
            _ => bail!("it hung up"),
        }
        let threads = threads.clamp(1, most);
        Ok(Self { address, stream, threads, offset: 0, error: Duration::ZERO })
    }

    /// Has the agent check whether it could begin, and waits until all the others could as well.
    async fn prepare(mut self, order: Order, target: &str, all: &Barrier) -> Result<Self> {
        let told = format!("agent {}", self.address);
        let prepare = FromController::Prepare(Box::new(order));
        frame::write(&mut self.stream, &prepare).await.context(told.clone())?;
        loop {
            match frame::read(&mut self.stream, SMALL).await.context(told.clone())? {
                Some(FromAgent::Ready) => break,
                Some(FromAgent::Preparing) => {}
                Some(FromAgent::Refused { reason, is_unreachable: true }) => {
                    let (target, reason) = (target.to_owned(), format!("{told}: {reason}"));
                    return Err(Error::Unreachable { target, reason }.into());
                }
                Some(FromAgent::Refused { reason, .. }) => bail!("{told}: {reason}"),
                _ => bail!("{told}: it hung up"),
            }
        }
        let mut ready = std::pin::pin!(all.wait());
        while timeout(EVERY, &mut ready).await.is_err() {
            frame::write(&mut self.stream, &FromController::Alive).await.context(told.clone())?;
        }
        Ok(self)
    }

    /// Compares its clock with this one, as NTP does: a reading is half a round trip old.
    async fn compare_clocks(&mut self, epoch: Instant) -> Result<()> {
        let mut fastest = Duration::MAX;
        for _ in 0..CLOCKS {
            let asked = epoch.elapsed();
            frame::write(&mut self.stream, &FromController::Clock).await?;
            let answer = frame::read(&mut self.stream, SMALL).await?;
            let Some(FromAgent::Time { nanos }) = answer else {
                bail!("it does not tell the time")
            };
            let way = epoch.elapsed().saturating_sub(asked);
            if way < fastest {
                let here = (asked + way / 2).as_nanos();
                self.offset = i128::from(nanos) - i128::try_from(here)?;
                (fastest, self.error) = (way, way / 2);
            }
        }
        Ok(())
    }
}

/// Compares clocks and starts all agents at the same instant.
async fn start(links: Vec<Link>) -> Result<Vec<(Link, Instant)>> {
    let epoch = Instant::now();
    let mut comparing = JoinSet::new();
    for (number, mut link) in links.into_iter().enumerate() {
        comparing.spawn_local(async move {
            let compared = link.compare_clocks(epoch).await;
            compared.with_context(|| format!("agent {}", link.address))?;
            Ok((number, link))
        });
    }
    let mut links = all(comparing).await?;
    let start = Instant::now() + AHEAD;
    let here = i128::try_from(start.duration_since(epoch).as_nanos())?;
    for link in &mut links {
        let nanos = u64::try_from(here + link.offset).context("a clock that runs backwards")?;
        let begun = frame::write(&mut link.stream, &FromController::Start { nanos }).await;
        begun.with_context(|| format!("agent {}", link.address))?;
    }
    Ok(links.into_iter().map(|link| (link, start)).collect())
}

/// A run, as seen by the controller.
struct Course {
    trial: Trial,
    start: Instant,
    progress: Arc<Progress>,
    kept: Option<mpsc::Sender<Sample>>,
}

/// The outcome of one agent.
struct Ended {
    generator: Generator,
    tally: Option<Tally>,
    samples: Sieve,
}

impl Course {
    /// Follows an agent to the end of its run. If it is lost, the others end as well: they could no
    /// longer send the requested load.
    async fn follow(&self, link: Link) -> Ended {
        let Link { address, stream, error, .. } = link;
        let (mut reader, mut writer) = stream.into_split();
        let mut samples = Sieve::new(self.trial.keep_samples, self.trial.keep_every);
        let found = tokio::select! {
            found = self.hear(&mut reader, &mut samples) => found,
            failed = self.speak(&mut writer) => Err(failed),
        };
        let (tally, lost) = match found {
            Ok(tally) => (Some(tally), None),
            Err(error) => {
                self.progress.stop();
                let lost = format!("{error:#}");
                tracing::warn!(agent = %address, "lost: {lost}");
                (None, Some(lost))
            }
        };
        let requests = tally.as_ref().map(Tally::requests);
        let clock_error_ms = error.as_secs_f64() * 1e3;
        Ended { generator: Generator { address, requests, clock_error_ms, lost }, tally, samples }
    }

    /// Reads messages until the agent reports what it measured.
    async fn hear(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        samples: &mut Sieve,
    ) -> Result<Tally> {
        let mut told = [0; 4];
        loop {
            let message = frame::read(reader, RESULT).await.context("nothing is heard of it")?;
            match message.context("it hung up")? {
                FromAgent::Progress { succeeded, failed, draining, waiting, samples: more } => {
                    let now = [succeeded, failed, draining, waiting];
                    self.count(&now, &told);
                    told = now;
                    self.pass_on(&more);
                    for sample in more {
                        samples.add(sample);
                    }
                }
                FromAgent::Done { tally, kept_below } => {
                    samples.cut(kept_below);
                    return Ok(*tally);
                }
                FromAgent::Refused { reason, .. } => bail!("{reason}"),
                FromAgent::Challenge { .. }
                | FromAgent::Welcome { .. }
                | FromAgent::Time { .. }
                | FromAgent::Preparing
                | FromAgent::Ready => bail!("it spoke out of turn"),
            }
        }
    }

    /// Forwards samples to the receiver of kept samples, if any.
    fn pass_on(&self, samples: &[Sample]) {
        let Some(kept) = &self.kept else { return };
        for sample in samples {
            // The receiver may have gone.
            let _either = kept.send(sample.clone());
        }
    }

    /// Adds the changes to the counts of all agents. Some counts can decrease.
    fn count(&self, now: &[u64; 4], before: &[u64; 4]) {
        let Progress { succeeded, failed, draining, waiting, .. } = &*self.progress;
        let counts = [succeeded, failed, draining, waiting];
        for ((count, now), before) in counts.into_iter().zip(now).zip(before) {
            count.fetch_add(now.wrapping_sub(*before), Ordering::Relaxed);
        }
    }

    /// Passes on the user's wish to stop; returns if the agent stops reading or fails to end.
    async fn speak(&self, writer: &mut (impl tokio::io::AsyncWrite + Unpin)) -> anyhow::Error {
        let Trial { duration, timeout: limit, .. } = &self.trial;
        let length = duration.unwrap_or_default().saturating_add(*limit).saturating_add(SILENCE);
        let mut last = self.start.checked_add(length);
        let (mut is_stopped, mut is_abandoned) = (false, false);
        loop {
            tokio::time::sleep(EVERY / 2).await;
            let mut message = FromController::Alive;
            if self.progress.is_abandoned() && !is_abandoned {
                (is_stopped, is_abandoned) = (true, true);
                last = Some(Instant::now() + SILENCE);
                message = FromController::Abandon;
            } else if let (Some(at), false) = (self.progress.stopped(), is_stopped) {
                is_stopped = true;
                let after = at.saturating_duration_since(self.start) + AHEAD;
                message = FromController::Stop { after };
            }
            if let Err(error) = frame::write(writer, &message).await {
                return anyhow::Error::new(error).context("it hears nothing");
            }
            if last.is_some_and(|last| Instant::now() > last) {
                return anyhow::anyhow!("it does not end");
            }
        }
    }
}

/// Merges the measurements of all agents.
fn add_up(trial: &Trial, ended: Vec<Ended>) -> Result<Run> {
    let mut tally = Tally::of(trial);
    let (mut sieves, mut generators) = (Vec::new(), Vec::new());
    let is_any = ended.iter().any(|it| it.tally.is_some());
    for it in ended {
        if let Some(theirs) = &it.tally {
            tally.merge(theirs);
            sieves.push(it.samples);
        }
        generators.push(it.generator);
    }
    if !is_any {
        let lost = generators.iter().filter_map(|it| Some((&it.address, it.lost.as_ref()?)));
        let lost: Vec<String> = lost.map(|(address, why)| format!("{address}: {why}")).collect();
        bail!("every agent was lost ({})", lost.join("; "));
    }
    let samples = Sieve::join(sieves).into_samples();
    Ok(Run { tally, samples, cap: None, generators })
}
