//! Results on disk: one folder a run, with every sample, a summary, plots and a manifest.
//!
//! Nothing that was measured is ever overwritten, unless the user says so. While a run goes on its
//! samples stand in a [`Journal`], so that a run that was killed has left something to read. The manifest holds what is needed to run the same again and to
//! know whether two runs may be compared: settings, seed, commit, processor, kernel.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::experiment::Options;
use crate::report::milliseconds;
use crate::sample::Sample;
use crate::workload::Workload;

/// A folder that holds the results of one run.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder that the flags name, by default `results/<experiment>-<time>`. Refuses one
    /// with files in it, unless they are results of an earlier run that may be replaced.
    pub fn of(options: &Options, experiment: &str) -> anyhow::Result<Self> {
        if let (Some(path), true) = (&options.out, options.force) {
            remove_results(path).with_context(|| path.display().to_string())?;
        }
        Self::create(options.out.as_deref(), experiment)
    }

    /// Makes the folder, by default `results/<experiment>-<time>`. Refuses one with files in it.
    pub fn create(out: Option<&Path>, experiment: &str) -> anyhow::Result<Self> {
        let path = out.map_or_else(
            || Path::new("results").join(format!("{experiment}-{}", now_in_a_name())),
            Path::to_owned,
        );
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        let is_empty =
            std::fs::read_dir(&path).with_context(|| path.display().to_string())?.next().is_none();
        if is_empty { Ok(Self { path }) } else { Err(Error::ResultsExist(path).into()) }
    }

    /// A folder inside this one.
    pub fn inside(&self, name: &str) -> anyhow::Result<Self> {
        Self::create(Some(&self.path.join(name)), name)
    }

    /// A folder that holds results already.
    pub fn open(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Reads one file as JSON.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<T> {
        let path = self.path.join(name);
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(|| shown.clone())?;
        serde_json::from_str(&text).with_context(|| shown)
    }

    /// Writes a file that is drawn from others, in place of its last drawing.
    pub fn redraw(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        std::fs::write(&new, content)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| path.display().to_string())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one file that must not exist yet.
    pub fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        File::create_new(&path)
            .and_then(|mut file| file.write_all(content))
            .with_context(|| path.display().to_string())
    }

    /// Writes `value` as readable JSON.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(value).context("writing JSON")?;
        text.push(b'\n');
        self.write(name, &text)
    }

    /// Writes rows as CSV with a head.
    pub fn write_csv(
        &self,
        name: &str,
        rows: impl IntoIterator<Item = impl Serialize>,
    ) -> anyhow::Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in rows {
            writer.serialize(row).context("writing CSV")?;
        }
        self.write(name, &writer.into_inner().context("writing CSV")?)
    }
}

/// What a run writes besides plots.
const FILES: [&str; 8] = [
    MANIFEST,
    SAMPLES,
    JOURNAL,
    "summary.json",
    "summary.csv",
    "capacity.csv",
    "differences.json",
    "report.html",
];
/// What the settings of a run stand in.
pub(crate) const MANIFEST: &str = "manifest.json";
/// Where the samples of a run stand.
pub(crate) const SAMPLES: &str = "samples.csv";
/// Where they stand while it goes on.
pub(crate) const JOURNAL: &str = "samples.part.csv";
/// The experiments that may lie inside another one.
pub(crate) const PARTS: [&str; 3] = ["rtt", "scaling", "accuracy"];

/// Removes what an earlier run left in `path`, and nothing else: without a manifest, nothing.
fn remove_results(path: &Path) -> std::io::Result<()> {
    if !path.join(MANIFEST).is_file() {
        return Ok(());
    }
    for part in PARTS.map(|part| path.join(part)).iter().filter(|part| part.is_dir()) {
        remove_results(part)?;
        // What is not ours keeps its folder.
        let _kept = std::fs::remove_dir(part);
    }
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // The manifest goes last: without it the rest would not be known for what it is.
        let is_plot = file.extension().is_some_and(|extension| extension == "svg");
        if name != MANIFEST && (is_plot || FILES.contains(&name)) {
            std::fs::remove_file(&file)?;
        }
    }
    std::fs::remove_file(path.join(MANIFEST))
}

/// The samples of a run that has not ended: written as they come, and removed when all of them have
/// been written in order.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Nothing after a failure to write.
    writer: Option<csv::Writer<File>>,
}

impl Journal {
    /// An empty one in `folder`.
    pub fn create(folder: &Folder) -> anyhow::Result<Self> {
        let path = folder.path.join(JOURNAL);
        let file = File::create_new(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, writer: Some(csv::Writer::from_writer(file)) })
    }

    /// Adds what has come, and sees that it is on disk.
    pub(crate) fn append(&mut self, rows: impl IntoIterator<Item = Row>) {
        let Some(writer) = &mut self.writer else { return };
        let mut is_new = false;
        let written = rows.into_iter().try_for_each(|row| {
            is_new = true;
            writer.serialize(row)
        });
        let flushed = if is_new { writer.flush().map_err(csv::Error::from) } else { Ok(()) };
        if let Err(error) = written.and(flushed) {
            tracing::warn!(%error, file = %self.path.display(), "samples are not kept while the run goes on");
            self.writer = None;
        }
    }

    /// The samples stand elsewhere now.
    pub fn remove(self) -> anyhow::Result<()> {
        drop(self.writer);
        std::fs::remove_file(&self.path).with_context(|| self.path.display().to_string())
    }
}

/// `2026-01-31T12-30-00Z`: sorts by time and is a legal file name everywhere.
fn now_in_a_name() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string().replace(':', "-")
}

/// A sample as it stands in `samples.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which trial of the run.
    pub trial: String,
    /// Which request of the workload.
    pub item: String,
    /// Whether it was dropped from the results.
    pub warm_up: bool,
    /// When the schedule wanted it sent, in microseconds from the start of the trial.
    pub scheduled_us: u64,
    /// When the driver got to it.
    pub dispatched_us: u64,
    /// When it was handed to a connection; nothing if it never was.
    pub sent_us: Option<u64>,
    /// When the head of the answer was there.
    pub first_byte_us: u64,
    /// When it ended.
    pub done_us: u64,
    /// Scheduled to done.
    pub latency_ms: f64,
    /// Sent to done.
    pub service_time_ms: Option<f64>,
    /// A status, or why there was none.
    pub outcome: String,
    /// Length of the answer's body.
    pub bytes: usize,
    /// Who answered.
    pub endpoint: Option<String>,
    /// The best label of the answer.
    pub label: Option<String>,
    /// Whether that was the expected one.
    pub correct: Option<bool>,
    /// Milliseconds in the worker without its queue, if it states its times.
    pub worker_ms: Option<f64>,
    /// Milliseconds in the worker's queue.
    pub queue_ms: Option<f64>,
    /// Milliseconds that the worker's model computed.
    pub compute_ms: Option<f64>,
}

impl Row {
    /// The row of `sample`.
    pub fn new(trial: &str, sample: &Sample, workload: &Workload) -> Self {
        let micros =
            |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            trial: trial.to_owned(),
            item: workload.items().get(sample.item).map(|i| i.name.clone()).unwrap_or_default(),
            warm_up: sample.warm_up,
            scheduled_us: micros(sample.scheduled),
            dispatched_us: micros(sample.dispatched),
            sent_us: sample.sent.map(micros),
            first_byte_us: micros(sample.first_byte),
            done_us: micros(sample.done),
            latency_ms: milliseconds(sample.latency()),
            service_time_ms: sample.service_time().map(milliseconds),
            outcome: sample.outcome.to_string(),
            bytes: sample.bytes,
            endpoint: sample.endpoint.as_deref().map(str::to_owned),
            label: sample.labels.first().cloned(),
            correct: sample.correct,
            worker_ms: sample.timings.as_ref().map(|it| it.total - it.queue).filter(|it| *it > 0.0),
            queue_ms: sample.timings.as_ref().map(|it| it.queue),
            compute_ms: sample.timings.as_ref().map(|it| it.compute).filter(|it| *it > 0.0),
        }
    }
}

/// What a run was: enough to do it again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// `rtt`, `scaling`, …
    pub experiment: String,
    /// When it was started (UTC).
    pub started: String,
    /// The command line.
    pub command: Vec<String>,
    /// Version of this program.
    pub client_version: String,
    /// Commit of the source tree in the working directory, with `-dirty` if it has changes.
    pub git_commit: Option<String>,
    /// Name of the processor.
    pub cpu: Option<String>,
    /// Processors this program may use.
    pub cores: usize,
    /// Name and release of the operating system's kernel.
    pub kernel: Option<String>,
    /// The slice it ran in, if any: name, CPUs of the workers, what could not be applied.
    pub slice: Option<String>,
    /// The service that was measured.
    pub target: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Everything else that was asked for.
    pub settings: serde_json::Value,
}

impl Manifest {
    /// The manifest of a run that starts now.
    pub fn collect(experiment: &str, options: &Options, settings: serde_json::Value) -> Self {
        Self {
            experiment: experiment.to_owned(),
            started: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            command: std::env::args().collect(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: answer_of("git", &["describe", "--always", "--dirty", "--abbrev=40"]),
            cpu: cpu_name(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: answer_of("uname", &["-sr"]),
            slice: options.within_slice.clone(),
            target: options.target.to_string(),
            seed: options.seed,
            settings,
        }
    }
}

/// The first line that a program prints; `None` if it is missing or fails.
fn answer_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Folder, remove_results};

    #[test]
    fn only_results_are_removed_to_make_room_for_others() {
        let parent = tempfile::tempdir().unwrap();
        let file = |name: &str| parent.path().join(name);
        std::fs::create_dir(file("rtt")).unwrap();
        for name in ["samples.csv", "load-tail.svg", "notes.txt", "rtt/thesis.tex"] {
            std::fs::write(file(name), "").unwrap();
        }
        remove_results(parent.path()).unwrap();
        assert!(file("samples.csv").exists(), "without a manifest these are not known as results");
        std::fs::write(file("manifest.json"), "{}").unwrap();
        remove_results(parent.path()).unwrap();
        let left = ["samples.csv", "load-tail.svg", "manifest.json", "notes.txt", "rtt/thesis.tex"];
        assert_eq!(left.map(|name| file(name).exists()), [false, false, false, true, true]);
    }

    #[test]
    fn a_folder_with_results_is_never_written_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let folder = Folder::create(Some(&path), "rtt").unwrap();
        folder.write("a.txt", b"one").unwrap();
        assert!(folder.write("a.txt", b"two").is_err());
        let error = Folder::create(Some(&path), "rtt").unwrap_err().to_string();
        assert!(error.contains("already holds results"), "{error}");
        assert_eq!(std::fs::read(path.join("a.txt")).unwrap(), b"one");
    }
}
