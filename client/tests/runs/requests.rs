//! What users expect of a load generator: their own requests, https, rates in stages,
//! thresholds that determine the exit status, recorded requests, and results that programs and
//! people can read.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::{Seen, Speaks, Stub, error, label};
use http::Response;
use http_body_util::Full;
use serde_json::Value;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::common;

/// The requests that a stub received.
type Asked = Arc<Mutex<Vec<Seen>>>;

/// A stub that answers every request, and the requests that it received.
fn recording(speaks: Speaks, tls: Option<TlsAcceptor>) -> (Stub, Asked) {
    let seen: Asked = Arc::default();
    let recorder = Arc::clone(&seen);
    let stub = Stub::start_with(tls, speaks, move |request| {
        recorder.lock().expect("no test panics here").push(request);
        async { label("cat", "w1") }
    });
    (stub, seen)
}

/// `client load` against `target`, as a user starts it.
fn load(target: &str, out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.args(["load", "--json", "--warm-up", "0s", "--threads", "1", "--target", target]);
    command.arg("--out").arg(out).args(arguments);
    command
}

/// Output of a run that the machine kept up with, which can take several tries on a busy one.
fn output(stub: &Stub, arguments: &[&str]) -> Output {
    const TRIES: usize = 20;
    let parent = tempfile::tempdir().expect("a folder");
    let run = |number: usize| {
        let out = parent.path().join(number.to_string());
        load(&stub.url(), &out, arguments).output().expect("it starts")
    };
    let is_busy = |output: &Output| {
        String::from_utf8_lossy(&output.stdout).contains("\"cause\": \"generator\"")
    };
    (1..TRIES).map(run).find(|output| !is_busy(output)).unwrap_or_else(|| run(TRIES))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn summary(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("a summary")
}

/// One user who sends requests for a moment.
const SHORT: [&str; 8] =
    ["--arrivals", "closed", "--users", "1", "--duration", "600ms", "--quantile", "0.5"];

#[test]
fn a_request_has_the_method_the_headers_and_the_body_of_the_user() {
    for (speaks, http) in [(Speaks::Http1, "http1"), (Speaks::H2, "h2")] {
        let (stub, seen) = recording(speaks, None);
        let fields =
            ["-H", "X-Model: a, b", "-H", "Accept: text/plain", "-H", "Host: name.example"];
        let body = ["-X", "put", "-d", "{\"a\": 1}", "--route", "/v2/x?y=1", "--http", http];
        let output = output(&stub, &[&SHORT[..], &fields, &body].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let seen = seen.lock().unwrap();
        assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("PUT", "/v2/x?y=1"));
        assert_eq!(seen[0].body, "{\"a\": 1}");
        assert_eq!(seen[0].headers["x-model"], "a, b");
        let accepted: Vec<_> = seen[0].headers.get_all("accept").iter().collect();
        assert_eq!(accepted, ["text/plain"]);
        let host = seen[0].headers.get("host").map(|host| host.to_str().unwrap());
        assert_eq!(host, (http == "http1").then_some("name.example"));
    }
}

#[test]
fn a_body_comes_from_standard_input_as_well() {
    use std::io::Write;
    let (stub, seen) = recording(Speaks::Http1, None);
    let parent = tempfile::tempdir().unwrap();
    let target = format!("{}/below", stub.url());
    let mut command =
        load(&target, &parent.path().join("run"), &[&SHORT[..], &["-d", "@-"]].concat());
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\x00\xff raw").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let seen = seen.lock().unwrap();
    assert_eq!((seen[0].path.as_str(), &seen[0].body[..]), ("/below", &b"\x00\xff raw"[..]));
}

#[test]
fn expected_statuses_are_successes_and_others_are_not() {
    let stub = Stub::start(Speaks::Http1, |request| async move {
        if request.path == "/gone" { error(404) } else { label("cat", "w1") }
    });
    let expect = ["--expect-status", "404,3xx", "--get"];
    let gone = output(&stub, &[&SHORT[..], &expect, &["/gone"]].concat());
    assert_eq!(gone.status.code(), Some(0), "{}", stderr(&gone));
    let outcomes = &summary(&gone)["outcomes"];
    assert_eq!(outcomes["404 expected"], summary(&gone)["requests"], "{outcomes}");
    let there = output(&stub, &[&SHORT[..], &expect, &["/there"]].concat());
    assert_eq!(there.status.code(), Some(4), "no request succeeded");
    assert_eq!(summary(&there)["outcomes"]["200 unexpected"], summary(&there)["requests"]);
}

#[test]
fn redirects_are_answers_and_are_not_followed() {
    let stub = Stub::start(Speaks::Http1, |request| async move {
        assert_eq!(request.path, "/from");
        Response::builder().status(302).header("location", "/to").body(Full::default()).unwrap()
    });
    let flags = ["--get", "/from", "--expect-status", "302"];
    let output = output(&stub, &[&SHORT[..], &flags].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// A self-signed certificate for `localhost` in a file, and an acceptor that presents it.
fn certificate(folder: &Path, protocol: &[u8]) -> (String, TlsAcceptor) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let file = folder.join("ca.pem");
    std::fs::write(&file, pair.cert.pem()).expect("made");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("made")
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .expect("made");
    config.alpn_protocols = vec![protocol.to_vec()];
    (file.to_str().expect("made").to_owned(), TlsAcceptor::from(Arc::new(config)))
}

#[test]
fn https_is_measured_in_both_versions_of_http_where_the_certificate_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    for (speaks, http, name) in
        [(Speaks::Http1, "http1", &b"http/1.1"[..]), (Speaks::H2, "h2", &b"h2"[..])]
    {
        let (ca, tls) = certificate(folder.path(), name);
        let (stub, seen) = recording(speaks, Some(tls));
        let flags = [&SHORT[..], &["--get", "/", "--http", http]].concat();
        for trust in [&["--cacert", &ca][..], &["--insecure"]] {
            let output = output(&stub, &[&flags[..], trust].concat());
            assert_eq!(output.status.code(), Some(0), "{http} {trust:?}: {}", stderr(&output));
            assert_eq!(summary(&output)["outcomes"]["200"], summary(&output)["requests"]);
        }
        assert!(!seen.lock().unwrap().is_empty());
        let refused = output(&stub, &flags);
        assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("--cacert"), "{}", stderr(&refused));
    }
}

#[test]
fn what_speaks_no_tls_or_no_http2_is_named_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let plain = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let target = plain.url().replace("http://", "https://");
    let run = |target: &str, flags: &[&str]| {
        load(target, &folder.path().join("run"), flags).output().expect("it starts")
    };
    let output = run(&target, &["--insecure"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("TLS"), "{}", stderr(&output));
    let (_, tls) = certificate(folder.path(), b"http/1.1");
    let (old, _) = recording(Speaks::Http1, Some(tls));
    let output = run(&old.url(), &["--insecure", "--http", "h2"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(!folder.path().join("run").exists());
}

#[test]
fn stages_end_by_themselves_and_are_asked_for_on_average() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let flags = ["--stages", "500ms:0..200,500ms:200", "--arrivals", "uniform"];
    let output = output(&stub, &[&flags[..], &["--quantile", "0.5"]].concat());
    let summary = summary(&output);
    assert_eq!(
        (&summary["asked_rate"], &summary["measured_seconds"]),
        (&150.0.into(), &1.0.into())
    );
    assert!(summary["requests"].as_u64().unwrap().abs_diff(150) <= 1, "{summary}");
    let timeline = summary["timeline"].as_array().unwrap();
    let due = |part: usize| timeline[part]["offered_rate"].as_f64().unwrap();
    assert!(timeline.len() == 10 && due(0) <= 30.0 && due(9) >= 190.0, "{timeline:?}");
}

#[test]
fn a_threshold_that_is_crossed_is_exit_status_1_and_an_invalid_run_is_3() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let status = |flags: &[&str]| {
        let output = output(&stub, &[&SHORT[..], flags].concat());
        (output.status.code().expect("it ends by itself"), summary(&output))
    };
    let (code, summary) = status(&["--fail", "mean>0ms,errors>1%", "--fail", "accuracy<1"]);
    // Accuracy is unknown: no answer was checked.
    assert_eq!(code, 3, "{summary}");
    let became = |summary: &Value| {
        let checked = summary["thresholds"].as_array().unwrap().clone();
        checked.iter().map(|it| it["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(became(&summary), ["crossed", "held", "unknown"]);
    let (code, summary) = status(&["--fail", "mean>0ms", "--fail", "errors>1%"]);
    assert_eq!((code, became(&summary)), (1, vec!["crossed".to_owned(), "held".to_owned()]));
    let (code, summary) = status(&["--fail", "mean>1h"]);
    assert_eq!((code, became(&summary)), (0, vec!["held".to_owned()]));
    let short = ["--arrivals", "closed", "--users", "1", "--duration", "300ms"];
    let claims = ["--quantile", "0.9999999", "--fail", "mean>0ms"];
    let output = output(&stub, &[&short[..], &claims].concat());
    assert_eq!(output.status.code(), Some(3), "a run that is too short for its claim is not valid");
}

#[test]
fn a_service_that_falls_short_is_told_apart_from_none() {
    let stub = Stub::start(Speaks::Http1, |request| async move {
        if request.path == "/fail" { error(503) } else { label("cat", "w1") }
    });
    let fail = output(&stub, &[&SHORT[..], &["--get", "/fail"]].concat());
    assert_eq!(fail.status.code(), Some(4), "{}", stderr(&fail));
    let flaky = Stub::start(Speaks::Http1, {
        let seen = Mutex::new(0);
        move |_| {
            let mut seen = seen.lock().unwrap();
            *seen += 1;
            let fails = *seen % 4 == 0;
            async move { if fails { error(503) } else { label("cat", "w1") } }
        }
    });
    let flags = [&SHORT[..], &["--get", "/"]].concat();
    assert_eq!(output(&flaky, &flags).status.code(), Some(3));
    let bound = output(&flaky, &[&flags[..], &["--fail", "errors>20%"]].concat());
    assert_eq!(bound.status.code(), Some(1), "{}", stderr(&bound));
}

#[test]
fn recorded_requests_are_sent_again_in_their_order_and_at_their_pace() {
    let (stub, seen) = recording(Speaks::Http1, None);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recorded.har");
    let entry = |millis: u32, method: &str, path: &str, text: &str| {
        serde_json::json!({
            "startedDateTime": format!("2026-01-31T12:00:00.{millis:03}Z"),
            "request": {
                "method": method,
                "url": format!("https://elsewhere.example{path}"),
                "headers": [{ "name": "x-number", "value": millis.to_string() }],
                "postData": { "mimeType": "text/plain", "text": text },
            },
        })
    };
    let entries = [
        entry(0, "GET", "/", ""),
        entry(400, "PUT", "/c?d=e", "two"),
        entry(100, "POST", "/b", "one"),
    ];
    let archive = serde_json::json!({ "log": { "version": "1.2", "entries": entries } });
    std::fs::write(&file, archive.to_string()).unwrap();
    let flags = ["--targets", file.to_str().unwrap(), "--quantile", "0.01"];
    let summary = summary(&load(&stub.url(), &folder.path().join("run"), &flags).output().unwrap());
    assert_eq!(summary["outcomes"]["200"], 3, "{summary}");
    assert!(summary["measured_seconds"].as_f64().unwrap() >= 0.4, "{summary}");
    let seen = seen.lock().unwrap();
    let paths: Vec<&str> = seen.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["/", "/b", "/c?d=e"]);
    assert_eq!((seen[1].method.as_str(), &seen[1].body[..]), ("POST", &b"one"[..]));
    assert_eq!(seen[2].headers["x-number"], "400");
    assert_eq!(seen[2].headers["host"], stub.address.to_string());
}

#[test]
fn the_loads_of_the_five_projects_have_names_and_their_answers_are_checked() {
    let stub = Stub::start(Speaks::Http1, |request| async move {
        let kind = request.headers["content-type"].to_str().unwrap().to_owned();
        let text = match (request.path.as_str(), kind.split(';').next().unwrap_or_default()) {
            ("/submit", "multipart/form-data") => "\"cat\"\n",
            ("/mnist", "image/png") => "{\"message\": \"Image received. Size=28x28. label=7\"}",
            ("/post", "multipart/form-data") => "<p>The result of digit detection: [7]</p>",
            ("/v1/models/iris_model:predict", "application/json") => {
                r#"{"predictions": [{"predicted_species": ["setosa"]}]}"#
            }
            ("/home", "application/x-www-form-urlencoded") => {
                assert!(request.body.starts_with(b"IMAGE_URL=http%3A%2F%2F"));
                "<p>cat</p>"
            }
            other => panic!("{other:?}"),
        };
        Response::new(Full::from(Bytes::from(text)))
    });
    let checked = |name: &str| {
        let address = ["--image-url", "http://host.example/cat.jpg"];
        let output = output(&stub, &[&SHORT[..], &["--workload", name], &address].concat());
        assert_eq!(output.status.code(), Some(0), "{name}: {}", stderr(&output));
        summary(&output)["accuracy"]["share"].as_f64()
    };
    assert_eq!([checked("seed-geni"), checked("seed-web")], [None, None]);
    assert_eq!([checked("seed-mnist"), checked("seed-digit")], [Some(1.0), Some(1.0)]);
    assert!(checked("seed-iris").unwrap() > 0.0);
}

#[test]
fn a_run_leaves_a_page_that_needs_nothing_else() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "<w1>") });
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let secret = ["-H", "Authorization: Bearer hidden"];
    let flags = [&SHORT[..], &["--fail", "mean>1h"], &secret].concat();
    let output = load(&stub.url(), &out, &flags).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // No progress bar without a terminal.
    let said = stderr(&output);
    assert!(!said.contains(['\r', '\u{1b}']) && !said.contains("eta"), "{said}");
    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    for part in ["VALID:", "Latency over the run", "Workers", "a closed loop", "mean&gt;1h: held"] {
        assert!(html.contains(part), "{part}");
    }
    for part in ["<script", "<link", "src=", "hidden", "<w1>"] {
        assert!(!html.contains(part), "{part}");
    }
    for name in ["manifest.json", "summary.json"] {
        assert!(!std::fs::read_to_string(out.join(name)).unwrap().contains("hidden"), "{name}");
    }
}

/// Validates the subset of JSON Schema that the schema of the summary uses.
fn conforms(value: &Value, schema: &Value, root: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/$defs/").expect("a definition of this file");
        return conforms(value, &root["$defs"][name], root, at);
    }
    if let Some(constant) = schema.get("const") {
        return assert_eq!(value, constant, "{at}");
    }
    if let Some(values) = schema["enum"].as_array() {
        return assert!(values.contains(value), "{at}: {value}");
    }
    let kinds = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    let is_of = |kind: &Value| match kind.as_str().unwrap_or_default() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    };
    assert!(kinds.iter().any(is_of), "{at}: {value} is none of {kinds:?}");
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        conforms(item, &schema["items"], root, &format!("{at}[{number}]"));
    }
    let Some(object) = value.as_object() else { return };
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(object.contains_key(required), "{at} lacks {required}");
    }
    for (name, member) in object {
        let of_name = schema["properties"].get(name).or(schema.get("additionalProperties"));
        assert!(of_name.is_some_and(Value::is_object), "{at}.{name} is in no schema");
        if let Some(schema) = of_name {
            conforms(member, schema, root, &format!("{at}.{name}"));
        }
    }
}

#[test]
fn a_summary_is_what_its_schema_says() {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/load-summary.schema.json");
    let schema: Value = serde_json::from_slice(&std::fs::read(schema).unwrap()).unwrap();
    let flaky = Stub::start(Speaks::Http1, {
        let seen = Mutex::new(0);
        move |_| {
            let mut seen = seen.lock().unwrap();
            *seen += 1;
            let fails = *seen % 4 == 0;
            async move { if fails { error(503) } else { label("cat", "w1") } }
        }
    });
    let workload =
        ["--route", "/submit", "--fail", "p99.9>1s", "--rate", "200", "--duration", "1s"];
    for flags in [&workload[..], &SHORT] {
        let summary = summary(&output(&flaky, flags));
        conforms(&summary, &schema, &schema, "summary");
    }
}
