//! Settings as users write them, and the resulting configuration.

use clap::{CommandFactory, Parser};
use proptest::prelude::*;

use super::*;

fn parse(arguments: &[&str]) -> Settings {
    let arguments = [&["balancer"], arguments].concat();
    Cli::try_parse_from(arguments).expect("valid flags").settings
}

fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
    Config::load(parse(arguments))
}

#[test]
fn requests_are_logged_only_where_that_is_asked_for() {
    let plain = config(&["--worker", "127.0.0.1:1"]).expect("valid");
    assert!(plain.access_log.is_none());
    for service in ["balancer", "worker"] {
        let unit = format!("../deploy/systemd/imagefleet-{service}.service");
        let unit = std::fs::read_to_string(unit).expect("a unit");
        assert!(!unit.contains("access-log") && !unit.contains("ACCESS_LOG"), "{service}");
    }
}

#[test]
fn help_is_the_same_asked_for_in_short_or_at_length() {
    assert_eq!(manual::with_two_helps(&Cli::command()), Vec::<String>::new());
}

#[test]
fn something_is_said_about_every_command_and_flag() {
    assert_eq!(manual::undocumented(&Cli::command()), Vec::<String>::new());
}

#[test]
fn every_flag_has_its_environment_variable_and_its_key() {
    let command = Cli::command();
    for argument in command.get_arguments() {
        let Some(flag) = argument.get_long() else { continue };
        if matches!(flag, "help" | "version") {
            continue;
        }
        let variable = match flag {
            // Platforms set it under this name.
            "port" => "PORT".to_owned(),
            flag => format!("BALANCER_{}", flag.to_uppercase().replace('-', "_")),
        };
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
fn a_number_of_workers_may_be_a_range_and_they_share_the_cores_at_the_most() {
    let elastic = ["--spawn", "2..64", "--worker-bin", "/bin/true", "--spawn-latency", "200ms"];
    let config = config(&elastic).expect("valid");
    let settings = config.to_string();
    let spawn = config.spawn.expect("workers");
    assert_eq!((spawn.range.min, spawn.range.max), (2, 64));
    assert_eq!(spawn.latency, Some(Duration::from_millis(200)));
    assert_eq!(spawn.shrink_after, Duration::from_secs(30));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    assert_eq!(spawn.threads, (cores / 64).max(1));
    assert!(settings.contains(" spawn=2..64 ") && settings.contains(" spawn-latency=200ms"));
    for (written, shown) in [("3", "3"), ("\"1..4\"", "1..4")] {
        let read: Settings = toml::from_str(&format!("spawn = {written}")).expect(written);
        assert_eq!(read.spawn.map(|range| range.to_string()).as_deref(), Some(shown));
    }
    assert!(toml::from_str::<Settings>("spawn = \"4..1\"").is_err());
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
    for copied in ["http://127.0.0.1:8501", "http://127.0.0.1:8501/"] {
        let name = "127.0.0.1:8501".to_owned();
        assert_eq!(parse_worker(copied).expect(copied), Source::Fixed { name, address });
    }
    let named = parse_worker("server1=http://127.0.0.1:8501/").expect("valid");
    assert_eq!(named, Source::Fixed { name: "server1".to_owned(), address });
    for wrong in [
        "",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "127.0.0.1:+1",
        "localhost",
        "10.0.0.7",
        "::1",
        "[::1]",
        "http://localhost",
        "https://localhost:8501",
        "http://localhost:8501/predict",
        "user@localhost:8501",
        "=127.0.0.1:1",
        "dns:x",
        "dns:x:0",
        "dns:x:y",
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
        (&["--spawn", "2", "--worker-bin", "/bin/true", "--spawn-latency", "1s"], "MIN..MAX"),
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

#[test]
fn addresses_to_listen_on_are_understood_as_usual() {
    for (flag, text, address) in [
        ("--listen", "5001", "0.0.0.0:5001"),
        ("--listen", ":5001", "0.0.0.0:5001"),
        ("--listen", "localhost:5001", "127.0.0.1:5001"),
        ("--listen", "[::]:5001", "[::]:5001"),
        ("--admin", "9901", "127.0.0.1:9901"),
        ("--admin", "localhost:9901", "127.0.0.1:9901"),
    ] {
        let config = config(&[flag, text, "--worker", "127.0.0.1:1"]).expect(text);
        let read = if flag == "--listen" { config.listen } else { config.admin };
        assert_eq!(read.to_string(), address, "{flag} {text}");
    }
    for wrong in ["localhost", "127.0.0.1", "99999", "nonsense:x", "https://a:1", ""] {
        let error = Cli::try_parse_from(["balancer", "--listen", wrong]).expect_err(wrong);
        assert!(error.to_string().contains("0.0.0.0:5000"), "{error}");
    }
    let file: Settings = toml::from_str("listen = 5001\nadmin = \"9901\"").expect("valid");
    assert_eq!(file.listen.map(|address| address.port()), Some(5001));
    assert_eq!(file.admin.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:9901"));
    assert!(toml::from_str::<Settings>("listen = 70000").is_err());
    let servers = ["10.0.0.2", "10.0.0.2:53", "::1", "[::1]:53"].map(addresses::name_server);
    assert!(servers.iter().all(|server| server.as_ref().is_ok_and(|server| server.port() == 53)));
}

#[test]
fn the_port_that_a_platform_gives_counts_where_no_address_is_given() {
    for (arguments, address) in [
        (&["--port", "8080"][..], "0.0.0.0:8080"),
        (&["--port", "8080", "--listen", "127.0.0.1:9"], "127.0.0.1:9"),
    ] {
        let config = config(&[arguments, &["--worker", "127.0.0.1:1"]].concat()).expect("valid");
        assert_eq!(config.listen.to_string(), address);
    }
    let both: Settings = toml::from_str("listen = 5001\nport = 8080").expect("valid");
    assert_eq!(both.listen_address().port(), 5001);
}

#[test]
fn clients_and_operators_need_a_port_each() {
    for (listen, admin) in [
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("0.0.0.0:9900", "127.0.0.1:9900"),
        ("[::]:9900", "127.0.0.1:9900"),
        ("9900", "9900"),
    ] {
        let flags = ["--listen", listen, "--admin", admin, "--worker", "127.0.0.1:1"];
        let error = config(&flags).expect_err(listen).to_string();
        assert!(error.contains("same port"), "{error}");
    }
    let free = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", "127.0.0.1:1"];
    assert!(config(&free).is_ok());
}

#[test]
fn an_admin_port_that_others_reach_needs_a_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    let file = path.to_str().expect("text");
    for admin in ["0.0.0.0:9900", "10.0.0.5:9900", "[::]:9900", ":9900"] {
        let flags = ["--worker", "127.0.0.1:1", "--admin", admin];
        let error = config(&flags).expect_err(admin).to_string();
        assert!(error.contains("--admin-token-file"), "{error}");
        let flags = [&flags[..], &["--admin-token-file", file]].concat();
        std::fs::remove_file(&path).ok();
        let error = config(&flags).expect_err("no file").to_string();
        assert!(error.contains("cannot read") && error.contains(file), "{error}");
        std::fs::write(&path, "0123456789abcdef\n").expect("written");
        let config = config(&flags).expect("valid");
        assert!(config.permission.token.is_some());
    }
    for admin in ["127.0.0.2:9900", "[::1]:9900", "[::ffff:127.0.0.1]:9900"] {
        assert!(config(&["--worker", "127.0.0.1:1", "--admin", admin]).is_ok(), "{admin}");
    }
}

#[test]
fn every_limit_has_a_limit_that_is_named() {
    let forever = "18446744073709551615s";
    let durations = [
        "request-timeout",
        "queue-timeout",
        "connect-timeout",
        "header-timeout",
        "body-timeout",
        "keep-alive",
        "drain-timeout",
        "probe-interval",
        "probe-timeout",
        "slow-start",
    ];
    let amounts = [
        "threads",
        "max-body-bytes",
        "max-bodies-bytes",
        "min-body-rate",
        "max-connections",
        "max-connections-per-ip",
        "max-queue",
        "retry-percent",
        "panic-percent",
        "max-in-flight",
        "spawn",
        "worker-threads",
    ];
    let all = durations.map(|name| (name, forever)).into_iter();
    for (name, value) in all.chain(amounts.map(|name| (name, "4294967295"))) {
        let flag = format!("--{name}");
        let error = config(&["--worker", "127.0.0.1:1", "--worker-bin", "/bin/true", &flag, value]);
        let error = match error {
            // A larger value is fine.
            Ok(_) if name == "max-bodies-bytes" => continue,
            Ok(_) if name == "worker-threads" => continue,
            other => other.expect_err(name).to_string(),
        };
        assert!(error.contains(name) && error.contains(char::is_numeric), "{name}: {error}");
        let quoted = if value == forever { format!("{value:?}") } else { value.to_owned() };
        let from_file: Settings = toml::from_str(&format!("{name} = {quoted}")).expect(name);
        let worker = vec!["127.0.0.1:1".to_owned()];
        let worker_bin = Some("/bin/true".into());
        let from_file = Settings { worker, worker_bin, ..from_file };
        assert!(Config::try_new(&from_file).is_err(), "{name} in the file");
    }
}

#[test]
fn more_clients_than_there_are_files_for_are_refused() {
    let limit = descriptors::raise();
    if limit < 7_000_000 {
        let error = config(&["--worker", "127.0.0.1:1", "--max-connections", "9000000"]);
        let error = error.expect_err("too many").to_string();
        assert!(error.contains("open files") && error.contains("ulimit"), "{error}");
    }
    let config = config(&["--worker", "127.0.0.1:1"]).expect("valid");
    assert!(config.bounds.connections as u64 <= limit);
}

#[test]
fn log_filters_that_say_nothing_are_refused() {
    for (filter, hint) in [("inof", "error, warn, info"), ("balancr=debug", "balancer, hyper")] {
        let error = config(&["--worker", "127.0.0.1:1", "--log", filter]).expect_err(filter);
        assert!(error.to_string().contains(hint), "{error}");
    }
    assert!(config(&["--worker", "127.0.0.1:1", "--log", "warn,balancer=debug"]).is_ok());
}

/// Settings of every size, including impossible ones.
fn any_settings() -> impl Strategy<Value = Settings> {
    let durations = proptest::collection::vec(
        proptest::option::of(prop_oneof![
            Just(Duration::ZERO),
            Just(Duration::MAX),
            Just(Duration::from_nanos(1)),
            any::<u64>().prop_map(Duration::from_secs),
            any::<u64>().prop_map(Duration::from_nanos),
        ]),
        10,
    );
    let numbers = proptest::collection::vec(
        proptest::option::of(prop_oneof![
            Just(0),
            Just(1),
            Just(usize::MAX),
            any::<usize>(),
            0_usize..200_000_000
        ]),
        10,
    );
    (durations, numbers).prop_map(|(durations, numbers)| Settings {
        listen: Some(([127, 0, 0, 1], 0).into()),
        admin: Some(([127, 0, 0, 1], 0).into()),
        worker: vec!["127.0.0.1:1".to_owned()],
        request_timeout: durations[0],
        queue_timeout: durations[1],
        connect_timeout: durations[2],
        header_timeout: durations[3],
        body_timeout: durations[4],
        keep_alive: durations[5],
        drain_timeout: durations[6],
        probe_interval: durations[7],
        probe_timeout: durations[8],
        slow_start: durations[9],
        threads: numbers[0].and_then(NonZeroUsize::new),
        max_body_bytes: numbers[1],
        max_bodies_bytes: numbers[2],
        min_body_rate: numbers[3],
        max_connections: numbers[4],
        max_connections_per_ip: numbers[5],
        max_queue: numbers[6],
        max_in_flight: numbers[7].map(|number| u32::try_from(number).unwrap_or(u32::MAX)),
        retry_percent: numbers[8].map(|number| u32::try_from(number).unwrap_or(u32::MAX)),
        panic_percent: numbers[9],
        ..Settings::default()
    })
}

proptest! {
    /// Accepted settings cannot overflow in later computations.
    #[test]
    fn any_settings_are_refused_or_can_be_worked_with(settings in any_settings()) {
        let Ok(config) = Config::try_new(&settings) else { return Ok(()) };
        let now = tokio::time::Instant::now();
        let Timeouts { request, queue, connect, header, body, keep_alive, drain } = config.timeouts;
        let Probing { interval, timeout, .. } = config.probing;
        for time in [request, queue, connect, header, body, keep_alive, drain, interval, timeout] {
            prop_assert!(now.checked_add(time * 4).is_some());
            prop_assert!(u64::try_from(time.as_nanos()).is_ok());
        }
        prop_assert!(now.checked_add(config.pool.slow_start * 4).is_some());
        let bounds = config.bounds;
        for amount in [bounds.body, bounds.bodies, bounds.connections, bounds.queue] {
            prop_assert!(amount.checked_mul(1024).is_some());
        }
        prop_assert!(bounds.in_flight.checked_mul(1024).is_some());
        prop_assert!(config.retry_percent <= 100 && config.pool.panic_percent <= 100);
        prop_assert!((1..=1024).contains(&config.threads));
    }
}

#[test]
fn a_former_name_works_and_is_reported() {
    let former =
        config(&["--worker", "127.0.0.1:8501", "--orders-from", "10.0.0.0/8"]).expect("valid");
    let flags = ["--worker", "127.0.0.1:8501", "--model-control-from", "10.0.0.0/8"];
    let current = config(&flags).expect("valid");
    assert_eq!(former.model_control_from, current.model_control_from);
    assert_eq!(former.to_string(), current.to_string());
    assert_eq!(former.deprecated, ["orders-from is called model-control-from"]);
    assert!(current.deprecated.is_empty());
}
