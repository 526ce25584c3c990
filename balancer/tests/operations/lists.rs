//! Workers given by name, by file, and joined by themselves.

use std::net::SocketAddr;

use rustix::process::Signal;

use crate::common::{Act, Stub, exchange};
use crate::program::{Program, activated, folder, until};

/// There are many names: in sequence they would take two minutes, longer than the test waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_is_silent_at_the_start_holds_up_no_other_worker_and_no_file() {
    let (one, two, folder) = (Stub::named("one").await, Stub::named("two").await, folder());
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let path = folder.path().join("workers");
    std::fs::write(&path, format!("{}\n", one.address)).expect("written");
    let server = silent.local_addr().expect("bound").to_string();
    let names: Vec<String> =
        (0..40).map(|number| format!("dns:workers{number}.test:8501")).collect();
    let mut arguments = vec!["--dns-server", &server];
    arguments.extend(names.iter().flat_map(|name| ["--worker", name.as_str()]));
    arguments.extend(["--workers-file", path.to_str().expect("text")]);
    let balancer = Program::start(&arguments).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
    balancer
        .until_logged("name not resolved, retrying source=\"worker=dns:workers39.test:8501\"")
        .await;
    std::fs::write(&path, format!("{}\n", two.address)).expect("written");
    let second = two.address.to_string();
    let followed = async || {
        let fleet = balancer.fleet().await;
        (fleet["endpoints"][0]["name"] == *second).then_some(())
    };
    until("the file is followed", followed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_file_that_becomes_empty_or_no_file_empties_nothing_until_sighup() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    let path = folder.path().join("workers");
    std::fs::write(&path, format!("a={}\n", stub.address)).expect("written");
    let balancer = Program::start(&["--workers-file", path.to_str().expect("text")]).await;
    balancer.until_ready().await;
    std::fs::write(&path, "").expect("written");
    balancer.until_logged("the file names no worker any more").await;
    assert_eq!(balancer.post().await, 200);
    std::fs::remove_file(&path).expect("removed");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("made");
    balancer.until_logged("not a regular file").await;
    assert_eq!(balancer.post().await, 200);
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "").expect("written");
    balancer.signal(Signal::HUP);
    until("the list is empty", async || {
        let fleet = balancer.fleet().await;
        fleet["endpoints"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_that_is_not_known_holds_up_no_other_worker() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let stub = Stub::on(listener, |_| Act::ok("alive"));
    let local = format!("local=localhost:{}", stub.address.port());
    let arguments = ["--worker", "gone=nowhere.invalid:8501", "--worker", &local];
    let balancer = Program::start(&arguments).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
    let fleet = balancer.fleet().await;
    assert_eq!(fleet["endpoints"][0]["address"], stub.address.to_string(), "the one that listens");
}

/// A worker joins at the balancer's public port; returns the status.
async fn join(balancer: SocketAddr, token: &str, worker: SocketAddr) -> u16 {
    let body = format!(r#"{{"name":"a","instance":"1","address":"{worker}","port":1}}"#);
    let (path, length) = (wire::join::JOIN, body.len());
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\nauthorization: Bearer {token}\r\n\r\n{body}"
    );
    exchange(balancer, &request).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_socket_of_systemd_workers_join_at_once_and_clients_wait_for_them() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let stub = Stub::named("alive").await;
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), TOKEN).expect("written");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let file = token.path().to_str().expect("a path");
    let arguments = ["--admin", "127.0.0.1:0", "--accept-joins", "--join-token-file", file];
    let balancer = Program::spawn(activated(&socket, &arguments)).listening().await;
    let asking = balancer.post();
    let joining = async {
        let waits = async || (balancer.metric("balancer_queue_depth").await > 0.0).then_some(());
        until("the client waits", waits).await;
        assert_eq!(join(balancer.address, TOKEN, stub.address).await, 200);
    };
    assert_eq!(tokio::join!(asking, joining), (200, ()));
}
