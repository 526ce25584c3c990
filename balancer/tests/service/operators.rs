//! Who may operate the balancer, at both ports and with every verb.

use std::io::Write;

use balancer::config::Settings;
use common::{Act, Answer, Running, Stub, exchange};
use http_body_util::Full;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common;

const VERBS: [&str; 4] = [
    "/fleet/worker1/drain",
    "/fleet/worker1/undrain",
    "/fleet/worker1/weight?value=7",
    "/fleet/policy?name=hash",
];

/// Fields that a page of another site, a stranger's name or a proxy cannot avoid sending.
const STRANGE_FIELDS: [&str; 14] = [
    "origin: https://evil.example\r\n",
    "origin: null\r\n",
    "Origin: http://127.0.0.1\r\n",
    "sec-fetch-site: cross-site\r\n",
    "sec-fetch-site: same-site\r\n",
    "referer: https://evil.example/page\r\n",
    "via: 1.1 other\r\n",
    "Forwarded: for=203.0.113.9\r\n",
    "fORWARDED: for=_hidden\r\n",
    "x-forwarded-for: 127.0.0.1\r\n",
    "X-Forwarded-For:\r\n",
    "x-forwarded-proto: https\r\n",
    "x-forwarded-host: localhost\r\n",
    "x-real-ip: 203.0.113.9\r\n",
];

async fn raw(address: std::net::SocketAddr, line: &str, host: Option<&str>) -> Answer {
    let host = host.map(|host| format!("host: {host}\r\n")).unwrap_or_default();
    let request = format!("{line}\r\n{host}connection: close\r\ncontent-length: 0\r\n\r\n");
    exchange(address, &request).await
}

fn orders(stub: &Stub) -> usize {
    stub.seen().iter().filter(|seen| seen.line().contains("/v2/repository/models/")).count()
}

fn is_untouched(fleet: &serde_json::Value) -> bool {
    let endpoint = &fleet["endpoints"][0];
    fleet["policy"] == "random" && endpoint["state"] == "available" && endpoint["weight"] == 1
}

fn token_file(tokens: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(tokens.as_bytes()).expect("written");
    file
}

fn with_token(stub: &Stub, file: &tempfile::NamedTempFile) -> Settings {
    let token = Some(file.path().to_owned());
    Settings { admin_token_file: token, ..common::settings(&[stub.address]) }
}

#[tokio::test]
async fn no_verb_of_the_admin_port_obeys_pages_names_of_strangers_or_proxies() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    for verb in VERBS {
        for fields in STRANGE_FIELDS {
            let answer = balancer.ask_admin("POST", verb, fields).await;
            assert_eq!(answer.status, 403, "{verb} {fields}");
            assert!(answer.error().len() > 20, "{verb} {fields}: {}", answer.body);
        }
        let line = format!("POST {verb} HTTP/1.1");
        for host in ["evil.example", "evil.example:9900", "127.0.0.1.evil.example", "a", "10.9.8.7"]
        {
            let answer = raw(balancer.admin, &line, Some(host)).await;
            assert_eq!(answer.status, 403, "{verb} {host}");
            assert!(answer.error().contains("--admin-host"), "{}", answer.body);
        }
        let line = format!("POST http://evil.example{verb} HTTP/1.1");
        assert_eq!(raw(balancer.admin, &line, Some("localhost")).await.status, 403);
        let line = format!("POST {verb} HTTP/1.0");
        assert_eq!(raw(balancer.admin, &line, Some("localhost")).await.status, 403);
        assert_eq!(raw(balancer.admin, &line, None).await.status, 403);
    }
    assert!(is_untouched(&balancer.fleet().await));
    let own = format!("origin: http://{}\r\nsec-fetch-site: same-origin\r\n", balancer.admin);
    for verb in VERBS {
        assert_eq!(balancer.ask_admin("POST", verb, &own).await.status, 200, "{verb}");
    }
    assert!(!is_untouched(&balancer.fleet().await));
}

#[tokio::test]
async fn only_post_changes_anything_and_no_page_gets_a_preflight() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    let fields = "x-http-method-override: POST\r\naccess-control-request-method: POST\r\nupgrade: websocket\r\n";
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        for verb in VERBS {
            let answer = balancer.ask_admin(method, verb, fields).await;
            assert_eq!(answer.status, 405, "{method} {verb}");
            assert!(answer.header("allow").is_some());
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert!(is_untouched(&balancer.fleet().await));
}

#[tokio::test]
async fn what_the_admin_port_shows_is_for_nobody_elses_page() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    for path in ["/", "/fleet", "/fleet.json", "/metrics", "/style.css", "/nothing"] {
        let line = format!("GET {path} HTTP/1.1");
        assert_eq!(raw(balancer.admin, &line, Some("evil.example")).await.status, 403, "{path}");
        let page = balancer.ask_admin("GET", path, "origin: https://evil.example\r\n").await;
        assert_eq!(page.status, 403, "{path}");
        assert_eq!(balancer.ask_admin("GET", path, "via: 1.1 other\r\n").await.status, 403);
        for name in ["localhost", "LOCALHOST:1", "localhost.", "[::1]:9900", "127.0.0.1"] {
            assert_ne!(raw(balancer.admin, &line, Some(name)).await.status, 403, "{path} {name}");
        }
    }
    // A link may lead to this page.
    let link =
        "sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: document\r\n";
    assert_eq!(balancer.ask_admin("GET", "/fleet", link).await.status, 200);
    for path in ["/fleet", "/fleet.json", "/metrics", "/nothing"] {
        let answer = balancer.ask_admin("GET", path, "").await;
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    let root = balancer.ask_admin("GET", "/", "").await;
    assert_eq!((root.status, root.header("location")), (303, Some("/fleet")));
    let health = raw(balancer.admin, "GET /v2/health/ready HTTP/1.0", None).await;
    assert_eq!(health.status, 200, "readiness is public");
}

#[tokio::test]
async fn models_are_not_unloaded_for_pages_names_of_strangers_or_proxies() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    for verb in ["load", "unload"] {
        for fields in STRANGE_FIELDS {
            let answer = balancer.order(verb, fields).await;
            assert_eq!(answer.status, 403, "{verb} {fields}");
            assert!(answer.error().contains("operators"), "{}", answer.body);
        }
        let path = format!("/v2/repository/models/mnist/{verb}");
        for host in ["evil.example", "fleet.example:5000", "a", "10.9.8.7:5000"] {
            let answer = raw(balancer.address, &format!("POST {path} HTTP/1.1"), Some(host)).await;
            assert_eq!(answer.status, 403, "{verb} {host}");
        }
        let absolute = format!("POST http://evil.example{path} HTTP/1.1");
        let answer = raw(balancer.address, &absolute, Some("evil.example")).await;
        assert_eq!(answer.status, 403);
        let old = raw(balancer.address, &format!("POST {path} HTTP/1.0"), Some("localhost")).await;
        assert_eq!(old.status, 403);
    }
    assert_eq!(orders(&stub), 0);
    assert_eq!(balancer.order("unload", "").await.status, 200);
    assert_eq!(balancer.order("load", "").await.status, 200);
    assert_eq!(orders(&stub), 2);
}

#[tokio::test]
async fn orders_over_http_2_are_judged_by_the_same_rules() {
    let stub = Stub::named("a").await;
    let mut settings = common::settings(&[stub.address]);
    settings.h2c = Some(true);
    let balancer = Running::start(settings).await;
    let mut streams = common::http2(&balancer, 65_535).await;
    let own = balancer.address.to_string();
    let mut order = async |authority: &str, fields: &[(&str, &str)]| {
        let path = format!("http://{authority}/v2/repository/models/mnist/unload");
        let mut request = http::Request::post(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("valid");
        streams.send_request(request).await.expect("an answer").status().as_u16()
    };
    for authority in ["evil.example", "127.0.0.1.evil.example", "10.9.8.7:5000", "a"] {
        assert_eq!(order(authority, &[]).await, 403, "{authority}");
    }
    for line in STRANGE_FIELDS {
        let (name, value) = line.trim_end().split_once(':').expect("a field");
        let field = (name, value.trim());
        assert_eq!(order(&own, &[field]).await, 403, "{line}");
    }
    // Whatever `host` contains: the authority counts, and the two have to agree.
    assert_eq!(order("evil.example", &[("host", "localhost")]).await, 400);
    assert_eq!(order(&own, &[("host", "evil.example")]).await, 400);
    assert_eq!(orders(&stub), 0);
    assert_eq!(order(&own, &[]).await, 200);
    assert_eq!(order("localhost:1", &[]).await, 200);
    assert_eq!(orders(&stub), 2);
}

#[tokio::test]
async fn an_order_that_is_refused_is_refused_before_its_body_comes() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    let request = "POST /v2/repository/models/mnist/load HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 1000000\r\n\r\n";
    let answer = exchange(balancer.address, request).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn a_proxy_that_is_trusted_gives_no_orders_for_its_clients() {
    let stub = Stub::named("a").await;
    let mut settings = common::settings(&[stub.address]);
    settings.trusted_proxy = vec!["127.0.0.1".parse().expect("a network")];
    let balancer = Running::start(settings).await;
    assert_eq!(balancer.order("unload", "").await.status, 403);
    assert_eq!(balancer.order("unload", "x-forwarded-for: 127.0.0.1\r\n").await.status, 403);
    assert_eq!(orders(&stub), 0);
}

#[tokio::test]
async fn names_that_are_allowed_are_as_good_as_the_address() {
    let stub = Stub::named("a").await;
    let mut settings = common::settings(&[stub.address]);
    settings.admin_host = vec!["fleet.example".parse().expect("a name")];
    let balancer = Running::start(settings).await;
    for host in ["fleet.example", "Fleet.Example.:9900"] {
        let drain = raw(balancer.admin, "POST /fleet/worker1/drain HTTP/1.1", Some(host)).await;
        assert_eq!(drain.status, 200, "{host}");
        let line = "POST /v2/repository/models/mnist/load HTTP/1.1";
        assert_eq!(raw(balancer.address, line, Some("fleet.example:5000")).await.status, 200);
        let undrain = raw(balancer.admin, "POST /fleet/worker1/undrain HTTP/1.1", Some(host)).await;
        assert_eq!(undrain.status, 200);
    }
    let other = raw(balancer.admin, "POST /fleet/worker1/drain HTTP/1.1", Some("a.fleet.example"));
    assert_eq!(other.await.status, 403);
}

#[tokio::test]
async fn where_there_is_a_token_both_ports_ask_for_it() {
    let stub = Stub::named("a").await;
    let file = token_file("an-operators-token-1\n");
    let balancer = Running::start_unready(&with_token(&stub, &file));
    let right = "authorization: Bearer an-operators-token-1\r\n";
    for path in ["/fleet.json", "/targets.json", "/metrics", "/fleet", "/"] {
        for wrong in ["", "authorization: Bearer wrong\r\n", "authorization: Basic eDp5\r\n"] {
            let answer = balancer.ask_admin("GET", path, wrong).await;
            assert_eq!(answer.status, 401, "{path} {wrong}");
            assert!(answer.header("www-authenticate").is_some_and(|how| how.starts_with("Bearer")));
        }
        assert_ne!(balancer.ask_admin("GET", path, right).await.status, 401, "{path}");
    }
    for verb in VERBS {
        assert_eq!(balancer.ask_admin("POST", verb, "").await.status, 401, "{verb}");
        let page = format!("{right}origin: https://evil.example\r\n");
        assert_eq!(balancer.ask_admin("POST", verb, &page).await.status, 403, "{verb}");
        assert_eq!(balancer.ask_admin("POST", verb, right).await.status, 200, "{verb}");
    }
    for verb in ["load", "unload"] {
        let answer = balancer.order(verb, "").await;
        assert_eq!(answer.status, 401, "{verb}");
        assert!(answer.header("www-authenticate").is_some());
        assert_ne!(balancer.order(verb, right).await.status, 401, "{verb}");
        let proxied = format!("{right}x-forwarded-for: 203.0.113.9\r\n");
        assert_ne!(balancer.order(verb, &proxied).await.status, 403, "{verb}");
    }
    assert_eq!(balancer.ask_admin("GET", "/v2/health/live", "").await.status, 200);
}

#[tokio::test]
async fn a_new_token_counts_after_a_reload() {
    let stub = Stub::named("a").await;
    let file = token_file("an-operators-token-1\n");
    let balancer = Running::start_unready(&with_token(&stub, &file));
    let status = |number: u32| {
        let fields = format!("authorization: Bearer an-operators-token-{number}\r\n");
        let balancer = &balancer;
        async move { balancer.ask_admin("GET", "/fleet.json", &fields).await.status }
    };
    assert_eq!((status(1).await, status(2).await), (200, 401));
    std::fs::write(file.path(), "an-operators-token-2\n").expect("written");
    balancer.reload.notify_one();
    let changed = async { while status(2).await != 200 {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), changed).await.expect("it counts");
    assert_eq!(status(1).await, 401);
}

#[tokio::test]
async fn idle_connections_do_not_keep_operators_waiting() {
    let stub = Stub::start(|_| Act::ok("x")).await;
    let balancer = Running::before(&[&stub]).await;
    let mut idle = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(balancer.admin).await.expect("connected");
        if number % 2 == 0 {
            stream.write_all(b"GET /fleet.json HTTP/1.1\r\nhost: loc").await.expect("sent");
        }
        idle.push(stream);
    }
    let limit = std::time::Duration::from_secs(5);
    let drained = tokio::time::timeout(limit, balancer.verb("/fleet/worker1/drain")).await;
    assert_eq!(drained.expect("at once").status, 200);
    let metrics = tokio::time::timeout(limit, balancer.metrics()).await;
    assert!(metrics.expect("at once").contains("balancer_"));
    drop(idle);
}
