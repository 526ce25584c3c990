//! Requests to workers and their answers, over real sockets.

use std::sync::Arc;

use balancer::config::Network;
use common::{Act, Gate, Running, Stub, exchange, form};

use crate::common;

#[tokio::test]
async fn submit_goes_to_predict_unchanged_and_the_label_comes_back() {
    let stub = Stub::start(|_| Act::ok("\"Egyptian cat\"\n")).await;
    let balancer = Running::before(&[&stub]).await;
    let (kind, body) = form(&[("image", "not really an image")]);
    let answer = balancer.post("/submit?top_k=3", kind, &body).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "\"Egyptian cat\"\n"));
    let seen = &stub.seen()[0];
    assert_eq!(seen.line(), "POST /predict?top_k=3 HTTP/1.1");
    assert_eq!(seen.body, body.as_bytes());
    assert_eq!(seen.header("x-imagefleet-endpoint"), Some("worker1"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("via"), Some("1.1 imagefleet"));
    assert_eq!(seen.header("host"), Some("a"));
    assert_eq!(seen.header("connection"), None);
    assert!(seen.header("x-imagefleet-timeout-ms").is_some());
    assert_eq!(seen.header("x-request-id"), answer.header("x-request-id"));
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_by_named_clients_only() {
    let stub = Stub::named("a").await;
    let orders = |stub: &Stub| stub.seen().iter().filter(|s| s.line().contains("unload")).count();
    let balancer = Running::before(&[&stub]).await;
    assert_eq!(balancer.order("unload", "").await.status, 200);
    let forwarded = balancer.order("unload", "x-forwarded-for: 127.0.0.1\r\n").await;
    assert_eq!(forwarded.status, 403);
    assert!(forwarded.error().contains("proxy"), "{}", forwarded.body);
    let mut settings = common::settings(&[stub.address]);
    settings.model_control_from = vec!["192.0.2.0/24".parse::<Network>().expect("a network")];
    let balancer = Running::start(settings).await;
    let elsewhere = balancer.order("unload", "").await;
    assert_eq!(elsewhere.status, 403);
    assert!(elsewhere.error().contains("--model-control-from"), "{}", elsewhere.body);
    assert_eq!(orders(&stub), 1);
}

#[tokio::test]
async fn an_endpoint_that_breaks_keeps_an_order_from_no_other() {
    let closes = |seen: &common::Seen| seen.line().contains("/load ");
    let broken = Stub::start(move |seen| if closes(seen) { Act::Close } else { Act::ok("[]") });
    let (broken, sound) = (broken.await, Stub::named("b").await);
    let balancer = Running::before(&[&broken, &sound]).await;
    assert_eq!(balancer.order("load", "").await.status, 502);
    assert_eq!(sound.seen().iter().filter(|seen| seen.line().contains("/load ")).count(), 1);
}

#[tokio::test]
async fn an_order_goes_to_all_endpoints_at_once_and_slowness_counts_against_none() {
    let told = Gate::closed();
    let slow = |told: &Gate| {
        let act = Act::After(told.clone(), Box::new(Act::ok("{}")));
        move |seen: &common::Seen| {
            if seen.line().contains("/load ") { act.clone() } else { Act::ok("[]") }
        }
    };
    let stubs = [Stub::start(slow(&told)).await, Stub::start(slow(&told)).await];
    let never =
        Stub::start(|seen| if seen.line().contains("/load ") { Act::Hang } else { Act::ok("[]") });
    let never = never.await;
    let mut hasty = common::settings(&[stubs[0].address, stubs[1].address, never.address]);
    hasty.request_timeout = Some(std::time::Duration::from_secs(1));
    let balancer = Arc::new(Running::start(hasty).await);
    balancer
        .until(|fleet| {
            fleet["endpoints"]
                .as_array()
                .is_some_and(|all| all.iter().all(|one| one["state"] == "available"))
        })
        .await;
    let ordering = Arc::clone(&balancer);
    let order = tokio::spawn(async move { ordering.order("load", "").await.status });
    for stub in &stubs {
        while !stub.seen().iter().any(|seen| seen.line().contains("/load ")) {
            tokio::task::yield_now().await;
        }
    }
    told.open();
    assert_eq!(order.await.expect("no panic"), 504, "one of three never answered");
    for endpoint in balancer.fleet().await["endpoints"].as_array().expect("a list") {
        assert_eq!((&endpoint["state"], &endpoint["failed"]), (&"available".into(), &0.into()));
    }
}

#[tokio::test]
async fn a_load_reaches_workers_that_are_not_ready_because_their_last_model_was_unloaded() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    assert_eq!(balancer.order("unload", "").await.status, 200);
    stub.set_ready(Act::Answer(503, "", "{}".to_owned()));
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "down").await;
    assert_eq!(balancer.order("load", "").await.status, 200);
    assert_eq!(stub.seen().iter().filter(|seen| seen.line().contains("/load ")).count(), 1);
    stub.set_ready(Act::ok("{}"));
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "available").await;
    drop(stub);
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "down").await;
    assert_eq!(balancer.order("load", "").await.status, 503, "nothing is there");
}

#[tokio::test]
async fn an_unload_reaches_workers_that_take_no_requests_and_a_dead_one_does_not_fail_it() {
    let (a, drained, dead) =
        (Stub::named("a").await, Stub::named("drained").await, Stub::named("dead").await);
    let balancer = Running::before(&[&a, &drained, &dead]).await;
    balancer.verb("/fleet/worker2/drain").await;
    drop(dead);
    balancer.until(|fleet| fleet["endpoints"][2]["state"] == "down").await;
    assert_eq!(balancer.order("unload", "").await.status, 200);
    for stub in [a, drained] {
        assert_eq!(stub.seen().iter().filter(|seen| seen.line().contains("/unload ")).count(), 1);
    }
}

#[tokio::test]
async fn requests_are_spread_evenly_at_random() {
    let stubs = [
        Stub::named("a").await,
        Stub::named("b").await,
        Stub::named("c").await,
        Stub::named("d").await,
    ];
    let balancer = Running::before(&stubs.each_ref()).await;
    let mut request = String::new();
    for _ in 0..399 {
        request += "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    }
    request +=
        "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx";
    exchange(balancer.address, &request).await;
    for stub in &stubs {
        // Four standard deviations around 100 of 400.
        let share = stub.seen().len();
        assert!((65..=135).contains(&share), "{share}");
        assert_eq!(stub.connections(), 1, "connections are used again");
    }
}

#[tokio::test]
async fn number_backend_servers_limits_the_choice_to_the_first_ones() {
    let stubs = [Stub::named("a").await, Stub::named("b").await, Stub::named("c").await];
    let balancer = Running::before(&stubs.each_ref()).await;
    for _ in 0..20 {
        let (kind, body) = form(&[("number_backend_servers", "2"), ("image", "x")]);
        assert_eq!(balancer.post("/submit", kind, &body).await.status, 200);
    }
    assert!(stubs[2].seen().is_empty());
    assert_eq!(stubs[0].seen().len() + stubs[1].seen().len(), 20);
    for wrong in ["0", "4", "NaN", "-1", ""] {
        let (kind, body) = form(&[("image", "x"), ("number_backend_servers", wrong)]);
        let answer = balancer.post("/submit", kind, &body).await;
        assert_eq!(answer.status, 400, "{wrong}");
        // Invalid numbers are rejected before the number of workers is known.
        let range = if wrong == "4" { "from 1 to 3" } else { "from 1 to the number of workers" };
        assert!(answer.error().contains(range), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_browser_gets_a_page_and_a_program_json() {
    let stub = Stub::start(|seen| match seen.header("accept") {
        Some("application/json") => Act::ok(
            r#"{"label":"tabby <cat>","index":281,"confidence":0.5,"top_k":[],"model":"m","version":"1",
               "endpoint":"worker1","timings_ms":{"decode":1,"preprocess":1,"queue":1,"compute":1,"total":4}}"#,
        ),
        _ => Act::ok("\"tabby\"\n"),
    })
    .await;
    stub.set_models(&[("mnist", "READY")]);
    let balancer = Running::before(&[&stub]).await;
    let (kind, body) = form(&[("image", "x")]);
    let browser = format!("{kind}accept: text/html,*/*;q=0.8\r\n");
    let page = balancer.post("/submit", &browser, &body).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.body.contains("tabby &lt;cat&gt;"), "{}", page.body);
    let digit = balancer.post("/post", kind, &body).await;
    assert!(digit.body.contains("The result of handwritten digit detection: ["), "{}", digit.body);
    let program = balancer.post("/submit", kind, &body).await;
    assert_eq!(program.body, "\"tabby\"\n");
}

#[tokio::test]
async fn the_balancer_answers_pages_health_and_errors_itself() {
    let stub = Stub::named("a").await;
    stub.set_models(&[("mnist", "READY")]);
    let balancer = Running::before(&[&stub]).await;
    for path in ["/", "/home"] {
        let page = balancer.get(path).await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains("multipart/form-data"), "{}", page.body);
        assert!(page.header("content-security-policy").is_some());
    }
    for path in ["/style.css?v=1", "/app.js", "/favicon.svg", "/v2/health/live", "/v2/health/ready"]
    {
        assert_eq!(balancer.get(path).await.status, 200, "{path}");
    }
    assert_eq!(balancer.get("/post").await.header("location"), Some("/"));
    let wrong_method = balancer.get("/submit").await;
    assert_eq!((wrong_method.status, wrong_method.header("allow")), (405, Some("POST")));
    let unknown = balancer.get("/nothing").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.error().contains("/nothing"), "{}", unknown.body);
    let browser =
        "GET /nothing HTTP/1.1\r\nhost: a\r\naccept: text/html\r\nconnection: close\r\n\r\n";
    let page = exchange(balancer.address, browser).await;
    assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")));
    assert!(stub.seen().is_empty(), "nothing of this is a worker's business");
}

#[tokio::test]
async fn protocol_paths_and_errors_of_the_worker_pass_through() {
    let stub = Stub::start(|_| {
        Act::Answer(422, "x-kept: 1\r\nkeep-alive: x\r\n", "{\"error\":\"no\"}".to_owned())
    })
    .await;
    stub.set_models(&[("mnist", "READY"), ("iris", "READY")]);
    let balancer = Running::before(&[&stub]).await;
    for path in ["/v1/models/iris:predict", "/v2/models/iris/infer", "/mnist", "/predict"] {
        let answer = balancer.post(path, "", "{}").await;
        assert_eq!((answer.status, answer.error().as_str()), (422, "no"), "{path}");
        assert_eq!(answer.header("x-kept"), Some("1"));
        assert_eq!(answer.header("keep-alive"), None);
    }
}

#[tokio::test]
async fn a_long_and_a_chunked_answer_are_streamed_whole() {
    let long = "0123456789".repeat(200_000);
    let text = long.clone();
    let stub = Stub::start(move |seen| {
        if seen.line().contains("chunked") {
            let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
            Act::Raw(chunks.as_bytes().to_vec())
        } else {
            Act::ok(&text)
        }
    })
    .await;
    let balancer = Running::before(&[&stub]).await;
    let answer = balancer.post("/predict", "", "x").await;
    assert!(answer.body == long, "{} bytes", answer.body.len());
    assert_eq!(balancer.post("/predict?chunked", "", "x").await.body, "abcde");
}

#[tokio::test]
async fn a_request_goes_only_to_a_worker_with_its_model() {
    let (digits, photos) = (Stub::named("digits").await, Stub::named("photos").await);
    digits.set_models(&[("mnist", "READY"), ("iris_model", "LOADING")]);
    photos.set_models(&[("mobilenet_v2", "READY")]);
    let balancer = Running::before(&[&digits, &photos]).await;
    for _ in 0..10 {
        assert_eq!(balancer.post("/submit", "", "x").await.body, "photos");
        assert_eq!(balancer.post("/mnist", "", "x").await.body, "digits");
        assert_eq!(balancer.post("/submit?model=mnist", "", "x").await.body, "digits");
        assert_eq!(balancer.post("/v2/models/mobilenet_v2/infer", "", "x").await.body, "photos");
        let (kind, body) = form(&[("image", "x"), ("model", "mnist")]);
        assert_eq!(balancer.post("/submit", kind, &body).await.body, "digits");
    }
    let unknown = balancer.post("/v1/models/half:predict", "", "x").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.error().contains("half"), "{}", unknown.body);
    let loading = balancer.post("/v1/models/iris_model:predict", "", "x").await;
    assert_eq!((loading.status, loading.header("retry-after")), (503, Some("1")));
}

#[tokio::test]
async fn the_page_knows_which_models_are_there() {
    let stub = Stub::named("a").await;
    stub.set_models(&[("mnist", "READY")]);
    let balancer = Running::before(&[&stub]).await;
    let hidden = r#"id="notice-digits" hidden"#;
    let page = balancer.get("/").await.body;
    let command = "run <code>worker pull mobilenet_v2</code> where";
    assert!(page.contains(command) && !page.contains(hidden), "{page}");
    stub.set_models(&[("mnist", "READY"), ("mobilenet_v2", "READY")]);
    balancer
        .until(|fleet| fleet["models"].as_array().is_some_and(|models| models.len() == 2))
        .await;
    assert!(balancer.get("/").await.body.contains(hidden));
}

#[tokio::test]
async fn request_ids_and_traces_are_passed_on() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers =
        format!("x-request-id: my-id\r\ntraceparent: {trace}\r\nx-imagefleet-endpoint: evil\r\n");
    let answer = balancer.post("/predict", &headers, "x").await;
    assert_eq!(answer.header("x-request-id"), Some("my-id"));
    let seen = &stub.seen()[0];
    assert_eq!(seen.header("x-request-id"), Some("my-id"));
    assert_eq!(seen.header("x-imagefleet-endpoint"), Some("worker1"));
    let child = seen.header("traceparent").expect("a trace");
    assert!(child.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && child != trace, "{child}");
    balancer.post("/predict", "x-request-id: not valid!\r\n", "x").await;
    assert_eq!(stub.seen()[1].header("x-request-id").map(str::len), Some(32));
}

#[tokio::test]
async fn every_histogram_ends_with_a_bucket_without_a_bound() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    balancer.post("/predict", "", "x").await;
    let metrics = balancer.metrics().await;
    let counts: Vec<&str> = metrics.lines().filter(|line| line.contains("_count{")).collect();
    assert!(!counts.is_empty(), "{metrics}");
    for count in counts {
        let (name, rest) = count.split_once("_count{").expect("it has labels");
        let last = format!("{name}_bucket{{le=\"+Inf\",{rest}");
        assert!(metrics.contains(&last), "{last} is missing: {metrics}");
    }
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    balancer.post("/predict", "", "x").await;
    balancer.get("/nothing").await;
    let metrics = balancer.metrics().await;
    for line in [
        "balancer_requests_total{outcome=\"answered\"} 1",
        "balancer_requests_total{outcome=\"refused\"} 1",
        "balancer_attempts_total{endpoint=\"worker1\",outcome=\"succeeded\"} 1",
        "balancer_endpoint_available{endpoint=\"worker1\"} 1",
        "balancer_attempt_duration_seconds_count{endpoint=\"worker1\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}
