//! What users write, and what becomes of it.

use clap::{CommandFactory, Parser};

use super::*;

fn parse(arguments: &[&str]) -> Settings {
    let arguments = [&["balancer"], arguments].concat();
    Cli::try_parse_from(arguments).expect("valid flags").settings
}

fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
    Config::load(parse(arguments))
}

#[test]
fn every_flag_has_its_environment_variable_and_its_key() {
    let command = Cli::command();
    for argument in command.get_arguments() {
        let Some(flag) = argument.get_long() else { continue };
        if matches!(flag, "help" | "version") {
            continue;
        }
        let variable = format!("BALANCER_{}", flag.to_uppercase().replace('-', "_"));
        assert_eq!(argument.get_env().and_then(|env| env.to_str()), Some(&*variable));
        assert!(argument.get_help().is_some(), "--{flag} explains itself");
        if flag != "config" {
            let error = toml::from_str::<Settings>(&format!("{flag} = {{}}")).map(|_| ());
            let text = error.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!text.contains("unknown field"), "{flag}: {text}");
        }
    }
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = config(&["--worker", "127.0.0.1:8501"]).expect("valid");
    assert_eq!(config.listen.to_string(), "0.0.0.0:5000");
    assert_eq!(config.admin.to_string(), "127.0.0.1:9900");
    assert_eq!(config.policy, Kind::Random);
    assert_eq!(config.bounds.body, 10_000_000);
    assert!(config.spawn.is_none());
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("balancer.toml");
    let text = "worker = [\"127.0.0.1:1\"]\npolicy = \"p2c\"\nrequest-timeout = \"5s\"\n";
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("text");
    let config = config(&["--config", path, "--policy", "hash"]).expect("valid");
    assert_eq!(config.policy, Kind::Hash);
    assert_eq!(config.timeouts.request, Duration::from_secs(5));
    assert_eq!(config.sources.len(), 1);
}

#[test]
fn an_unknown_key_is_refused_by_name_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("balancer.toml");
    std::fs::write(&path, "policy = \"p2c\"\nworkr = [\"127.0.0.1:1\"]\n").expect("written");
    let error = Settings::read(&path).expect_err("refused").to_string();
    assert!(error.contains("workr") && error.contains("line 2"), "{error}");
}

#[test]
fn workers_are_written_in_several_ways() {
    let named = parse_worker("server1=127.0.0.1:8501").expect("valid");
    let address = SocketAddr::from(([127, 0, 0, 1], 8501));
    assert_eq!(named, Source::Fixed { name: "server1".to_owned(), address });
    assert!(matches!(parse_worker("dns:workers:8501"), Ok(Source::Dns { port: 8501, .. })));
    assert!(matches!(parse_worker("[::1]:8501"), Ok(Source::Fixed { .. })));
    for wrong in [
        "",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "=127.0.0.1:1",
        "dns:x",
        "a b=127.0.0.1:1",
    ] {
        let error = parse_worker(wrong).expect_err(wrong).to_string();
        assert!(error.contains("HOST:PORT"), "{error}");
    }
}

#[test]
fn settings_that_make_no_sense_say_what_to_do() {
    for (arguments, hint) in [
        (&["--spawn", "0"][..], "--worker"),
        (&["--worker", "127.0.0.1:1", "--max-bodies-bytes", "5"], "at least"),
        (&["--worker", "127.0.0.1:1", "--request-timeout", "0s"], "longer than 0"),
        (&["--worker", "127.0.0.1:1", "--probe-path", "no path"], "not a path"),
        (&["--worker", "127.0.0.1:1", "--panic-percent", "101"], "0 to 100"),
        (&["--worker", "127.0.0.1:1", "--config", "/nowhere.toml"], "cannot read"),
    ] {
        let error = config(arguments).expect_err(hint).to_string();
        assert!(error.contains(hint), "{arguments:?}: {error}");
    }
}
