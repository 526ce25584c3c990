//! What `client load` sends: pictures, prepared JSON bodies, or empty GETs.

use std::path::PathBuf;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Method};

use crate::error::Error;
use crate::experiment::Options;
use crate::workload::{Item, Reading, Workload, generated, pictures};

/// Flags that choose the requests.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkloadArgs {
    /// Folder of pictures, or one, sent in turn. With a labels.csv (columns file and label) the
    /// answers are checked. Default: one picture of 128 px, made here.
    #[arg(long, env = "CLIENT_IMAGES", value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Let the first N endpoints take part (form field `number_backend_servers`). Default: all.
    #[arg(long, env = "CLIENT_SERVERS", value_name = "N")]
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

impl WorkloadArgs {
    /// Reads the files and makes the requests.
    pub(super) fn build(&self, options: &Options) -> anyhow::Result<Workload> {
        let (route, items, reading) = if let Some(route) = &self.get {
            (route.as_str(), vec![empty_get()], Reading::Ignore)
        } else if let Some(file) = &self.json_body {
            let route = self.route.as_deref().unwrap_or_default();
            (route, json_bodies(file)?, Reading::Ignore)
        } else {
            (self.route.as_deref().unwrap_or(wire::path::SUBMIT), self.pictures()?, Reading::Label)
        };
        if !route.starts_with('/') {
            return Err(Error::Usage(format!("a route starts with /, not {route:?}")).into());
        }
        Ok(Workload::try_new(&options.target, route, items, reading)?)
    }

    fn pictures(&self) -> anyhow::Result<Vec<Item>> {
        let pictures = match &self.images {
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

fn json_bodies(file: &std::path::Path) -> anyhow::Result<Vec<Item>> {
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
