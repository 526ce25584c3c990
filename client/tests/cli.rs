//! The program as a user starts it: exit statuses and messages.

use std::process::{Command, Output};

fn client(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_client")).args(arguments).output().expect("it starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_usage_exits_2_with_a_line_that_names_the_flag() {
    for (arguments, hint) in [
        (&["rtt", "--repeat", "0"][..], "--repeat"),
        (&["rtt", "--target", "ftp://host/"], "only http:// and https://"),
        (&["rtt", "--images", "/nonexistent/labels"], ""),
        (&["scaling", "--waits=-1"], "mean wait"),
        (&["scaling", "--waits", "0"], "mean wait"),
        (&["scaling", "--servers", "0"], "--servers"),
        (&["scaling", "--original", "--requests", "5"], "--original"),
        (&["rtt", "--target", "127.0.0.1:99999"], "no port"),
        (&["load", "--quantile=-3"], "--quantile"),
        (&["load", "--quantile", "1"], "--quantile"),
        (&["load", "--max-errors", "nan"], "--max-errors"),
        (&["load", "--max-errors", "1.5"], "--max-errors"),
        (&["load", "--stages", "30s"], "TIME:RATE"),
        (&["load", "--stages", "30s:5", "--rate", "5"], "--rate"),
        (&["load", "--stages", "30s:5", "--arrivals", "closed"], "--stages"),
        (&["load", "--fail", "p99>50"], "p99>50ms"),
        (&["load", "--expect-status", "2yy"], "2xx"),
        (&["load", "-H", "no colon"], "Name: value"),
        (&["load", "-H", "Content-Length: 5"], "--no-keep-alive"),
        (&["load", "-X", "P T"], "no method"),
        (&["load", "-d", "text", "--images", "photos"], "--images"),
        (&["load", "--targets", "Cargo.toml"], "no HTTP archive"),
        (&["load", "--insecure", "--cacert", "file"], "--insecure"),
        (&["report", "results", "--out", "page"], "--out is for"),
        (&["scaling", "--knee", "--original"], "--original"),
        (&["dance"], "dance"),
    ] {
        let output = client(arguments);
        let expected = if hint.is_empty() { 5 } else { 2 };
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(hint), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn nobody_at_the_target_exits_4_and_says_so_without_leaving_a_folder() {
    // Bound, so that no other program gets the port, but not listening.
    let silent = tokio::net::TcpSocket::new_v4().unwrap();
    silent.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let target = silent.local_addr().unwrap().to_string();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let output = client(&["rtt", "--target", &target, "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("is the balancer running?"), "{}", stderr(&output));
    assert!(!stderr(&output).contains('\u{1b}'), "no colours where no terminal is");
    assert!(!out.exists());
}

#[test]
fn a_folder_that_holds_something_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("precious.csv"), "a,b").unwrap();
    let output =
        client(&["scaling", "--target", &target, "--out", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr(&output).contains("already holds results"), "{}", stderr(&output));
}

#[test]
fn a_switch_may_be_set_to_1_in_the_environment() {
    let output = Command::new(env!("CARGO_BIN_EXE_client"))
        .args(["plan", "--rate", "10", "--p99", "10s", "--policy", "random"])
        .env("CLIENT_JSON", "1")
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.starts_with(b"["));
}

#[test]
fn help_teaches_with_examples() {
    for arguments in
        [&["--help"][..], &["rtt", "--help"], &["scaling", "--help"], &["load", "--help"]]
    {
        let output = client(arguments);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("Examples:"), "{arguments:?}");
    }
}
