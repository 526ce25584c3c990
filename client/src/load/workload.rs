//! What `client load` sends: pictures, flowers, prepared JSON bodies, or empty GETs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Method};

use crate::error::Error;
use crate::experiment::Options;
use crate::workload::iris::Form;
use crate::workload::{Item, Reading, Workload, generated, pictures};

/// Flags that choose the requests.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkloadArgs {
    /// What to send: `iris` (TensorFlow Serving's JSON), `oip-iris` (Open Inference Protocol), a
    /// folder of pictures or one, or a .json or .jsonl file of bodies (needs --route).
    #[arg(long, env = "CLIENT_WORKLOAD", value_name = "WHAT",
          conflicts_with_all = ["images", "json_body", "get"])]
    pub workload: Option<PathBuf>,
    /// Folder of pictures, or one, sent in turn. With a labels.csv (columns file and label) the
    /// answers are checked. Default: one picture of 128 px, made here.
    #[arg(long, env = "CLIENT_IMAGES", value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Let the first N endpoints take part (form field `number_backend_servers`). Default: all.
    #[arg(long, env = "CLIENT_NUMBER_BACKEND_SERVERS", value_name = "N")]
    pub servers: Option<u32>,
    /// File with a JSON body, or one a line (.jsonl), for the prediction routes of the TensorFlow
    /// Serving and Open Inference protocols. Needs --route.
    #[arg(long, env = "CLIENT_JSON_BODY", value_name = "FILE", requires = "route",
          conflicts_with_all = ["images", "servers"])]
    pub json_body: Option<PathBuf>,
    /// Send GET requests without a body to this route.
    #[arg(long, env = "CLIENT_GET", value_name = "ROUTE",
          conflicts_with_all = ["images", "servers", "json_body", "route"])]
    pub get: Option<String>,
    /// Route to post to. Default: /submit.
    #[arg(long, env = "CLIENT_ROUTE", value_name = "ROUTE")]
    pub route: Option<String>,
}

/// What to send, where it goes unless --route says otherwise, and how answers are read.
struct Requests {
    route: String,
    items: Vec<Item>,
    reading: Reading,
}

impl WorkloadArgs {
    /// Reads the files and makes the requests.
    pub(super) fn build(&self, options: &Options) -> anyhow::Result<Workload> {
        let Requests { route, items, reading } = self.requests()?;
        // Another service may answer in a form of its own, and has answered nonetheless.
        let reading = match (&self.route, reading) {
            (Some(other), Reading::Label) if *other != route => Reading::Whatever,
            (_, reading) => reading,
        };
        let route = self.route.clone().unwrap_or(route);
        if !route.starts_with('/') {
            return Err(Error::Usage(format!("a route starts with /, not {route:?}")).into());
        }
        Ok(Workload::try_new(&options.target, &route, items, reading)?)
    }

    fn requests(&self) -> anyhow::Result<Requests> {
        let requests =
            |route: &str, items, reading| Requests { route: route.to_owned(), items, reading };
        if let Some(route) = &self.get {
            return Ok(requests(route, vec![empty_get()], Reading::Ignore));
        }
        let named = self.workload.as_deref();
        let form = match named.and_then(Path::to_str) {
            Some("iris") => Some(Form::TfServing),
            Some("oip-iris") => Some(Form::OpenInference),
            Some(_) | None => None,
        };
        if let Some(form) = form {
            return Ok(requests(&form.route(), form.items()?, form.reading()));
        }
        let is_bodies =
            |path: &&Path| path.extension().is_some_and(|e| e == "json" || e == "jsonl");
        if let Some(file) = self.json_body.as_deref().or(named.filter(is_bodies)) {
            if self.route.is_none() {
                return Err(Error::Usage("bodies from a file need a --route".to_owned()).into());
            }
            return Ok(requests("", json_bodies(file)?, Reading::Ignore));
        }
        let path = self.images.as_deref().or(named);
        Ok(requests(wire::path::SUBMIT, self.pictures(path)?, Reading::Label))
    }

    fn pictures(&self, path: Option<&Path>) -> anyhow::Result<Vec<Item>> {
        let pictures = match path {
            Some(path) => pictures::read(path)?,
            None => vec![generated::picture(128)?],
        };
        let item = |picture: &pictures::Picture| Item {
            expected: picture.label.clone(),
            ..Item::picture(&picture.name, &picture.bytes, self.servers)
        };
        Ok(pictures.iter().map(item).collect())
    }
}

fn empty_get() -> Item {
    Item {
        name: "get".to_owned(),
        method: Method::GET,
        body: Bytes::new(),
        content_type: None,
        expected: None,
    }
}

fn json_bodies(file: &Path) -> anyhow::Result<Vec<Item>> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| shown.clone())?;
    let is_lines = file.extension().is_some_and(|extension| extension == "jsonl");
    let bodies: Vec<&str> = if is_lines {
        text.lines().filter(|l| !l.trim().is_empty()).collect()
    } else {
        vec![&text]
    };
    let item = |(number, body): (usize, &&str)| {
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(body) {
            return Err(Error::Usage(format!("{shown}, body {}: {error}", number + 1)).into());
        }
        Ok(Item {
            name: format!("body-{}", number + 1),
            method: Method::POST,
            body: Bytes::from((*body).to_owned()),
            content_type: Some(HeaderValue::from_static("application/json")),
            expected: None,
        })
    };
    bodies.iter().enumerate().map(item).collect()
}
