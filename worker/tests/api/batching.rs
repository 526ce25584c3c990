//! The queue in front of a model: bounded, fair to other requests, and dropping requests whose
//! callers are gone.

use std::backtrace::Backtrace;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::{Error, Result, Tensor};
use http_body_util::Full;
use hyper::Request;
use tokio::time::Instant;
use worker::model::Model;
use worker::serving::{Refusal, Served};

use crate::common::{Gate, Gated, Seven, Worker, digits, flowers, png, served, serving};

/// Fails on a row that starts with 1, with a backtrace, and panics on one that starts with 2.
struct Picky;

impl Model for Picky {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        for row in batch.flatten_from(1)?.to_vec2::<f32>()? {
            assert!((row[0] - 2.0).abs() > f32::EPSILON, "two is too much");
            if (row[0] - 1.0).abs() < f32::EPSILON {
                let inner = Box::new(Error::Msg("one is not enough".to_owned()));
                let backtrace = Box::new(Backtrace::force_capture());
                return Err(Error::WithBacktrace { inner, backtrace });
            }
        }
        Seven.forward(batch)
    }
}

/// [`Picky`] behind a [`Gate`].
struct Both(Gate);

impl Model for Both {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        Gated(self.0.clone()).forward(batch)?;
        Picky.forward(batch)
    }
}

/// Records the first value of every batch, behind a [`Gate`].
#[derive(Clone, Default)]
struct Noting(Gate, Arc<Mutex<Vec<f32>>>);

impl Model for Noting {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        self.0.pass();
        let first = batch.flatten_all()?.get(0)?.to_scalar()?;
        self.1.lock().expect("no batch panics").push(first);
        Seven.forward(batch)
    }
}

type Asked = tokio::task::JoinHandle<std::result::Result<worker::batcher::Output, Refusal>>;

fn row(first: f32) -> Vec<f32> {
    let mut row = vec![0.0; 28 * 28];
    row[0] = first;
    row
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn ask(served: &Arc<Served>, first: f32) -> Asked {
    let served = Arc::clone(served);
    tokio::spawn(async move { served.infer(row(first), 1, soon()).await })
}

/// Sends a request and waits until it is in the queue.
async fn ask_queued(served: &Arc<Served>, first: f32) -> Asked {
    let before = served.queued();
    let asked = ask(served, first);
    while served.queued() == before {
        tokio::task::yield_now().await;
    }
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_never_fails_its_neighbours() {
    let gate = Gate::default();
    for (bad, reason) in [(1.0, "one is not enough"), (2.0, "two is too much")] {
        let (served, _thread) = served("mnist", 1, Both(gate.clone()));
        gate.close();
        let first = ask(&served, 0.0);
        gate.wait_for_batch();
        let bad = ask_queued(&served, bad).await;
        let good = ask_queued(&served, 0.0).await;
        gate.open();
        assert!(first.await.unwrap().is_ok());
        assert_eq!(good.await.unwrap().unwrap().values.len(), 10);
        let Err(Refusal::Failed(said)) = bad.await.unwrap() else { panic!("the bad row passed") };
        // No backtrace follows, which is of no use to clients.
        assert!(said.ends_with(reason), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_answers_429_and_a_hung_up_caller_makes_room() {
    let gate = Gate::default();
    let (served, _thread) = served("mnist", 1, Gated(gate.clone()));
    let worker = Worker::start(vec![Arc::clone(&served)]).await;
    gate.close();
    let running = ask(&served, 0.0);
    gate.wait_for_batch();
    let lost = ask_queued(&served, 0.0).await;
    let waiting = ask_queued(&served, 0.0).await;
    let answer = worker.post("/predict", png()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "1"), "{}", answer.error());
    lost.abort();
    drop(lost.await);
    let mut late = Box::pin(served.infer(row(0.0), 1, soon()));
    tokio::select! {
        biased;
        outcome = &mut late => panic!("the place of the lost caller was not given away: {outcome:?}"),
        () = std::future::ready(()) => {}
    }
    gate.open();
    assert!(late.await.is_ok());
    for asked in [running, waiting] {
        assert!(asked.await.unwrap().is_ok());
    }
    assert!(
        worker
            .get("/metrics")
            .await
            .text()
            .contains("worker_rejected_total{reason=\"QueueFull\"} 1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_deadline_passes_in_the_queue_is_answered_504() {
    let gate = Gate::default();
    let (served, _thread) = served("mnist", 1, Gated(gate.clone()));
    let worker = Worker::start(vec![Arc::clone(&served)]).await;
    gate.close();
    let running = ask(&served, 0.0);
    gate.wait_for_batch();
    let request = Request::post("/predict").header("x-imagefleet-timeout-ms", "20");
    let answer = worker.send(request.body(Full::new(png().into())).unwrap()).await;
    assert_eq!(answer.status, 504, "{}", answer.error());
    gate.open();
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_rows_share_a_forward_pass_and_a_large_request_is_cut() {
    let gate = Gate::default();
    let (served, _thread) = served("mnist", 1, Gated(gate.clone()));
    gate.close();
    let first = ask(&served, 0.0);
    gate.wait_for_batch();
    let pair = [ask_queued(&served, 0.0).await, ask_queued(&served, 0.0).await];
    gate.open();
    first.await.unwrap().unwrap();
    for asked in pair {
        asked.await.unwrap().unwrap();
    }
    let totals = served.statistics.totals();
    assert_eq!((totals.rows, totals.executions, totals.success.count), (3, 2, 3));
    let many = served.infer(row(0.0).repeat(5), 5, soon()).await.unwrap();
    assert_eq!((many.values.len(), many.width), (50, 10));
    assert_eq!(served.statistics.totals().executions, 2 + 3);
}

/// A request of many rows, which runs in parts of two rows.
fn many(served: &Arc<Served>, rows: usize, deadline: Instant) -> Asked {
    let served = Arc::clone(served);
    let features = row(1.0).repeat(rows);
    tokio::spawn(async move { served.infer(features, rows, deadline).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn others_have_their_turn_between_the_parts_of_a_large_request() {
    let noting = Noting::default();
    let (served, _thread) = served("mnist", 1, noting.clone());
    noting.0.close();
    let large = many(&served, 100, soon());
    noting.0.wait_for_batch();
    let small = ask_queued(&served, 5.0).await;
    noting.0.open();
    assert!(small.await.unwrap().is_ok());
    let output = large.await.unwrap().unwrap();
    assert_eq!((output.values.len(), output.width), (1000, 10));
    let batches = noting.1.lock().unwrap().clone();
    let turn = batches.iter().position(|first| (first - 5.0).abs() < f32::EPSILON).unwrap();
    // Two batches for warming up, then one part of the large request.
    assert!(turn <= 4 && batches.len() > 50, "batch {turn} of {}", batches.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_leaves_room_for_others() {
    let gate = Gate::default();
    let mut version = digits();
    // Room for the next part of a large request (two rows), and one more row.
    version.manifest.queue_capacity = 3.try_into().unwrap();
    let served = serving(("mnist", 1), version, Gated(gate.clone()));
    gate.close();
    let running = many(&served, 100, soon());
    gate.wait_for_batch();
    let waiting = ask_queued(&served, 0.0).await;
    gate.open();
    assert!(waiting.await.unwrap().is_ok());
    assert!(served.infer(row(0.0), 1, soon()).await.is_ok());
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_stops_when_nobody_waits_or_its_deadline_passes() {
    let gate = Gate::default();
    let (served, _thread) = served("mnist", 1, Gated(gate.clone()));
    for deadline in [soon(), Instant::now() + Duration::from_millis(50)] {
        gate.close();
        let large = many(&served, 1000, deadline);
        gate.wait_for_batch();
        if deadline > Instant::now() + Duration::from_secs(1) {
            large.abort();
            drop(large.await);
        } else {
            assert_eq!(large.await.unwrap(), Err(Refusal::Deadline));
        }
        let before = served.statistics.totals().executions;
        gate.open();
        assert!(served.infer(row(0.0), 1, soon()).await.is_ok());
        let after = served.statistics.totals().executions;
        assert!(after - before <= 2, "{} batches for one row", after - before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_ends_after_its_last_request_and_not_before() {
    let gate = Gate::default();
    let (served, thread) = served("mnist", 1, Gated(gate.clone()));
    gate.close();
    let running = ask(&served, 0.0);
    gate.wait_for_batch();
    drop(served);
    assert!(!thread.is_finished());
    gate.open();
    assert!(running.await.unwrap().is_ok());
    thread.join().unwrap();
}

/// Records the names of the threads that run it, and returns the given number of zeros per row.
struct Threads(usize, Arc<Mutex<Vec<String>>>);

impl Model for Threads {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.1.lock().expect("no batch panics").push(name);
        Tensor::zeros((batch.dim(0)?, self.0), candle_core::DType::F32, batch.device())
    }
}

#[tokio::test]
async fn a_linear_layer_is_computed_where_its_rows_come_in_only_if_it_is_small() {
    for (classes, is_small) in [(3, true), (60_000, false)] {
        let mut version = flowers();
        version.labels = (0..classes).map(|class| class.to_string()).collect();
        let threads = Arc::default();
        let served = serving(("flowers", 1), version, Threads(classes, Arc::clone(&threads)));
        threads.lock().unwrap().clear();
        served.infer(vec![0.0; 4], 1, soon()).await.unwrap();
        let names = threads.lock().unwrap().clone();
        assert_eq!(names[0] != "flowers/1", is_small, "{names:?}");
    }
}
