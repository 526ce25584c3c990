//! The data for pages: the status of the fleet, once and as it changes, and the operators' view.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{Act, Running, Stub, exchange, settings};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

use crate::common;

/// A page that receives events.
struct Page(Lines<BufReader<TcpStream>>);

impl Page {
    async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = "GET /status/events HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("sent");
        Self(BufReader::new(stream).lines())
    }

    /// Waits for the next status that is as wanted; `None` when the stream has ended.
    async fn until(&mut self, wanted: impl Fn(&serde_json::Value) -> bool) -> Option<()> {
        let found = async {
            while let Some(line) = self.0.next_line().await.expect("a line") {
                match line.strip_prefix("data: ") {
                    Some(data) if wanted(&serde_json::from_str(data).expect("JSON")) => {
                        return Some(());
                    }
                    // The last chunk of the answer.
                    None if line == "0" => return None,
                    Some(_) | None => {}
                }
            }
            None
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("an event in time")
    }
}

fn status(body: &str) -> serde_json::Value {
    serde_json::from_str(body).expect("JSON")
}

const MODELS: &str = r#"[
    {"name":"mnist","version":"1","state":"READY","reason":"","takes_images":true},
    {"name":"iris_model","version":"1","state":"READY","reason":""}
]"#;

#[tokio::test]
async fn the_status_tells_models_by_what_they_take_and_the_share_of_every_worker() {
    let (one, other) = (Stub::named("a").await, Stub::named("b").await);
    for stub in [&one, &other] {
        stub.set_models_to(MODELS);
    }
    let balancer = Running::before(&[&one, &other]).await;
    balancer.until(|fleet| fleet["models"].as_array().is_some_and(|all| all.len() == 2)).await;
    let answer = balancer.get("/status.json").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let told = status(&answer.body);
    assert_eq!(told["models"], serde_json::json!(["mnist"]));
    assert_eq!(told["tables"], serde_json::json!(["iris_model"]));
    assert_eq!((&told["workers"], &told["available"]), (&2.into(), &2.into()));
    assert_eq!(told["endpoints"][0]["share"], 0.5);
    for verb in ["worker1/weight?value=3", "policy?name=weighted"] {
        assert_eq!(balancer.verb(&format!("/fleet/{verb}")).await.status, 200);
    }
    let told = status(&balancer.get("/status.json").await.body);
    assert_eq!(told["endpoints"][0]["share"], 0.75);
    assert_eq!(balancer.verb("/fleet/worker1/drain").await.status, 200);
    let told = status(&balancer.get("/status.json").await.body);
    assert_eq!((&told["endpoints"][0]["share"], &told["available"]), (&0.0.into(), &1.into()));
}

#[tokio::test]
async fn an_open_page_hears_of_every_change_and_counts_for_no_request() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    let mut page = Page::open(balancer.address).await;
    page.until(|status| status["ready"] == true).await.expect("the status at once");
    assert_eq!(balancer.fleet().await["active_requests"], 0);
    balancer.verb("/fleet/worker1/drain").await;
    page.until(|status| status["ready"] == false).await.expect("drained");
    balancer.verb("/fleet/worker1/undrain").await;
    page.until(|status| status["ready"] == true).await.expect("back");
    assert_eq!(balancer.post("/predict", "", "x").await.status, 200);
    page.until(|status| status["endpoints"][0]["answered"] == 1).await.expect("counted");
}

#[tokio::test]
async fn the_length_is_that_of_the_body_that_would_be_there_and_of_none_that_is_known() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    let head = async |fields: &str| {
        let request =
            format!("HEAD /style.css HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n");
        exchange(balancer.address, &request).await
    };
    let whole = head("").await;
    let length = balancer.get("/style.css").await.body.len().to_string();
    assert_eq!((whole.status, whole.header("content-length")), (200, Some(&*length)));
    let tag = whole.header("etag").expect("a tag");
    for known in [tag, "*"] {
        let same = head(&format!("if-none-match: {known}\r\n")).await;
        assert_eq!((same.status, same.header("content-length")), (304, None), "{known}");
    }
}

#[tokio::test]
async fn an_open_page_does_not_hold_up_the_end() {
    let stub = Stub::named("a").await;
    let mut balancer = Running::before(&[&stub]).await;
    let mut page = Page::open(balancer.address).await;
    page.until(|status| status["ready"] == true).await.expect("the status");
    balancer.tell_to_stop();
    let end = tokio::time::Instant::now() + Duration::from_secs(15);
    assert!(page.until(|_| false).await.is_none());
    balancer.stopped().await;
    assert!(tokio::time::Instant::now() < end, "the limit for the drain is twice as long");
}

#[tokio::test]
async fn a_page_of_another_site_gets_no_stream() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    let ask = |site: &str| {
        format!(
            "GET /status/events HTTP/1.1\r\nhost: a\r\nsec-fetch-site: {site}\r\nconnection: close\r\n\r\n"
        )
    };
    for site in ["cross-site", "same-site"] {
        let answer = exchange(balancer.address, &ask(site)).await;
        assert_eq!(answer.status, 403, "{site}");
    }
}

#[tokio::test]
async fn operators_are_told_why_and_what_happened_lately() {
    let (well, ill) = (Stub::named("a").await, Stub::named("b").await);
    let balancer = Running::before(&[&well, &ill]).await;
    ill.set_ready(Act::Answer(404, "", String::new()));
    let down = |fleet: &serde_json::Value| fleet["endpoints"][1]["state"] == "down";
    let fleet = balancer.until(down).await;
    let [well, ill] = [&fleet["endpoints"][0], &fleet["endpoints"][1]];
    assert_eq!(
        (&ill["reason"], &ill["probe"]["fault"]),
        (&"status 404".into(), &"status 404".into())
    );
    assert!(ill["probe"]["seconds_ago"].as_f64().is_some_and(|seconds| seconds < 20.0));
    assert!(well["reason"].is_null() && well["probe"]["fault"].is_null(), "{well}");
    for _ in 0..10 {
        assert_eq!(balancer.post("/predict", "", "x").await.status, 200);
    }
    let busy = |fleet: &serde_json::Value| {
        fleet["endpoints"][0]["requests_per_second"].as_f64().is_some_and(|rate| rate > 0.0)
    };
    let fleet = balancer.until(busy).await;
    assert!(fleet["endpoints"][0]["p99_ms"].as_f64().is_some_and(|time| time > 0.0));
    assert_eq!(
        (&fleet["endpoints"][0]["share"], &fleet["outcomes"]["answered"]),
        (&1.0.into(), &10.into())
    );
    let curves = balancer.ask_admin("GET", "/fleet.json?history=1", "").await;
    let curves = status(&curves.body);
    assert!(
        curves["endpoints"][0]["history"]["rate"].as_array().is_some_and(|all| !all.is_empty())
    );
    balancer.verb("/fleet/worker2/drain").await;
    balancer.until(|fleet| fleet["endpoints"][1]["reason"] == "an operator drained it").await;
}

#[tokio::test]
async fn an_endpoint_of_any_name_is_found_by_a_browsers_way_to_write_it() {
    let stub = Stub::named("a").await;
    let mut settings = settings(&[]);
    settings.worker = vec![format!("[::1]:80/x%={}", stub.address)];
    let balancer = Running::start(settings).await;
    for verb in ["%5B%3A%3A1%5D%3A80%2Fx%25/drain", "[::1]:80/x%25/undrain"] {
        assert_eq!(balancer.verb(&format!("/fleet/{verb}")).await.status, 200, "{verb}");
    }
    let page = balancer.ask_admin("GET", "/fleet", "accept: text/html\r\n").await;
    assert!(
        page.body.contains("action=\"fleet/%5B%3A%3A1%5D%3A80&#x2f;x%25/drain\""),
        "{}",
        page.body
    );
    let back = "accept: text/html\r\n";
    let answer = balancer.ask_admin("POST", "/fleet/policy?name=p2c", back).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/fleet")));
}

#[tokio::test]
async fn a_browser_is_asked_for_the_token_and_sends_it_as_a_password() {
    let stub = Stub::named("a").await;
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"an-operators-token-1\n").expect("written");
    let mut settings = settings(&[stub.address]);
    settings.admin_token_file = Some(file.path().to_owned());
    let balancer = Running::start_unready(&settings);
    let asked = balancer.ask_admin("GET", "/fleet", "accept: text/html\r\n").await;
    assert_eq!(asked.status, 401);
    assert!(
        asked.head.to_ascii_lowercase().contains("www-authenticate: basic realm"),
        "{}",
        asked.head
    );
    let fields = |password: &str| {
        let encoded = BASE64_STANDARD.encode(format!("anybody:{password}"));
        format!("accept: text/html\r\nauthorization: Basic {encoded}\r\n")
    };
    let right = fields("an-operators-token-1");
    assert_eq!(balancer.ask_admin("GET", "/fleet", &right).await.status, 200);
    assert_eq!(balancer.ask_admin("GET", "/fleet", &fields("other")).await.status, 401);
    let page = format!("{right}origin: https://evil.example\r\n");
    assert_eq!(balancer.ask_admin("POST", "/fleet/worker1/drain", &page).await.status, 403);
}
