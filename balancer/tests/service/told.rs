//! Log messages for operators about workers that do not answer.

use std::io::{Error, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Act, Running, Stub, settings};

use crate::common;

/// The log so far; one per process.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Log {
    /// Waits until there is a line that contains all of these.
    async fn until_told(&self, words: &[&str]) {
        let told = async {
            loop {
                let text = String::from_utf8(self.0.lock().expect("not poisoned").clone());
                let text = text.expect("text");
                if text.lines().any(|line| words.iter().all(|word| line.contains(word))) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.expect("it is told");
    }
}

#[tokio::test]
async fn why_a_worker_is_out_is_told_with_its_name() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let (one, two) = (Stub::named("one").await, Stub::named("two").await);
    let balancer = Running::before(&[&one, &two]).await;
    log.until_told(&["INFO", "endpoint up", "worker2"]).await;
    drop(two);
    let words = ["WARN", "endpoint down", "worker2", "reason=\"connection refused\""];
    log.until_told(&words).await;
    one.set_ready(Act::Answer(404, "", "{}".to_owned()));
    log.until_told(&["WARN", "endpoint down", "worker1", "status 404"]).await;
    one.set_ready(Act::Hang);
    log.until_told(&["WARN", "does not answer", "worker1", "no answer in time"]).await;
    one.set_ready(Act::ok("{}"));
    one.set_models_to("hello");
    log.until_told(&["WARN", "does not answer", "worker1", "not a worker"]).await;
    one.set_models(&[]);
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "available").await;
    // A worker that was never up.
    one.set_ready(Act::Hang);
    let mut late = settings(&[]);
    late.worker = vec![format!("newcomer={}", one.address)];
    let _balancer = Running::start_unready(&late);
    log.until_told(&["WARN", "does not answer", "newcomer", "no answer in time"]).await;
}
