//! Balancer and worker read the same from a request (model, version, number of endpoints), or both
//! refuse it.
//!
//! The requests are generated from seeds: well-formed in every way that clients write them (where
//! the expected result is known), damaged, or assembled from pieces that parsers stumble over. Most
//! are read by the entry points of both programs, some by a running worker.

use std::io::Write;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use balancer::forward::Asked;
use balancer::route::{Naming, Route, route};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use message::{Coding, ContentType, Model, Submission, Version, coding};
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use worker::api::form;

use crate::common::{Seven, Worker, png, served};

/// The largest body, compressed or not.
const LIMIT: usize = 1 << 20;

/// One request.
#[derive(Debug, Clone)]
struct Case {
    path: &'static str,
    query: Option<String>,
    fields: HeaderMap,
    body: Vec<u8>,
}

/// Model and number of endpoints that a request asks for; `None` if it is refused.
type Verdict = Option<(Model<'static>, Option<usize>)>;

impl Case {
    /// What the balancer reads.
    fn in_balancer(&self) -> Verdict {
        let Ok(Route::Forward(forward)) = route(&Method::POST, self.path) else {
            unreachable!("{} is forwarded", self.path)
        };
        let kind = ContentType::of(&self.fields).ok()?;
        let plain = match kind.packed(&self.fields).ok()? {
            Some(coding) if !self.body.is_empty() => {
                coding::unpack(coding, &self.body, LIMIT).ok()?
            }
            Some(_) | None => self.body.clone(),
        };
        let asked = Asked::read(&forward, self.query.as_deref(), &kind, &plain).ok()?;
        Some((asked.model?.into_owned(), asked.servers.map(usize::from)))
    }

    /// The query that reaches the worker.
    fn query_at_worker(&self) -> Option<&str> {
        if self.path == "/post" { Some("model=mnist") } else { self.query.as_deref() }
    }

    /// What the worker reads. A picture that is missing or unreadable does not matter here: the
    /// request still asks for a model.
    fn in_worker(&self) -> Verdict {
        let plain = match Coding::of(&self.fields).ok()? {
            Some(coding) if !self.body.is_empty() => {
                coding::unpack(coding, &self.body, LIMIT).ok()?
            }
            Some(_) | None => self.body.clone(),
        };
        let is_digit = self.path == "/mnist";
        let query = if is_digit { None } else { self.query_at_worker() };
        let body = Bytes::from(plain);
        let read = Submission::read(query, &ContentType::of(&self.fields).ok()?, &body).ok()?;
        if let Ok(upload) = form::read(query, &self.fields, &body) {
            assert_eq!(upload.model, read.model);
        }
        let model = if is_digit { Model::latest("mnist") } else { read.model.into_owned() };
        Some((model, read.servers.map(usize::from)))
    }

    /// Whether the balancer parses the body; it cannot refuse a body that it does not parse.
    fn is_looked_into(&self) -> bool {
        let kind = self.fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let media = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
        let forms = ["multipart/form-data", "application/x-www-form-urlencoded"];
        media.is_some_and(|media| {
            forms.iter().any(|form| media.trim_ascii().eq_ignore_ascii_case(form.as_bytes()))
        })
    }

    /// `None` if no HTTP library would send the query.
    fn request(&self) -> Option<Request<Full<Bytes>>> {
        let path = if self.path == "/mnist" { "/mnist" } else { "/predict" };
        let target = match self.query_at_worker() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let mut request = Request::post(target).body(Full::new(self.body.clone().into())).ok()?;
        *request.headers_mut() = self.fields.clone();
        Some(request)
    }
}

/// Generates requests.
struct Maker(SmallRng);

const PATHS: [&str; 5] = ["/predict", "/submit", "/home", "/post", "/mnist"];
const MODELS: [&str; 5] = ["iris_model", "mnist", "a b", "ü&=+%", "x\"y;z"];

impl Maker {
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.0).expect("there is one")
    }

    fn chance(&mut self, of: f64) -> bool {
        self.0.random_bool(of)
    }

    /// A text in percent encoding, with some characters encoded unnecessarily.
    fn percent(&mut self, text: &str) -> String {
        let mut encoded = String::new();
        for byte in text.bytes() {
            let is_plain = byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            if byte == b' ' && self.chance(0.5) {
                encoded.push('+');
            } else if is_plain && self.chance(0.8) {
                encoded.push(char::from(byte));
            } else {
                let digits = format!("%{byte:02X}");
                encoded += &if self.chance(0.5) { digits } else { digits.to_lowercase() };
            }
        }
        encoded
    }

    fn pairs(&mut self, pairs: &[(&str, String)]) -> String {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", self.percent(name), self.percent(value)))
            .collect();
        pairs.join("&")
    }

    fn multipart(&mut self, fields: &[(&str, String)], fields_of: &mut HeaderMap) -> Vec<u8> {
        let boundary = self.one(&["XX", "----WebKitFormBoundary7MA", "a b", "=_x'(1):2/,?.", "é"]);
        let boundary = if boundary == "é" { "b".repeat(70) } else { boundary.to_owned() };
        let kind =
            self.one(&["multipart/form-data", "Multipart/Form-Data ", "MULTIPART/FORM-DATA"]);
        let name = self.one(&["boundary", "Boundary", "BOUNDARY"]);
        let before = self.one(&["", "; charset=utf-8", "; x=\"a;boundary=no\"", ";", "; y=\"ü\""]);
        let kind = format!("{kind}{before}; {name}=\"{boundary}\"");
        fields_of
            .insert(header::CONTENT_TYPE, HeaderValue::from_bytes(kind.as_bytes()).expect("valid"));
        let mut body = self.one(&["", "preamble\r\n", "\r\n"]).as_bytes().to_vec();
        let text =
            |(name, value): &(&str, String)| ((*name).to_owned(), value.clone().into_bytes());
        let mut parts: Vec<_> = fields.iter().map(text).collect();
        parts.push(("image".to_owned(), png()));
        let inner = b"\r\n--X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nno";
        parts.push(("other".to_owned(), inner.to_vec()));
        parts.shuffle(&mut self.0);
        for (name, value) in parts {
            body.extend_from_slice(
                format!("--{boundary}{}\r\n", self.one(&["", " ", " \t"])).as_bytes(),
            );
            body.extend_from_slice(self.head(&name).as_bytes());
            body.extend_from_slice(b"\r\n");
            body.extend_from_slice(&value);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--").as_bytes());
        body.extend_from_slice(self.one(&["", "\r\n", "\r\nepilogue --XX"]).as_bytes());
        body
    }

    /// The head of a part, including the line ends.
    fn head(&mut self, name: &str) -> String {
        let field =
            self.one(&["Content-Disposition", "content-disposition", "CONTENT-DISPOSITION"]);
        let kind = self.one(&["form-data", "Form-Data", "form-data "]);
        let file = self.one(&[
            "",
            "; filename=\"x; name=model\"",
            "; filename=\"a\\\"; name=\\\"model\\\"\"",
            "; filename*=UTF-8''a%20b.png",
            ";\r\n\tfilename=\"image\"",
            "; filename=\"a,b=c\"",
        ]);
        let name =
            if self.chance(0.7) { format!("; name=\"{name}\"") } else { format!(";NAME={name}") };
        let line = if self.chance(0.5) {
            format!("{field}: {kind}{name}{file}\r\n")
        } else {
            format!("{field}:{kind}{file}{name}\r\n")
        };
        let long = format!("X-Long: {}\r\n", "y".repeat(9000));
        let kind = "Content-Type: image/png\r\n";
        let more = self.one(&["", kind, "X-Fold: a\r\n name=\"model\"\r\n", long.as_str()]);
        if self.chance(0.5) { format!("{more}{line}") } else { format!("{line}{more}") }
    }

    /// A well-formed request, and what it asks for.
    fn proper(&mut self) -> (Case, Verdict) {
        let path = self.one(&PATHS);
        let model = self.one(&MODELS);
        let version = self.one(&[None, Some("3"), Some("stable"), Some("007")]);
        let servers = self.one(&[None, Some(1), Some(4)]);
        let mut pairs = vec![("model", model.to_owned())];
        pairs.extend(version.map(|version| ("version", version.to_owned())));
        pairs.extend(servers.map(|servers| ("number_backend_servers", servers.to_string())));
        pairs.shuffle(&mut self.0);
        let at = self.0.random_range(0..=pairs.len());
        let (in_query, in_form) = pairs.split_at(at);
        let mut fields = HeaderMap::new();
        let (body, in_query) = match self.0.random_range(0..3) {
            0 => (self.multipart(in_form, &mut fields), in_query),
            1 => {
                let kind =
                    HeaderValue::from_static("application/X-WWW-form-urlencoded; charset=utf-8");
                fields.insert(header::CONTENT_TYPE, kind);
                let address = ("IMAGE_URL", "http://127.0.0.1:1/a.png".to_owned());
                (self.pairs(&[in_form, &[address]].concat()).into_bytes(), in_query)
            }
            _ => (png(), &pairs[..]),
        };
        let body = self.packed(body, &mut fields);
        let query = (!in_query.is_empty()).then(|| self.pairs(in_query));
        let is_in_query = |name| in_query.iter().any(|(known, _)| *known == name);
        // The digit routes have a fixed model, and ignore the query.
        let is_digit = path == "/post" || path == "/mnist";
        let version = version.filter(|_| path != "/mnist" && !(is_digit && is_in_query("version")));
        let servers = servers.filter(|_| !(is_digit && is_in_query("number_backend_servers")));
        let name = if is_digit { "mnist" } else { model };
        let version = version.map_or(Version::Latest, |text| Version::read(text.into()));
        (Case { path, query, fields, body }, Some((Model { name: name.into(), version }, servers)))
    }

    fn packed(&mut self, body: Vec<u8>, fields: &mut HeaderMap) -> Vec<u8> {
        let level = Compression::fast();
        let (name, body) = match self.0.random_range(0..12) {
            0 => ("gzip", write(GzEncoder::new(Vec::new(), level), &body, GzEncoder::finish)),
            1 => {
                ("Deflate", write(ZlibEncoder::new(Vec::new(), level), &body, ZlibEncoder::finish))
            }
            2 => (
                "deflate",
                write(DeflateEncoder::new(Vec::new(), level), &body, DeflateEncoder::finish),
            ),
            3 => ("identity", body),
            _ => return body,
        };
        fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
        body
    }

    /// A well-formed request with some changes.
    fn damaged(&mut self) -> Case {
        let (mut case, _) = self.proper();
        for _ in 0..self.0.random_range(1..4) {
            let piece = self.one(&PIECES).as_bytes();
            match self.0.random_range(0..6) {
                0 => {
                    case.query =
                        Some(self.splice(case.query.unwrap_or_default().as_bytes(), piece));
                }
                1 => self.damage_field(&mut case.fields, header::CONTENT_TYPE, piece),
                2 => self.damage_field(&mut case.fields, header::CONTENT_ENCODING, piece),
                3 => {
                    case.fields
                        .append(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                }
                _ => {
                    let at = self.0.random_range(0..=case.body.len());
                    let end = (at + self.0.random_range(0..4)).min(case.body.len());
                    case.body.splice(at..end, piece.iter().copied());
                }
            }
        }
        case
    }

    fn splice(&mut self, text: &[u8], piece: &[u8]) -> String {
        let at = self.0.random_range(0..=text.len());
        let text = [&text[..at], piece, &text[at..]].concat();
        // Bytes that a request line cannot contain are left out.
        text.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect()
    }

    fn damage_field(&mut self, fields: &mut HeaderMap, name: HeaderName, piece: &[u8]) {
        let value = fields.get(&name).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        let at = self.0.random_range(0..=value.len());
        let value = [&value[..at], piece, &value[at..]].concat();
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            fields.insert(name, value);
        }
    }

    /// A request assembled from pieces.
    fn pieces(&mut self) -> Case {
        let mut join = |most| -> Vec<u8> {
            let count = self.0.random_range(0..most);
            (0..count).flat_map(|_| self.one(&PIECES).bytes()).collect()
        };
        let (query, body) = (join(4), join(20));
        let kind = [b"multipart/form-data; boundary=XX".to_vec(), join(3)].concat();
        let mut fields = HeaderMap::new();
        if let Ok(kind) = HeaderValue::from_bytes(&kind) {
            fields.insert(header::CONTENT_TYPE, kind);
        }
        let query = Some(self.splice(&query, b""));
        Case { path: self.one(&PATHS), query, fields, body }
    }
}

/// Pieces that parsers stumble over.
const PIECES: [&str; 34] = [
    "\r\n",
    "--XX",
    "--XX--",
    "--",
    "\"",
    ";",
    "\\",
    "=",
    "&",
    "%",
    "%5F",
    "%zz",
    "+",
    ",",
    " ",
    "\t",
    "\n",
    "\0",
    "é",
    "model=iris_model",
    "model=",
    "version=2",
    "number_backend_servers=0",
    "number_backend_servers=2",
    "top_k=0",
    "IMAGE_URL=http://127.0.0.1:1/",
    "\r\n\r\n",
    "\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nmnist\r\n",
    "name=\"model\"",
    "filename=\"; name=model",
    "boundary=YY",
    "gzip",
    "br",
    "name*=utf-8''model",
];

/// The method that finishes an encoder.
type Finish<W> = fn(W) -> std::io::Result<Vec<u8>>;

fn write<W: Write>(mut encoder: W, plain: &[u8], finish: Finish<W>) -> Vec<u8> {
    encoder.write_all(plain).expect("memory");
    finish(encoder).expect("memory")
}

fn assert_agreed(case: &Case) -> Verdict {
    let (balancer, worker) = (case.in_balancer(), case.in_worker());
    // The worker also decompresses pictures, which the balancer does not look into.
    if worker.is_some() || case.is_looked_into() {
        assert_eq!(balancer, worker, "{case:?}");
    }
    balancer
}

#[test]
fn a_hundred_thousand_requests_are_read_alike_on_both_sides() {
    let mut make = Maker(SmallRng::seed_from_u64(11));
    let (mut read, mut refused) = (0, 0);
    for number in 0..100_000 {
        let verdict = match number % 4 {
            0 | 1 => {
                let (case, expected) = make.proper();
                let verdict = assert_agreed(&case);
                assert_eq!(verdict, expected, "{case:?}");
                verdict
            }
            2 => assert_agreed(&make.damaged()),
            _ => assert_agreed(&make.pieces()),
        };
        *(if verdict.is_some() { &mut read } else { &mut refused }) += 1;
    }
    assert!(read > 50_000 && refused > 10_000, "{read} read, {refused} refused");
}

#[tokio::test]
async fn a_running_worker_answers_for_the_model_that_the_balancer_reads() {
    let worker = Worker::start(vec![served("mnist", 3, Seven).0]).await;
    let mut make = Maker(SmallRng::seed_from_u64(12));
    for number in 0..600 {
        let case = match number % 3 {
            0 => make.proper().0,
            1 => make.damaged(),
            _ => make.pieces(),
        };
        let Some(request) = case.request() else { continue };
        let answer = worker.send(request).await;
        match case.in_balancer() {
            None => assert!([400, 413, 415].contains(&answer.status), "{case:?}: {answer:?}"),
            Some((model, _)) if answer.status == 404 => {
                let name = if model.name.is_empty() { "mnist" } else { &*model.name };
                // Errors truncate long names.
                let start = format!("{name:?}").chars().take(60).collect::<String>();
                let start = start.trim_end_matches('"');
                assert!(answer.error().contains(start), "{case:?}: {answer:?}");
                assert!(
                    name != "mnist" || model.version != Version::Number(3),
                    "{case:?}: {answer:?}"
                );
            }
            Some((model, _)) => {
                // Served, or the picture cannot be obtained.
                let is_served = matches!(&*model.name, "" | "mnist");
                let is_refused = [400, 413, 415, 422].contains(&answer.status);
                assert!(is_served && answer.status == 200 || is_refused, "{case:?}: {answer:?}");
            }
        }
    }
}

/// Parts of paths.
const WORDS: [&str; 24] = [
    "/v1",
    "/V1",
    "/v2",
    "/models",
    "/Models",
    "/mnist",
    "/half",
    "/iris%5Fmodel",
    "/a%2Fb",
    "/%zz",
    "/versions",
    "/labels",
    "/3",
    "/99999999999999999999",
    "/stable",
    ":predict",
    ":PREDICT",
    ":explain",
    "/infer",
    "/ready",
    "/stats",
    "/metadata",
    "/",
    "/config",
];

#[tokio::test]
async fn a_running_worker_reads_every_path_as_the_balancer_does() {
    let worker = Worker::start(vec![served("mnist", 3, Seven).0]).await;
    let mut make = Maker(SmallRng::seed_from_u64(13));
    let starts =
        ["/v1/models/half", "/v2/models/half", "/v1/models", "/v2/models/mnist", "/v1", "/v2"];
    for _ in 0..600 {
        let mut path = make.one(&starts).to_owned();
        for _ in 0..make.0.random_range(0..5) {
            path += make.one(&WORDS);
        }
        let method = make.one(&[&Method::GET, &Method::POST]);
        let request = Request::builder().method(method).uri(&path).body(Full::default()).unwrap();
        let answer = worker.send(request).await;
        let context = format!("{method} {path}: {answer:?}");
        match route(method, &path) {
            Err(error) => {
                // The worker may check the method first.
                let is_same = answer.status == error.status().as_u16();
                assert!(is_same || answer.status == 405, "{context}");
                if answer.status == 400 {
                    assert_eq!(answer.error(), error.to_string(), "{context}");
                }
            }
            Ok(Route::Forward(forward)) => {
                let Naming::Path(model) = forward.naming else { continue };
                let is_known = model.name == "mnist";
                // The method is checked before the model is looked up.
                let is_other_method = answer.status == 405;
                assert!(
                    is_known || is_other_method || [400, 404].contains(&answer.status),
                    "{context}"
                );
                if answer.status == 404 {
                    let names_it = answer.error().contains(&*model.name);
                    assert!(names_it, "{context}");
                }
            }
            Ok(other) => panic!("{path}: {other:?}"),
        }
    }
}
