//! Flags and signals in, exit code out; the rest is the library's.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use balancer::config::{Check, Cli, Command, Config, ConfigError, Healthcheck, Settings, Top};
use balancer::{log, process, supervisor};
use clap::{CommandFactory, Parser};

/// Time for the last events to be written.
const FLUSH_LIMIT: Duration = Duration::from_millis(300);

/// Gives pages back to the system when connections fall idle, and is quicker than the system's own.
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

/// Has the kernel give this process pages of the usual size. A huge one goes back to the system only
/// as a whole, and of ten thousand connections that fell idle a few are left on each.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    let _is_unsupported = rustix::thread::disable_transparent_huge_pages(true).is_err();
}

/// Tells the user something before there is a log. A closed standard error is no reason to fail.
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

/// An error and its causes, as far as it does not name them itself.
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
        // This program, even if its file is replaced meanwhile.
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
