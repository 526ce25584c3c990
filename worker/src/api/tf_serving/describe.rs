//! What TF Serving reports about a model: the states of its versions and its signature.

use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value, json};

use super::request::SIGNATURE;
use crate::api::signature::{Kind, TensorSpec, inputs, outputs};
use crate::serving::{Entry, Served, State, Status};

/// The states of some versions, newest first.
pub(super) fn states(entry: &Entry, only: Option<u64>) -> Option<String> {
    let rows: Vec<Value> = entry
        .states
        .iter()
        .rev()
        .filter(|(number, _)| only.is_none_or(|wanted| wanted == **number))
        .map(|(number, status)| state(*number, status))
        .collect();
    (!rows.is_empty()).then(|| indented(&json!({"model_version_status": rows})))
}

fn state(number: u64, status: &Status) -> Value {
    let name = match status.state {
        State::Loading => "LOADING",
        State::Ready => "AVAILABLE",
        State::Unloading => "UNLOADING",
        State::Unavailable => "END",
    };
    let code = if status.reason.is_empty() { "OK" } else { "INVALID_ARGUMENT" };
    json!({
        "version": number.to_string(),
        "state": name,
        "status": {"error_code": code, "error_message": status.reason},
    })
}

/// The signature of a version.
pub(super) fn metadata(served: &Served) -> String {
    let specs = |specs: Vec<TensorSpec>| -> Map<String, Value> {
        specs.into_iter().map(|spec| (spec.name.clone(), tensor(&spec))).collect()
    };
    indented(&json!({
        "model_spec": {
            "name": served.model,
            "signature_name": "",
            "version": served.number.to_string(),
        },
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: {
            "inputs": specs(inputs(&served.version)),
            "outputs": specs(outputs(&served.version)),
            "method_name": "tensorflow/serving/predict",
        }}}},
    }))
}

fn tensor(spec: &TensorSpec) -> Value {
    let dtype = match spec.kind {
        Kind::Float => "DT_FLOAT",
        Kind::Text => "DT_STRING",
    };
    let size = |size: String| json!({"size": size, "name": ""});
    let sizes = spec.shape.iter().map(usize::to_string);
    let dim: Vec<Value> = std::iter::once("-1".to_owned()).chain(sizes).map(size).collect();
    json!({
        "dtype": dtype,
        "tensor_shape": {"dim": dim, "unknown_rank": false},
        "name": format!("{}:0", spec.name),
    })
}

fn indented(value: &Value) -> String {
    let mut text = Vec::new();
    let mut writer =
        serde_json::Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    if value.serialize(&mut writer).is_err() {
        return value.to_string();
    }
    String::from_utf8(text).unwrap_or_default()
}
