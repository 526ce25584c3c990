//! Settings, ports, tokens and open files.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Stub, exchange, free_address};
use crate::program::{LONG, Program, activated, folder, pid, until};

#[test]
fn settings_are_checked_from_flags_variables_and_files_and_nothing_is_started() {
    let check = |arguments: &[&str], variable: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_balancer"));
        let output = command.arg("check").args(arguments).env("BALANCER_WORKER", variable).output();
        let output = output.expect("the program");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = check(&[], "10.0.0.7:8501");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("valid"), "{said}");
    for (arguments, variable) in [
        (&[][..], "10.0.0.7"),
        (&["--admin", "0.0.0.0:9900"], "10.0.0.7:8501"),
        (&["--config", "/nowhere/balancer.toml"], "10.0.0.7:8501"),
        (&["/nowhere/balancer.toml"], "10.0.0.7:8501"),
    ] {
        let (code, said) = check(arguments, variable);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_balancers_for_different_clients_never_share_the_admin_port() {
    let stub = Stub::named("alive").await;
    let socket = || std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let (one, other) = (socket(), socket());
    let (worker, admin) = (stub.address.to_string(), free_address().to_string());
    let arguments = ["--worker", &worker, "--admin", &admin];
    let first = Program::spawn(activated(&one, &arguments)).listening().await;
    first.until_ready().await;
    let mut unlike = Command::new(env!("CARGO_BIN_EXE_balancer"));
    unlike.args(["--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::null());
    for command in [unlike, activated(&other, &arguments)] {
        let mut second = Program::spawn(command);
        assert_eq!(second.ended().await.code(), Some(1));
        second.until_logged("choose another port with --admin").await;
    }
    assert!(!first.log().contains("taken over"), "{}", first.log());
    assert_eq!(first.post().await, 200);
    // A process that serves the same clients is its successor.
    let _next = Program::spawn(activated(&one, &arguments)).listening().await;
    first.until_logged("another process has taken over the admin port").await;
}

/// While it has no free descriptor, nothing can be handed over; later it can.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_is_heard_although_there_was_no_file_left_when_it_came() {
    let listen = free_address().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_balancer"));
    command.args(["--listen", &listen, "--admin", "127.0.0.1:0", "--worker", "127.0.0.1:1"]);
    let balancer = Program::spawn(command).listening().await;
    let process = Some(pid(&balancer.child));
    let none = Rlimit { current: Some(0), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(process, Resource::Nofile, none).expect("set");
    let door = UnixAddr::from_abstract_name(format!("imagefleet-balancer/{listen}"));
    let taker = UnixStream::connect_addr(&door.expect("a name")).expect("connected");
    balancer.until_logged("a process that takes over has to wait").await;
    prlimit(process, Resource::Nofile, before).expect("set");
    taker.set_nonblocking(true).expect("set");
    let mut taker = tokio::net::UnixStream::from_std(taker).expect("registered");
    let mut byte = [0];
    let heard = tokio::time::timeout(LONG, taker.read(&mut byte)).await.expect("it is heard");
    assert_eq!(heard.expect("readable"), 1, "{}", balancer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_cannot_be_read_keeps_no_later_sighup_back() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let (stub, folder) = (Stub::named("alive").await, folder());
    let [token, workers] = ["token", "workers"].map(|name| folder.path().join(name));
    std::fs::write(&token, TOKEN).expect("written");
    std::fs::write(&workers, format!("a={}\n", stub.address)).expect("written");
    let [token_path, workers_path] = [&token, &workers].map(|path| path.to_str().expect("text"));
    let arguments = ["--admin-token-file", token_path, "--workers-file", workers_path];
    let balancer = Program::start(&arguments).await;
    let fleet = async || {
        let request = format!(
            "GET /fleet.json HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
        );
        let answer = exchange(balancer.admin, &request).await.body;
        serde_json::from_str::<serde_json::Value>(&answer).expect("JSON")
    };
    until("it is ready", async || (fleet().await["ready"] == true).then_some(())).await;
    std::fs::remove_file(&token).expect("removed");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &token, kind, mode, 0).expect("made");
    for _ in 0..2 {
        let count = || balancer.log().matches("tokens not reloaded").count();
        let before = count();
        balancer.signal(Signal::HUP);
        until("it is told", async || (count() > before).then_some(())).await;
    }
    std::fs::write(&workers, "").expect("written");
    balancer.until_logged("the file names no worker any more").await;
    balancer.signal(Signal::HUP);
    let is_empty =
        async || fleet().await["endpoints"].as_array().is_some_and(Vec::is_empty).then_some(());
    until("the list is empty", is_empty).await;
}

/// A command with this limit of open files; `which` is the option of `ulimit`.
fn with_few_files(which: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit {which} 512 && exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_balancer"), "--threads", "1"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_take_no_files_from_workers_where_there_are_few() {
    let stub = Stub::named("alive").await;
    let worker = stub.address.to_string();
    for (which, are_all_kept) in [("-n", false), ("-Sn", true)] {
        let balancer = Program::spawn(with_few_files(which, &["--worker", &worker]));
        let balancer = balancer.listening().await;
        balancer.until_ready().await;
        let mut idle = Vec::new();
        for _ in 0..600 {
            let mut client = TcpStream::connect(balancer.address).await.expect("connected");
            client
                .write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .expect("sent");
            assert_eq!(client.read_u8().await.expect("an answer"), b'H');
            idle.push(client);
        }
        for _ in 0..20 {
            assert_eq!(balancer.post().await, 200, "{}", balancer.log());
        }
        let fleet = balancer.fleet().await;
        let worker = &fleet["endpoints"][0];
        assert_eq!((&worker["state"], &worker["failed"]), (&"available".into(), &0.into()));
        assert!(!balancer.log().contains("endpoint down"), "{}", balancer.log());
        let evicted = balancer.metric("balancer_connections_evicted_total").await;
        assert_eq!(evicted == 0.0, are_all_kept, "{which}: {evicted}");
    }
}
