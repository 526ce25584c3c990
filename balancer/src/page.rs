//! The pages: templates embedded at build time, filled with escaped values.
//!
//! A broken template is a defect of the build: the tests render each of them. The page loads only its own files: the content security policy
//! says so to the browser.

use bytes::Bytes;
use fleet::Snapshot;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY};
use http::{HeaderMap, StatusCode};
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::route::Asset;

/// Model of photos of anything, which has to be fetched first.
const PHOTO_MODEL: &str = "mobilenet_v2";

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// All pages, ready to be filled.
#[derive(Debug)]
pub struct Pages {
    environment: Environment<'static>,
    max_body_mb: usize,
}

/// What a result page shows.
#[derive(Debug)]
pub enum Outcome {
    /// The worker's JSON answer, and how many milliseconds it took.
    Prediction(serde_json::Value, f64),
    /// A sentence.
    Message(String),
}

impl Pages {
    /// Reads the embedded templates.
    pub fn new(max_body_bytes: usize) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
        for (name, source) in [
            ("base.html", include_str!("../../templates/base.html")),
            ("index.html", include_str!("../../templates/index.html")),
            ("result.html", include_str!("../../templates/result.html")),
            ("error.html", include_str!("../../templates/error.html")),
            ("fleet.html", include_str!("../../templates/fleet.html")),
        ] {
            if let Err(error) = environment.add_template(name, source) {
                tracing::error!(page = name, %error, "page");
            }
        }
        Self { environment, max_body_mb: max_body_bytes / 1_000_000 }
    }

    /// The upload page.
    pub fn index(&self, path: &str, snapshot: &Snapshot) -> Bytes {
        self.render("index.html", self.index_values(path, snapshot))
    }

    /// The upload page with an answer in it.
    pub fn result(&self, path: &str, snapshot: &Snapshot, outcome: Outcome) -> Bytes {
        let index = self.index_values(path, snapshot);
        let values = match outcome {
            Outcome::Prediction(prediction, elapsed_ms) => context! {
                prediction => Value::from(Serde(prediction)), elapsed_ms, ..index
            },
            Outcome::Message(message) => context! { message, ..index },
        };
        self.render("result.html", values)
    }

    /// The page for a request that failed.
    pub fn error(&self, path: &str, status: StatusCode, error: &str, request_id: &str) -> Bytes {
        let values = context! {
            root => root_of(path),
            version => env!("CARGO_PKG_VERSION"),
            status => status.as_u16(),
            reason => status.canonical_reason().unwrap_or("Error"),
            error,
            request_id,
        };
        self.render("error.html", values)
    }

    /// The state of the fleet, as `/fleet.json` has it.
    pub fn fleet(&self, fleet: serde_json::Value) -> Bytes {
        let values = context! {
            root => "",
            version => env!("CARGO_PKG_VERSION"),
            fleet => Value::from(Serde(fleet)),
        };
        self.render("fleet.html", values)
    }

    fn index_values(&self, path: &str, snapshot: &Snapshot) -> Value {
        let models: Vec<String> = snapshot.models().into_iter().map(str::to_owned).collect();
        let endpoints: Vec<String> =
            snapshot.all().iter().map(|endpoint| endpoint.name().to_owned()).collect();
        context! {
            root => root_of(path),
            version => env!("CARGO_PKG_VERSION"),
            photo_model => models.iter().any(|model| model == PHOTO_MODEL),
            models,
            endpoints,
            max_body_mb => self.max_body_mb,
        }
    }

    fn render(&self, name: &str, values: Value) -> Bytes {
        let rendered = self.environment.get_template(name).and_then(|page| page.render(values));
        rendered.map_or_else(
            |error| {
                tracing::error!(page = name, %error, "page");
                Bytes::from_static(b"<!doctype html><title>Error</title><p>This page is broken.")
            },
            Bytes::from,
        )
    }
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

/// A file of the page.
pub fn asset(asset: Asset) -> (&'static str, Bytes) {
    let (kind, text) = match asset {
        Asset::Style => ("text/css; charset=utf-8", include_str!("../../templates/style.css")),
        Asset::Script => ("text/javascript; charset=utf-8", include_str!("../../templates/app.js")),
        Asset::Icon => ("image/svg+xml", include_str!("../../templates/favicon.svg")),
    };
    (kind, Bytes::from_static(text.as_bytes()))
}

/// The headers of every page.
pub fn set_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-cache"),
        (VARY, "accept"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The relative way from a path to the root.
fn root_of(path: &str) -> String {
    "../".repeat(path.matches('/').count().saturating_sub(1).min(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(page: &Bytes) -> &str {
        std::str::from_utf8(page).expect("pages are text")
    }

    #[test]
    fn the_index_says_how_to_get_the_photo_model() {
        let pages = Pages::new(10_000_000);
        let page = pages.index("/", &Snapshot::default());
        assert!(text(&page).contains("multipart/form-data"));
        assert!(text(&page).contains("action=\"submit\""));
    }

    #[test]
    fn labels_and_errors_are_escaped() {
        let pages = Pages::new(10_000_000);
        let evil = "<script>alert(1)</script>";
        let prediction = serde_json::json!({
            "label": evil, "confidence": 0.5, "top_k": [], "model": evil, "version": "1",
            "endpoint": evil,
            "timings_ms": {"decode":1,"preprocess":1,"queue":1,"compute":1,"total":4},
        });
        let outcome = Outcome::Prediction(prediction, 5.0);
        let result = pages.result("/submit", &Snapshot::default(), outcome);
        let error = pages.error("/x", StatusCode::BAD_REQUEST, evil, evil);
        for page in [result, error] {
            assert!(!text(&page).contains(evil), "{}", text(&page));
            assert!(text(&page).contains("&lt;script&gt;"), "{}", text(&page));
        }
    }

    #[test]
    fn a_message_stands_in_the_place_of_a_prediction() {
        let outcome = Outcome::Message("It is a [7]".to_owned());
        let page = Pages::new(10_000_000).result("/post", &Snapshot::default(), outcome);
        assert!(text(&page).contains("It is a [7]"), "{}", text(&page));
    }

    #[test]
    fn the_fleet_is_a_table_with_escaped_names() {
        let fleet = serde_json::json!({
            "policy": "p2c", "ready": true, "draining": false, "panic_mode": false,
            "models": ["mnist"], "active_requests": 3, "connections": 4,
            "endpoints": [{
                "name": "<b>one", "address": "10.0.0.1:80", "state": "ejected", "in_flight": 7,
                "in_flight_limit": null, "weight": 1, "reported_queue": 0,
                "service_time_ms": 12.345, "succeeded": 5, "failed": 6, "ejections": 1,
                "models": [{"name": "mnist", "version": "1", "state": "READY"}],
            }],
        });
        let page = Pages::new(10_000_000).fleet(fleet);
        for part in ["p2c", "&lt;b&gt;one", "10.0.0.1:80", "ejected", "12.3 ms", "mnist/1"] {
            assert!(text(&page).contains(part), "{part}: {}", text(&page));
        }
        assert!(!text(&page).contains("<b>one"));
    }

    #[test]
    fn links_lead_back_to_the_root() {
        assert_eq!(root_of("/"), "");
        assert_eq!(root_of("/submit"), "");
        assert_eq!(root_of("/v1/models/x"), "../../");
    }
}
