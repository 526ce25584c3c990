//! A request goes to a worker that serves the model it names, in whatever way; one that cannot be
//! read unambiguously goes to none.

use std::io::Write;

use balancer::config::Settings;
use common::{Act, Running, Stub, exchange_bytes};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::common;

/// A worker with both models and one with the digits only, used in turn.
async fn fleet() -> (Stub, Stub, Running) {
    fleet_with(|_| ()).await
}

async fn fleet_with(change: impl FnOnce(&mut Settings)) -> (Stub, Stub, Running) {
    let (iris, digits) = (Stub::named("iris").await, Stub::named("digits").await);
    iris.set_models(&[("iris_model", "READY"), ("mnist", "READY")]);
    digits.set_models(&[("mnist", "READY")]);
    let mut settings = common::settings(&[iris.address, digits.address]);
    settings.policy = Some(fleet::policy::Kind::RoundRobin);
    change(&mut settings);
    let balancer = Running::start(settings).await;
    balancer
        .until(|fleet| {
            let all = fleet["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
            all.iter()
                .all(|one| one["state"] == "available" && one["models"][0]["name"].is_string())
        })
        .await;
    (iris, digits, balancer)
}

/// Sends a request with these fields and body; returns the status and body of its answer.
async fn ask(balancer: &Running, line: &str, fields: &str, body: &[u8]) -> (u16, String) {
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n{fields}\r\n"
    );
    let answer = exchange_bytes(balancer.address, &[head.as_bytes(), body].concat()).await;
    (answer.status, answer.body)
}

const MULTIPART: &str = "content-type: multipart/form-data; boundary=XX\r\n";

fn form(heads_and_values: &[(&str, &str)]) -> Vec<u8> {
    let parts = heads_and_values.iter().map(|(head, value)| {
        format!("--XX\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
    });
    (parts.collect::<String>() + "--XX--\r\n").into_bytes()
}

fn iris_form() -> Vec<u8> {
    form(&[("name=\"image\"; filename=\"a;b.png\"", "x"), ("name=\"model\"", "iris_model")])
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn zlib(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test]
async fn a_model_is_found_however_it_is_written() {
    let (_iris, _digits, balancer) = fleet().await;
    let urlencoded = "content-type: Application/x-www-form-urlencoded; charset=utf-8\r\n";
    let gzipped = format!("{MULTIPART}content-encoding: gzip\r\n");
    let deflated = format!("{MULTIPART}content-encoding: Deflate\r\n");
    let escaped = "content-type: multipart/form-data; x=\"ü\"; boundary=\"X\\X\"\r\n";
    let long = format!("name=\"x\"\r\nX: {}", "y".repeat(9000));
    let padded = String::from_utf8(iris_form()).expect("text").replace("--XX\r\n", "--XX \r\n");
    for (line, fields, body) in [
        ("POST /v1/models/iris%5Fmodel:predict", "", b"{}".to_vec()),
        ("POST /V1/MODELS/iris%5fmodel/versions/01:PREDICT", "", b"{}".to_vec()),
        ("POST /v2/models/iris%5Fmodel/infer", "", b"{}".to_vec()),
        ("POST /v2/models/iris%5Fmodel/versions/1/infer", "", b"{}".to_vec()),
        ("POST /predict?model=iris%5Fmodel", "", b"x".to_vec()),
        ("POST /submit?mod%65l=iris_model&version=1", "", b"x".to_vec()),
        ("POST /submit", MULTIPART, iris_form()),
        ("POST /submit", &*gzipped, gzip(&iris_form())),
        ("POST /home", &*deflated, zlib(&iris_form())),
        ("POST /submit", escaped, iris_form()),
        ("POST /submit", MULTIPART, padded.into_bytes()),
        ("POST /submit", MULTIPART, form(&[(&*long, ""), ("name=model", "iris_model")])),
        ("POST /submit?model=iris_model", MULTIPART, form(&[("name=model", "mnist")])),
        (
            "POST /submit",
            urlencoded,
            b"IMAGE_URL=http%3A%2F%2Fa%2Fb.png&model=iris%5Fmodel".to_vec(),
        ),
    ] {
        for _ in 0..4 {
            let answer = ask(&balancer, line, fields, &body).await;
            assert_eq!(answer, (200, "iris".to_owned()), "{line} {fields}");
        }
    }
}

#[tokio::test]
async fn requests_without_a_model_are_for_the_one_that_the_operator_has_fixed() {
    let (iris, digits, balancer) =
        fleet_with(|settings| settings.default_model = Some("iris_model".to_owned())).await;
    let image = ("name=\"image\"", "x");
    for (line, body, sent_to) in [
        ("POST /submit", form(&[image]), "/predict?model=iris_model"),
        ("POST /submit", form(&[image, ("name=model", "")]), "/predict?model=iris_model"),
        ("POST /home?top_k=3", form(&[image]), "/predict?top_k=3&model=iris_model"),
        ("POST /predict?model=", form(&[image]), "/predict?model=&model=iris_model"),
        ("POST /submit?version=1", form(&[image]), "/predict?version=1&model=iris_model"),
    ] {
        for _ in 0..2 {
            let answer = ask(&balancer, line, MULTIPART, &body).await;
            assert_eq!(answer, (200, "iris".to_owned()), "{line}");
        }
        let seen = iris.seen();
        let last = seen.last().expect("it was asked").line().to_owned();
        assert_eq!(last, format!("POST {sent_to} HTTP/1.1"), "{line}");
    }
    assert!(digits.seen().is_empty(), "it does not have that model");
    for line in ["POST /submit?model=mnist", "POST /mnist", "POST /v1/models/mnist:predict"] {
        for _ in 0..2 {
            assert_eq!(ask(&balancer, line, MULTIPART, &form(&[image])).await.0, 200, "{line}");
        }
    }
    assert!(digits.seen().iter().all(|seen| !seen.line().contains("iris")), "others are as named");
    let told = balancer.get("/status.json").await.body;
    assert!(told.contains("\"default_model\":\"iris_model\""), "{told}");
}

#[tokio::test]
async fn a_packed_form_reaches_the_worker_as_it_came() {
    let (iris, _digits, balancer) = fleet().await;
    let packed = gzip(&iris_form());
    let fields = format!("{MULTIPART}content-encoding: gzip\r\n");
    assert_eq!(ask(&balancer, "POST /submit", &fields, &packed).await.0, 200);
    let seen = iris.seen();
    assert_eq!(seen[0].body, packed);
    assert_eq!(seen[0].header("content-encoding"), Some("gzip"));
}

#[tokio::test]
async fn the_number_of_servers_is_found_in_every_kind_of_form() {
    let (_iris, digits, balancer) = fleet().await;
    let image = ("name=\"image\"", "x");
    let body = |count| form(&[image, ("name=\"number_backend_servers\"", count)]);
    let gzipped = format!("{MULTIPART}content-encoding: gzip\r\n");
    let urlencoded = "content-type: application/x-www-form-urlencoded\r\n";
    for (line, fields, body, status) in [
        ("POST /submit", MULTIPART, body("1"), 200),
        ("POST /submit", &*gzipped, gzip(&body("1")), 200),
        ("POST /mnist", MULTIPART, body("1"), 200),
        ("POST /predict?number_backend_servers=1", "", b"x".to_vec(), 200),
        ("POST /submit", urlencoded, b"IMAGE_URL=http://a/&number_backend_servers=1".to_vec(), 200),
        ("POST /submit", MULTIPART, body("0"), 400),
        ("POST /submit", &*gzipped, gzip(&body("0")), 400),
        ("POST /submit", &*gzipped, gzip(&body("3")), 400),
        ("POST /submit", urlencoded, b"IMAGE_URL=http://a/&number_backend_servers=0".to_vec(), 400),
    ] {
        for _ in 0..3 {
            let answer = ask(&balancer, line, fields, &body).await;
            assert_eq!(answer.0, status, "{line} {fields} {answer:?}");
        }
    }
    assert!(digits.seen().is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_goes_to_no_worker() {
    let (iris, digits, balancer) = fleet().await;
    let mixed = "content-type: multipart/mixed; boundary=XX\r\n";
    let twice = format!("{MULTIPART}content-type: image/png\r\n");
    let gzipped = format!("{MULTIPART}content-encoding: gzip\r\n");
    let unknown = format!("{MULTIPART}content-encoding: br\r\n");
    let bomb = gzip(&vec![0; 11_000_000]);
    let models = form(&[("name=model", "mnist"), ("name=model", "iris_model")]);
    let cut = iris_form()[..60].to_vec();
    for (line, fields, body, status) in [
        ("POST /submit", mixed, iris_form(), 415),
        ("POST /submit", &*twice, iris_form(), 400),
        ("POST /submit", &*unknown, iris_form(), 415),
        ("POST /submit", &*gzipped, iris_form(), 400),
        ("POST /submit", &*gzipped, bomb, 413),
        ("POST /submit", MULTIPART, models, 400),
        ("POST /submit", MULTIPART, cut, 400),
        ("POST /predict?model=mnist&model=iris_model", "", b"x".to_vec(), 400),
        ("POST /predict?model=%zz", "", b"x".to_vec(), 400),
        ("POST /v1/models/mnist:explain", "", b"{}".to_vec(), 400),
        ("GET /v1/models/nothing:predict", "", Vec::new(), 400),
        ("GET /v1/models", "", Vec::new(), 400),
        ("POST /v2/models/%C3/infer", "", b"{}".to_vec(), 400),
        ("GET /v2/nothing", "", Vec::new(), 404),
    ] {
        let answer = ask(&balancer, line, fields, &body).await;
        assert_eq!(answer.0, status, "{line} {fields} {answer:?}");
        assert!(answer.1.contains("\"error\""), "{answer:?}");
    }
    assert!(iris.seen().is_empty() && digits.seen().is_empty());
}

#[tokio::test]
async fn a_page_is_given_to_who_prefers_it() {
    let prediction = r#"{"label":"7","confidence":1.0,"model":"mnist","version":"1","top_k":[]}"#;
    let stub = Stub::start(|_| Act::ok(prediction)).await;
    let balancer = Running::before(&[&stub]).await;
    for (accept, is_page) in [
        ("text/html", true),
        ("TEXT/HTML", true),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
        ("text/html;q=0", false),
        ("application/json, text/html;q=0.1", false),
        ("application/json;q=1.0, text/html;q=0.5, */*;q=0.1", false),
        ("application/json", false),
        ("*/*", false),
    ] {
        let fields = format!("accept: {accept}\r\ncontent-type: image/png\r\n");
        let (status, body) = ask(&balancer, "POST /submit", &fields, b"PNG").await;
        assert_eq!(
            (status, body.starts_with("<!doctype html>")),
            (200, is_page),
            "{accept}: {body}"
        );
    }
}
