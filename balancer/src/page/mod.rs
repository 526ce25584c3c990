//! The pages: templates embedded at build time, filled with escaped values.
//!
//! A broken template is a defect of the build: the tests render each of them in each language. The
//! page loads only its own files, and the content security policy makes browsers enforce that; what
//! it needs for painting is embedded in it. All texts, including those of the scripts, are in one
//! file per language.

mod assets;
mod live;
mod negotiation;
mod status;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::sync::LazyLock;

pub use assets::Asset;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use fleet::Snapshot;
use fleet::policy::Kind;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, request};
pub use live::{Live, Watcher, run};
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};
pub use negotiation::Language;
use serde_json::{Map, Value as Json};
pub(crate) use status::shares;
pub use status::status;

use crate::config::DefaultModel;
use crate::headers::{self, Origin};

/// Model for photos of anything, which must be downloaded first.
const PHOTO_MODEL: &str = "mobilenet_v2";
/// Model for handwritten digits.
const DIGIT_MODEL: &str = "mnist";
/// Model for the measurements of an iris.
const IRIS_MODEL: &str = "iris_model";

/// What a page may load: its own files, and what is embedded in it.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (style, script) = (assets::style().digest, assets::first_script().digest);
    let policy = format!(
        "default-src 'none'; style-src '{style}'; script-src 'self' '{script}'; \
         img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

const SOURCES: [(&str, &str); 6] = [
    ("base.html", include_str!("../../../templates/base.html")),
    ("index.html", include_str!("../../../templates/index.html")),
    ("result.html", include_str!("../../../templates/result.html")),
    ("error.html", include_str!("../../../templates/error.html")),
    ("fleet.html", include_str!("../../../templates/fleet.html")),
    ("endpoint.html", include_str!("../../../templates/endpoint.html")),
];

/// All pages, ready to be rendered.
#[derive(Debug)]
pub struct Pages {
    environment: Environment<'static>,
    /// The texts, in the order of [`Language::ALL`].
    texts: Vec<Texts>,
    max_body_bytes: usize,
    is_fleet_public: bool,
    default_model: Option<DefaultModel>,
}

/// The texts of one language.
#[derive(Debug)]
struct Texts {
    page: Value,
    /// Texts of the scripts, as JSON that can be embedded in a page.
    scripts: String,
    /// The same, including the scripts of the operator's view.
    operator_scripts: String,
}

/// What a result page shows.
#[derive(Debug)]
pub enum Outcome {
    /// The worker's JSON answer, and how many milliseconds it took.
    Prediction(Json, f64),
    /// A message in place of a prediction.
    Message(String),
}

/// Who reads a page, and from where: what a page depends on besides the fleet.
#[derive(Debug, Default)]
pub struct Reader {
    /// The path of the page.
    pub path: Box<str>,
    /// Scheme and host by which the reader reached the balancer.
    pub address: Box<str>,
    /// The language of the texts.
    pub language: Language,
    takes_gzip: bool,
}

impl Reader {
    /// The reader described by a client's request.
    pub fn of(head: &request::Parts, origin: &Origin) -> Self {
        Self::new(&head.uri, &head.headers, Some(origin))
    }

    /// The reader described by a request; without an `origin`, it is an operator.
    pub fn new(uri: &Uri, fields: &HeaderMap, origin: Option<&Origin>) -> Self {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let forwarded = |name| {
            let value = if origin.is_some_and(|origin| origin.is_trusted) {
                fields.get(name)
            } else {
                None
            };
            // Of several proxies, the reader sees the first.
            value
                .and_then(text)
                .map(|all| all.split(',').next().unwrap_or_default().trim().to_owned())
        };
        let authority = || uri.authority().map(ToString::to_string);
        let host = forwarded(headers::FORWARDED_HOST)
            .or_else(|| fields.get(HOST).and_then(text))
            .or_else(authority);
        let scheme = match forwarded(headers::FORWARDED_PROTO).as_deref() {
            Some("https") => "https",
            Some("http") => "http",
            Some(_) | None => origin.map_or("http", |origin| origin.scheme),
        };
        Self {
            path: uri.path().into(),
            address: format!("{scheme}://{}", host.unwrap_or_else(|| "localhost".to_owned()))
                .into(),
            language: Language::of(uri.query(), fields),
            takes_gzip: negotiation::takes_gzip(fields),
        }
    }

    /// The relative path from here to the root.
    fn root(&self) -> String {
        "../".repeat(self.path.matches('/').count().saturating_sub(1).min(20))
    }
}

impl Pages {
    /// Reads the embedded templates.
    pub fn new(
        max_body_bytes: usize,
        is_fleet_public: bool,
        default_model: Option<DefaultModel>,
    ) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
        for (name, file) in [("style", assets::style()), ("first_script", assets::first_script())] {
            environment.add_global(name, Value::from_safe_string(file.text.to_owned()));
        }
        for (name, source) in SOURCES {
            if let Err(error) = environment.add_template(name, source) {
                tracing::error!(page = name, %error, "page not rendered");
            }
        }
        let texts = Language::ALL.into_iter().map(texts).collect();
        Self { environment, texts, max_body_bytes, is_fleet_public, default_model }
    }

    /// Renders the upload page.
    pub fn index(&self, reader: &Reader, snapshot: &Snapshot) -> Bytes {
        self.render("index.html", self.index_values(reader, snapshot))
    }

    /// Renders the upload page with an answer in it.
    pub fn result(&self, reader: &Reader, snapshot: &Snapshot, outcome: Outcome) -> Bytes {
        let index = self.index_values(reader, snapshot);
        let values = match outcome {
            Outcome::Prediction(prediction, elapsed_ms) => context! {
                prediction => Value::from(Serde(prediction)), elapsed_ms, ..index
            },
            Outcome::Message(message) => context! { message, ..index },
        };
        self.render("result.html", values)
    }

    /// Renders the page for a request that failed.
    pub fn error(
        &self,
        reader: &Reader,
        status: StatusCode,
        error: &str,
        request_id: &str,
    ) -> Bytes {
        let values = context! {
            status => status.as_u16(),
            reason => status.canonical_reason().unwrap_or("Error"),
            error,
            request_id,
            ..self.base_values(reader)
        };
        self.render("error.html", values)
    }

    /// Renders the state of the fleet for operators, with the data of `/fleet.json`.
    pub fn fleet(&self, reader: &Reader, fleet: Json) -> Bytes {
        let texts = self.texts(reader);
        let values = context! {
            fleet => Value::from(Serde(fleet)),
            policies => Kind::ALL.map(Kind::as_str),
            is_admin => true,
            scripts => Value::from_safe_string(texts.operator_scripts.clone()),
            ..self.base_values(reader)
        };
        self.render("fleet.html", values)
    }

    fn base_values(&self, reader: &Reader) -> Value {
        let texts = self.texts(reader);
        context! {
            root => reader.root(),
            address => &*reader.address,
            assets => format!("{}{}", reader.root(), assets::folder()),
            version => env!("CARGO_PKG_VERSION"),
            language => reader.language.tag(),
            languages => Language::ALL.map(Language::tag),
            t => texts.page.clone(),
            scripts => Value::from_safe_string(texts.scripts.clone()),
        }
    }

    fn texts(&self, reader: &Reader) -> &Texts {
        &self.texts[usize::from(reader.language == Language::German)]
    }

    fn index_values(&self, reader: &Reader, snapshot: &Snapshot) -> Value {
        let default = self.default_model.as_ref().map(DefaultModel::name);
        let status = status::of_snapshot(snapshot, self.is_fleet_public, default);
        let has = |name: &str| snapshot.models().contains(&name);
        context! {
            has_photos => has(PHOTO_MODEL),
            has_digits => has(DIGIT_MODEL),
            has_iris => has(IRIS_MODEL),
            is_fleet_public => self.is_fleet_public,
            workers => Value::from(Serde(status::workers(snapshot, self.is_fleet_public))),
            status => Value::from(Serde(status)),
            max_body_bytes => self.max_body_bytes,
            max_body => crate::error::Size(self.max_body_bytes).to_string(),
            ..self.base_values(reader)
        }
    }

    fn render(&self, name: &str, values: Value) -> Bytes {
        let rendered = self.environment.get_template(name).and_then(|page| page.render(values));
        rendered.map_or_else(
            |error| {
                tracing::error!(page = name, %error, "page not rendered");
                Bytes::from_static(b"<!doctype html><title>Error</title><p>This page is broken.")
            },
            Bytes::from,
        )
    }
}

/// The texts of a language. A test checks that they parse.
fn texts(language: Language) -> Texts {
    let source = match language {
        Language::English => include_str!("../../../templates/texts.en.json"),
        Language::German => include_str!("../../../templates/texts.de.json"),
    };
    let mut texts: Json = serde_json::from_str(source).unwrap_or_default();
    let mut all = take(&mut texts, "/scripts");
    let scripts = in_page(&all);
    all.extend(take(&mut texts, "/operator/scripts"));
    Texts { page: Value::from(Serde(texts)), scripts, operator_scripts: in_page(&all) }
}

/// Removes the texts at this path and returns them.
fn take(texts: &mut Json, place: &str) -> Map<String, Json> {
    let taken = texts.pointer_mut(place).map(Json::take);
    if let Some(Json::Object(taken)) = taken { taken } else { Map::new() }
}

/// Texts as JSON that can be embedded in a page: nothing in it can end the enclosing element.
fn in_page(texts: &Map<String, Json>) -> String {
    serde_json::to_string(texts).unwrap_or_default().replace('<', "\\u003c")
}

/// What the page offers, in plain text.
pub fn text(snapshot: &Snapshot) -> String {
    let models = snapshot.models();
    let models = if models.is_empty() { "none is ready".to_owned() } else { models.join(", ") };
    format!(
        concat!(
            "imagefleet ",
            env!("CARGO_PKG_VERSION"),
            "\n\n",
            "Workers: {} of {} available\nModels:  {}\n\nAsk:\n",
            "  curl -F image=@photo.jpg                /submit\n",
            "  curl --data-binary @image.png           /predict?model=NAME&top_k=3\n",
            "  curl -d '{{\"instances\": [...]}}'          /v1/models/NAME:predict\n",
            "  GET /v2/models/NAME  GET /v2/health/ready\n"
        ),
        snapshot.available().len(),
        snapshot.all().len(),
        models
    )
}

/// A page as it is sent: compressed if the client accepts that, and tagged, so that it is not sent
/// again until something in it has changed.
pub fn respond(page: Bytes, reader: &Reader) -> Response<Bytes> {
    let mut hasher = DefaultHasher::new();
    page.hash(&mut hasher);
    let tag = format!("W/\"{:016x}\"", hasher.finish());
    let packed = reader.takes_gzip.then(|| gzip(&page)).flatten();
    let is_packed = packed.is_some();
    let mut response = Response::new(packed.unwrap_or(page));
    set_headers(response.headers_mut());
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    if is_packed {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// The same, or `304 Not Modified` if the client has it already.
pub fn respond_unless_known(page: Bytes, reader: &Reader, fields: &HeaderMap) -> Response<Bytes> {
    let mut response = respond(page, reader);
    let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
    if tag.is_some_and(|tag| negotiation::has(fields, tag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Bytes::new();
        response.headers_mut().remove(CONTENT_ENCODING);
        response.headers_mut().remove(CONTENT_TYPE);
    }
    response
}

fn gzip(page: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 2), Compression::fast());
    encoder.write_all(page).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// The headers of every page.
fn set_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-cache"),
        (VARY, "accept, accept-encoding, accept-language"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
}

#[cfg(test)]
mod tests;
