//! Flags and signals in, exit code out; the rest is the library's.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use balancer::config::{Cli, Command, Config, ConfigError, Settings};
use balancer::{Bound, run};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Gives pages back to the system when connections fall idle, and is quicker than the system's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let loaded = match cli.command {
        Some(Command::Check { config }) => return check(&config),
        None => Config::load(cli.settings),
    };
    let config = match loaded {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    match balance(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("balancer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &ConfigError) -> ExitCode {
    eprintln!("balancer: {error}");
    ExitCode::from(2)
}

fn check(path: &std::path::Path) -> ExitCode {
    match Settings::read(path).and_then(|settings| Config::try_new(&settings)) {
        Ok(_) => {
            eprintln!("{} is valid", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => usage(&error),
    }
}

fn balance(config: Config) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&config.log)?)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bound = Bound::new(&config)?;
        tracing::info!(?config, "configuration");
        bound.announce(&mut std::io::stdout())?;
        let reload = Arc::new(Notify::new());
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let reloading = Arc::clone(&reload);
        let reloader = tokio::spawn(async move {
            while hang_up.recv().await.is_some() {
                reloading.notify_one();
            }
        });
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let result = run(config, bound, shutdown, reload).await;
        reloader.abort();
        result
    })
}
