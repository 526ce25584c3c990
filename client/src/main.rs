//! The client.
//! Maps the result of the library to an exit code.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = client::cli::Cli::parse();
    client::cli::log_to_stderr(&cli.log);
    match client::run(&cli, &mut std::io::stdout()) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            client::error::exit_code(&error)
        }
    }
}
