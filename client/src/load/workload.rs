//! What `client load` sends: pictures, flowers, the loads of other projects, bodies, recorded
//! requests, or empty GETs; and the user's changes to all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use http::{HeaderMap, HeaderValue, Method};

use crate::error::Error;
use crate::experiment::Options;
use crate::input;
use crate::workload::iris::Form;
use crate::workload::seeds::{self, Seed};
use crate::workload::{
    Custom, Item, Reading, Statuses, Workload, custom, generated, har, pictures,
};

/// Flags that choose the requests.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Requests")]
pub struct WorkloadArgs {
    /// What to send: `iris` (TensorFlow Serving's JSON), `oip-iris` (Open Inference Protocol), the
    /// load of another project (`seed-geni`, `seed-mnist`, `seed-digit`, `seed-iris`, `seed-web`), a
    /// folder of pictures or one, or a .json or .jsonl file of bodies (needs --route).
    #[arg(long, env = "CLIENT_WORKLOAD", value_name = "WHAT",
          conflicts_with_all = ["images", "json_body", "get", "body", "targets"])]
    pub workload: Option<PathBuf>,
    /// Folder of pictures, or one, sent in turn. With a labels.csv (columns file and label) the
    /// answers are checked. Default: one picture of 128 px, made here.
    #[arg(long, env = "CLIENT_IMAGES", value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Use the first N endpoints only (form field `number_backend_servers`). Default: all.
    #[arg(long, env = "CLIENT_NUMBER_BACKEND_SERVERS", value_name = "N")]
    pub servers: Option<u32>,
    /// The photo whose address `--workload seed-web` posts; workers have to be able to fetch it.
    #[arg(long, env = "CLIENT_IMAGE_URL", value_name = "URL", default_value = seeds::CAT)]
    pub image_url: String,
    /// File with a JSON body, or one per line (.jsonl), for the prediction routes of the TensorFlow
    /// Serving and Open Inference protocols. Needs --route.
    #[arg(long, env = "CLIENT_JSON_BODY", value_name = "FILE", requires = "route",
          conflicts_with_all = ["images", "servers", "body", "targets"])]
    pub json_body: Option<PathBuf>,
    /// The body of every request: a text, the content of @FILE, or of standard input with @-.
    #[arg(short = 'd', long, env = "CLIENT_BODY", value_name = "TEXT|@FILE|@-",
          conflicts_with_all = ["images", "servers", "targets"])]
    pub body: Option<String>,
    /// Send GET requests without a body to this route.
    #[arg(long, env = "CLIENT_GET", value_name = "ROUTE",
          conflicts_with_all = ["images", "servers", "json_body", "body", "targets", "route"])]
    pub get: Option<String>,
    /// Send recorded requests at their recorded instants: an HTTP archive (HAR), as browsers save it.
    #[arg(long, env = "CLIENT_TARGETS", value_name = "FILE",
          conflicts_with_all = ["images", "servers", "route", "rate", "users", "arrivals", "stages"])]
    pub targets: Option<PathBuf>,
    /// Route to post to. Default: /submit; with --body the path of the target.
    #[arg(long, env = "CLIENT_ROUTE", value_name = "ROUTE")]
    pub route: Option<String>,
    /// A header of every request, in place of one of that name; may be given several times. In the
    /// environment, one per line.
    #[arg(short = 'H', long, env = "CLIENT_HEADER", value_name = "NAME: VALUE",
          value_delimiter = '\n', value_parser = custom::header)]
    pub header: Vec<custom::Field>,
    /// The method of every request.
    #[arg(short = 'X', long, env = "CLIENT_METHOD", value_name = "METHOD", value_parser = method)]
    pub method: Option<Method>,
    /// Statuses that count as success: numbers, classes and ranges such as 200,3xx,400-404. Default:
    /// 2xx. Redirects are not followed.
    #[arg(long, env = "CLIENT_EXPECT_STATUS", value_name = "LIST")]
    pub expect_status: Option<Statuses>,
}

fn method(text: &str) -> Result<Method, String> {
    let method = Method::from_bytes(text.to_uppercase().as_bytes());
    let method = method.map_err(|_| format!("{text:?} is no method"))?;
    if method == Method::CONNECT {
        return Err("CONNECT asks for a tunnel, which no request goes through here".to_owned());
    }
    Ok(method)
}

/// Requests, and when they are due if that was recorded with them.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) workload: Workload,
    pub(super) instants: Option<Arc<[Duration]>>,
}

/// What to send, where it goes unless --route says otherwise, and how answers are read.
struct Requests {
    route: String,
    items: Vec<Item>,
    reading: Reading,
}

impl WorkloadArgs {
    /// Reads the files and makes the requests.
    pub(super) fn build(&self, options: &Options) -> anyhow::Result<Prepared> {
        let custom = self.custom();
        let target = &options.target;
        if let Some(file) = &self.targets {
            let recording = har::read(file)?;
            let workload = Workload::try_new(target, "", recording.items, Reading::Ignore)?;
            let workload = workload.customised(&custom)?;
            return Ok(Prepared { workload, instants: Some(recording.instants) });
        }
        let Requests { route, items, reading } = self.requests()?;
        // Another service may answer in a form of its own, which is an answer nonetheless.
        let reading = match (&self.route, reading) {
            (Some(other), Reading::Label) if *other != route => Reading::Whatever,
            (_, reading) => reading,
        };
        let named = self.route.iter().chain(&self.get);
        if let Some(route) = named.into_iter().find(|route| !route.starts_with('/')) {
            return Err(Error::Usage(format!("a route starts with /, not {route:?}")).into());
        }
        let route = self.route.clone().unwrap_or(route);
        let workload = Workload::try_new(target, &route, items, reading)?.customised(&custom)?;
        Ok(Prepared { workload, instants: None })
    }

    fn custom(&self) -> Custom {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.header {
            headers.append(name.clone(), value.clone());
        }
        Custom { method: self.method.clone(), headers, statuses: self.expect_status.clone() }
    }

    fn requests(&self) -> anyhow::Result<Requests> {
        let requests =
            |route: &str, items, reading| Requests { route: route.to_owned(), items, reading };
        if let Some(route) = &self.get {
            return Ok(requests(route, vec![empty_get()], Reading::Ignore));
        }
        if let Some(body) = &self.body {
            let item = Item::new("body", Method::POST, custom::read_body(body)?, None);
            return Ok(requests("", vec![item], Reading::Ignore));
        }
        if let Some(named) = self.named()? {
            return Ok(named);
        }
        let named = self.workload.as_deref();
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

    /// A built-in workload, by its name; `None` if a file or a folder was named.
    fn named(&self) -> anyhow::Result<Option<Requests>> {
        let Some(name) = self.workload.as_deref().and_then(Path::to_str) else { return Ok(None) };
        let form = match name {
            "iris" => Some(Form::TfServing),
            "oip-iris" => Some(Form::OpenInference),
            _ => None,
        };
        if let Some(form) = form {
            let (route, items, reading) = (form.route(), form.items()?, form.reading());
            return Ok(Some(Requests { route, items, reading }));
        }
        let Ok(seed) = Seed::from_str(name, false) else { return Ok(None) };
        let items = seed.items(self.servers, &self.image_url)?;
        Ok(Some(Requests { route: seed.route(), items, reading: seed.reading() }))
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
    Item::new("get", Method::GET, Bytes::new(), None)
}

fn json_bodies(file: &Path) -> anyhow::Result<Vec<Item>> {
    let shown = file.display().to_string();
    let text = input::read_text(file, custom::MAX_BODY)?;
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
        let json = HeaderValue::from_static("application/json");
        let body = Bytes::from((*body).to_owned());
        Ok(Item::new(&format!("body-{}", number + 1), Method::POST, body, Some(json)))
    };
    bodies.iter().enumerate().map(item).collect()
}
