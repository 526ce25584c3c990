//! Flags and signals in, exit code out; the library does the rest.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use balancer::config::{Check, Cli, Command, Config, ConfigError, Healthcheck, Settings, Top};
use balancer::{log, process, supervisor};
use clap::{CommandFactory, Parser};

/// Time limit for writing the last events.
const FLUSH_LIMIT: Duration = Duration::from_millis(300);

/// Returns pages to the system when connections become idle, and is faster than the system's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Check(asked)) => check(*asked),
        Some(Command::Manual(command)) => manual(&command),
        Some(Command::Healthcheck(asked)) => healthcheck(*asked),
        Some(Command::Top(asked)) => top(*asked),
        Some(Command::Launch { parent, program, arguments }) => {
            let error = supervisor::launch(parent, &program, &arguments);
            say(&format!("cannot run {}: {error}", program.display()));
            ExitCode::from(127)
        }
        None => match Config::load(cli.settings) {
            Ok(config) => {
                use_small_pages();
                balance(config)
            }
            Err(error) => usage(&error),
        },
    }
}

/// Makes the kernel use pages of the usual size for this process. A huge page is returned to the
/// system only as a whole, and of ten thousand idle connections a few remain on each.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    let _is_unsupported = rustix::thread::disable_transparent_huge_pages(true).is_err();
}

/// Prints a message before there is a log. A closed standard error is no reason to fail.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn usage(error: &ConfigError) -> ExitCode {
    say(&format!("balancer: {error}"));
    ExitCode::from(2)
}

fn healthcheck(asked: Healthcheck) -> ExitCode {
    let told = match balancer::healthcheck::run(asked) {
        Ok(address) => writeln!(std::io::stdout(), "{address}").is_ok(),
        Err(error) => {
            say(&format!("balancer: {error}"));
            false
        }
    };
    if told { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn top(asked: Top) -> ExitCode {
    match balancer::top::run(asked, &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("balancer: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn manual(command: &manual::Command) -> ExitCode {
    match command.write(Cli::command(), &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("balancer: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn check(asked: Check) -> ExitCode {
    let (what, checked) = match asked.file {
        Some(path) => {
            let settings = Settings::read(&path);
            let what = format!("{} is", path.display());
            (what, settings.and_then(|settings| Config::try_new(&settings)))
        }
        None => ("the settings are".to_owned(), Config::load(asked.settings)),
    };
    match checked {
        Ok(_) => {
            say(&format!("{what} valid"));
            ExitCode::SUCCESS
        }
        Err(error) => usage(&error),
    }
}

/// An error and its causes, except those that its message already includes.
fn reason(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn balance(mut config: Config) -> ExitCode {
    let log = match log::operator::start(&config.log, config.log_format) {
        Ok(log) => log,
        Err(error) => {
            say(&format!("balancer: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    if cfg!(target_os = "linux")
        && let Some(spawn) = &mut config.spawn
    {
        // This program, even if its file is replaced in the meantime.
        spawn.launcher = Some("/proc/self/exe".into());
    }
    let result = process::run(config, std::sync::Arc::clone(&log));
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(reason = reason(&error), "the balancer ends");
            ExitCode::FAILURE
        }
    };
    log.flush(FLUSH_LIMIT);
    code
}
