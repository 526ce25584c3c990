//! Workers that join by themselves: in with the token, out when they leave or stop renewing.

use std::net::SocketAddr;
use std::time::Duration;

use balancer::config::{Config, Settings};
use common::{Act, Answer, Gate, Running, Stub, settings};

use crate::common;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A file with the token, which must live as long as the balancer.
fn token() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), TOKEN).expect("written");
    file
}

fn joinable(token: &tempfile::NamedTempFile, workers: &[SocketAddr]) -> Settings {
    Settings {
        accept_joins: Some(true),
        join_token_file: Some(token.path().to_owned()),
        ..settings(workers)
    }
}

/// Sends a request as a worker would.
async fn ask(running: &Running, path: &str, token: &str, member: &str) -> Answer {
    running.post(path, &format!("authorization: Bearer {token}\r\n"), member).await
}

fn member(name: &str, instance: &str, address: SocketAddr) -> String {
    format!(r#"{{"name":"{name}","instance":"{instance}","address":"{address}","port":1}}"#)
}

async fn join(running: &Running, name: &str, instance: &str, address: SocketAddr) -> Answer {
    ask(running, wire::join::JOIN, TOKEN, &member(name, instance, address)).await
}

fn names(fleet: &serde_json::Value) -> Vec<String> {
    let endpoints = fleet["endpoints"].as_array().expect("endpoints");
    endpoints.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn a_worker_that_joins_is_sent_requests_and_one_that_leaves_is_not() {
    let (token, stub) = (token(), Stub::named("joined").await);
    let impatient = Settings { queue_timeout: Some(Duration::ZERO), ..joinable(&token, &[]) };
    let running = Running::start_unready(&impatient);
    let before = running.post("/submit", "content-type: image/png\r\n", "x").await;
    assert_eq!(before.status, 503, "no worker has joined yet: {before:?}");
    let lease = join(&running, "a", "1", stub.address).await;
    assert_eq!(lease.status, 200, "{lease:?}");
    let lease: wire::join::Lease = serde_json::from_str(&lease.body).expect("a lease");
    assert_eq!(lease.address, stub.address);
    assert!(lease.renew_ms * 2 < lease.lease_ms, "one renewal may get lost");
    let fleet = running.until(|fleet| fleet["ready"] == true).await;
    assert!(fleet["endpoints"][0]["joined_seconds_ago"].is_number(), "operators see who joined");
    let answer = running.post("/submit", "content-type: image/png\r\n", "x").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "joined"));
    let left = ask(&running, wire::join::LEAVE, TOKEN, &member("a", "1", stub.address)).await;
    assert_eq!(left.status, 200, "{left:?}");
    running.until(|fleet| names(fleet).is_empty()).await;
}

#[tokio::test]
async fn a_worker_that_says_nothing_is_out_after_its_lease_and_one_that_renews_is_not() {
    let (token, stub) = (token(), Stub::named("a").await);
    let other = Stub::named("b").await;
    let running = Running::start_unready(&joinable(&token, &[]));
    let renewing = async {
        loop {
            assert_eq!(join(&running, "renews", "1", other.address).await.status, 200);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let watching = async {
        assert_eq!(join(&running, "dies", "1", stub.address).await.status, 200);
        running.until(|fleet| names(fleet) == ["dies", "renews"]).await;
        running.until(|fleet| names(fleet) == ["renews"]).await;
        let metrics = running.metrics().await;
        for sample in ["balancer_leases_expired_total 1\n", "balancer_joined_workers 1\n"] {
            assert!(metrics.contains(sample), "operators hear of it: {sample}");
        }
    };
    tokio::select! {
        () = watching => {}
        () = renewing => unreachable!("it renews for ever"),
    }
}

#[tokio::test]
async fn requests_that_a_leaver_has_in_flight_are_answered() {
    let token = token();
    let go = Gate::closed();
    let waiting = go.clone();
    let stub = Stub::start(move |_| Act::After(waiting.clone(), Box::new(Act::ok("done")))).await;
    let running = Running::start_unready(&joinable(&token, &[]));
    assert_eq!(join(&running, "a", "1", stub.address).await.status, 200);
    running.until(|fleet| fleet["ready"] == true).await;
    let asking = running.post("/submit", "content-type: image/png\r\n", "x");
    let leaving = async {
        running.until(|fleet| fleet["endpoints"][0]["in_flight"] == 1).await;
        let left = ask(&running, wire::join::LEAVE, TOKEN, &member("a", "1", stub.address)).await;
        assert_eq!(left.status, 200);
        running.until(|fleet| names(fleet).is_empty()).await;
        go.open();
    };
    let (answer, ()) = tokio::join!(asking, leaving);
    assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
}

#[tokio::test]
async fn a_join_needs_the_token_and_a_free_name() {
    let (token, stub) = (token(), Stub::named("a").await);
    let other = Stub::named("b").await;
    let running = Running::start_unready(&joinable(&token, &[]));
    let of_a = member("a", "1", stub.address);
    for wrong in ["", "wrong", &TOKEN[1..], &format!("{TOKEN}0")] {
        for path in [wire::join::JOIN, wire::join::LEAVE] {
            let answer = ask(&running, path, wrong, &of_a).await;
            assert_eq!(answer.status, 401, "{wrong:?}: {answer:?}");
            assert!(answer.header("www-authenticate").is_some());
        }
    }
    assert_eq!(running.post(wire::join::JOIN, "", &of_a).await.status, 401);
    assert_eq!(running.get(wire::join::JOIN).await.status, 405);
    assert_eq!(join(&running, "a", "1", stub.address).await.status, 200);
    let second = join(&running, "a", "2", other.address).await;
    assert_eq!(second.status, 409, "{second:?}");
    assert!(second.error().contains(&stub.address.to_string()), "it says who has it");
    for text in ["", "{", "[]", r#"{"name":"a"}"#, &"x".repeat(5000)] {
        let answer = ask(&running, wire::join::JOIN, TOKEN, text).await;
        assert!(matches!(answer.status, 400 | 413), "{text:.10}: {answer:?}");
    }
    for (name, address) in [("a b", stub.address), ("c", ([0, 0, 0, 0], 1).into())] {
        let answer = join(&running, name, "3", address).await;
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
    }
    assert_eq!(names(&running.fleet().await), ["a"]);
}

#[tokio::test]
async fn requests_that_come_before_a_worker_has_joined_wait_for_it() {
    let (token, stub) = (token(), Stub::named("back").await);
    let running = Running::start_unready(&joinable(&token, &[]));
    let asking = running.post("/submit", "content-type: image/png\r\n", "x");
    let joining = async {
        running.until(|fleet| fleet["waiting_requests"] == 1).await;
        assert_eq!(join(&running, "a", "1", stub.address).await.status, 200);
    };
    let (answer, ()) = tokio::join!(asking, joining);
    assert_eq!((answer.status, answer.body.as_str()), (200, "back"));
}

#[tokio::test]
async fn a_flood_of_joins_ends_at_a_limit_and_harms_neither_members_nor_clients() {
    const FLOOD: u16 = 1100;
    let (token, stub) = (token(), Stub::named("member").await);
    let seldom = Some(Duration::from_secs(1));
    let running =
        Running::start_unready(&Settings { probe_interval: seldom, ..joinable(&token, &[]) });
    assert_eq!(join(&running, "member", "1", stub.address).await.status, 200);
    running.until(|fleet| fleet["ready"] == true).await;
    for number in 1..=FLOOD {
        // Nothing answers there.
        let place = SocketAddr::from(([127, 1, 1, 1], number));
        let answer = join(&running, &format!("flood{number}"), "1", place).await;
        assert!(matches!(answer.status, 200 | 409), "{answer:?}");
        if number % 50 == 0 {
            let wrong = ask(&running, wire::join::JOIN, "guessed", "{").await;
            assert_eq!(wrong.status, 401, "the token is looked at first");
            assert_eq!(join(&running, "member", "1", stub.address).await.status, 200, "it renews");
            let answer = running.post("/submit", "content-type: image/png\r\n", "x").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "member"));
        }
    }
    assert!(names(&running.fleet().await).len() <= 1024, "there is a limit");
}

#[tokio::test]
async fn joins_are_refused_unless_enabled() {
    let stub = Stub::named("a").await;
    let running = Running::before(&[&stub]).await;
    let answer = join(&running, "a", "1", stub.address).await;
    assert_eq!(answer.status, 404);
    assert!(answer.error().contains("--accept-joins"), "{answer:?}");
}

#[tokio::test]
async fn joined_workers_come_after_configured_ones_ordered_by_name() {
    let (token, first) = (token(), Stub::named("first").await);
    let (z, b) = (Stub::named("z").await, Stub::named("b").await);
    let running = Running::start(joinable(&token, &[first.address])).await;
    assert_eq!(join(&running, "z", "1", z.address).await.status, 200);
    assert_eq!(join(&running, "b", "1", b.address).await.status, 200);
    running.until(|fleet| names(fleet) == ["worker1", "b", "z"]).await;
    let targets = running.ask_admin("GET", "/targets.json", "").await.body;
    let targets: serde_json::Value = serde_json::from_str(&targets).expect("JSON");
    let targets = targets.as_array().expect("a list").iter();
    let target =
        |one: &serde_json::Value| (one["labels"]["endpoint"].clone(), one["targets"].clone());
    let known = [("worker1", &first), ("b", &b), ("z", &z)];
    let known = known.map(|(name, stub)| (name.into(), vec![stub.address.to_string()].into()));
    assert_eq!(targets.map(target).collect::<Vec<_>>(), known, "Prometheus finds them all");
}

#[test]
fn joins_need_a_token() {
    let alone = Settings { accept_joins: Some(true), ..settings(&[]) };
    let error = Config::try_new(&alone).expect_err("no token").to_string();
    assert!(error.contains("join-token-file") && error.contains("openssl rand"), "{error}");
    let token = token();
    let unused = Settings { accept_joins: None, ..joinable(&token, &[]) };
    assert!(Config::try_new(&unused).is_err(), "a token that is good for nothing");
    let config = Config::try_new(&joinable(&token, &[])).expect("valid");
    assert!(config.spawn.is_none(), "workers come by themselves");
}

#[tokio::test]
async fn a_worker_behind_a_proxy_has_to_say_where_it_is() {
    let (token, stub) = (token(), Stub::named("a").await);
    let running = Running::start_unready(&joinable(&token, &[]));
    let fields = format!("authorization: Bearer {TOKEN}\r\nvia: 1.1 proxy\r\n");
    let unseen = r#"{"name":"a","instance":"1","port":8501}"#;
    let answer = running.post(wire::join::JOIN, &fields, unseen).await;
    assert_eq!(answer.status, 400, "the proxy's own address would be taken: {answer:?}");
    assert!(answer.error().contains("--advertise"), "{answer:?}");
    let local = member("a", "1", stub.address);
    assert_eq!(
        running.post(wire::join::JOIN, &fields, &local).await.status,
        400,
        "not its machine"
    );
    let elsewhere = member("a", "1", ([10, 0, 0, 9], 8501).into());
    assert_eq!(running.post(wire::join::JOIN, &fields, &elsewhere).await.status, 200);
}
