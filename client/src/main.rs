//! The `client` binary: maps the result of the library to an exit code.

use std::process::ExitCode;

use clap::Parser;

/// A sender thread allocates and frees for every request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = client::cli::Cli::parse();
    client::cli::log_to_stderr(&cli.log);
    let mut out = client::output::UntilClosed::new(std::io::stdout());
    let code = match client::run(&cli, &mut out) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            client::error::exit_code(&error)
        }
    };
    // After a signal the exit status names the signal, whatever the outcome of the run.
    client::signals::exit_code().unwrap_or(code)
}
