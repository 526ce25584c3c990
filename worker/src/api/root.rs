//! `GET /`: what this is and how to use it, for a visitor with curl.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;

use super::App;

const USAGE: &str = "
Ask:
  curl --data-binary @image.png           /predict
  curl -F image=@photo.jpg                /predict?model=NAME&top_k=3
  curl -d '{\"instances\": [...]}'          /v1/models/NAME:predict
  GET /v2/models/NAME  GET /v2/health/ready  GET /metrics
";

/// Plain text, whatever the client accepts.
pub(super) async fn root(State(app): State<Arc<App>>) -> String {
    let mut text =
        concat!("imagefleet worker ", env!("CARGO_PKG_VERSION"), "\n\nModels:\n").to_owned();
    for (name, entry) in &app.snapshot.load().models {
        let versions: Vec<String> = entry.ready.keys().map(u64::to_string).collect();
        writeln!(text, "  {name} (version {})", versions.join(", ")).unwrap_or_default();
    }
    text.push_str(USAGE);
    text
}
