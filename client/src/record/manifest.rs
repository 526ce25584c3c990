//! The description of a run: enough to repeat it, and no credentials.

use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::experiment::Options;

/// What a run was: enough to repeat it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The experiment's name: `rtt`, `scaling`, `load` and so on.
    pub experiment: String,
    /// When it was started (UTC).
    pub started: String,
    /// The command line, word by word, without credentials and without the folder of the program.
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
    /// The slice it ran in, if any: name, CPUs of the workers, settings that could not be applied.
    pub slice: Option<String>,
    /// The service that was measured.
    pub target: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// All other settings.
    pub settings: serde_json::Value,
}

impl Manifest {
    /// The manifest of a run that starts now.
    pub fn collect(experiment: &str, options: &Options, settings: serde_json::Value) -> Self {
        let target = options.target.to_string();
        Self::of(experiment, options.seed, options.within_slice.clone(), target, settings)
    }

    /// The manifest of an experiment on a slice, from outside of it.
    pub(crate) fn of_slice(
        experiment: &str,
        seed: u64,
        target: &str,
        slice: String,
        settings: serde_json::Value,
    ) -> Self {
        Self::of(experiment, seed, Some(slice), target.to_owned(), settings)
    }

    fn of(
        experiment: &str,
        seed: u64,
        slice: Option<String>,
        target: String,
        settings: serde_json::Value,
    ) -> Self {
        Self {
            experiment: experiment.to_owned(),
            started: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            command: without_secrets(std::env::args()),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: answer_of("git", &["describe", "--always", "--dirty", "--abbrev=40"]),
            cpu: cpu_name(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: answer_of("uname", &["-sr"]),
            slice,
            target,
            seed,
            settings,
        }
    }
}

/// A command line that is safe to share with the results: without credentials and without the
/// folder of the program. A header that may be secret keeps its name but not its value.
fn without_secrets(mut arguments: impl Iterator<Item = String>) -> Vec<String> {
    const SECRET: [&str; 6] =
        ["authorization", "cookie", "proxy-authorization", "x-api-key", "token", "secret"];
    let mut is_header = false;
    let shown = |argument: String| {
        let was_header =
            std::mem::replace(&mut is_header, argument == "-H" || argument == "--header");
        let is_field =
            was_header || argument.starts_with("-H") || argument.starts_with("--header=");
        let Some((name, _)) = argument.split_once(':').filter(|_| is_field) else {
            return argument;
        };
        let lower = name.to_lowercase();
        if SECRET.iter().any(|word| lower.contains(word)) {
            format!("{name}: ...")
        } else {
            argument
        }
    };
    let program = arguments.next().map(|path| path.rsplit('/').take(1).collect());
    program.into_iter().chain(arguments.map(shown)).collect()
}

/// The first line that a program prints; `None` if the program is missing or fails.
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
    use super::without_secrets;

    #[test]
    fn secrets_and_folders_of_the_command_line_do_not_stand_in_results() {
        let arguments =
            ["/home/me/bin/client", "-H", "Authorization: Bearer 1", "--header", "X-Api-Key:2"];
        let more = ["-HCookie: 3", "--header=Set-Token: 4", "-H", "Accept: a:b", "http://h:1/"];
        let shown = without_secrets(arguments.iter().chain(&more).map(|it| (*it).to_owned()));
        assert_eq!(shown[0], "client");
        assert_eq!(shown[2], "Authorization: ...");
        assert_eq!(shown[4], "X-Api-Key: ...");
        assert_eq!(shown[5..7], ["-HCookie: ...", "--header=Set-Token: ..."]);
        assert_eq!(shown[7..], ["-H", "Accept: a:b", "http://h:1/"]);
    }
}
