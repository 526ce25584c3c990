//! Metadata of the server and its models.

use axum::Json;
use serde_json::{Value, json};

use crate::api::signature::{Kind, TensorSpec, inputs, outputs};
use crate::serving::Served;

/// `GET /v2`.
pub(super) async fn server() -> Json<Value> {
    Json(json!({
        "name": "imagefleet",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["model_repository", "statistics", "binary_tensor_data", "model_configuration", "classification"],
    }))
}

/// Metadata of one version; `versions` are all that are ready.
pub(super) fn model(served: &Served, versions: &[u64]) -> Value {
    json!({
        "name": served.model,
        "versions": versions.iter().map(u64::to_string).collect::<Vec<_>>(),
        "platform": "candle",
        "inputs": tensors(&inputs(&served.version)),
        "outputs": tensors(&outputs(&served.version)),
    })
}

/// The part of Triton's model configuration that has a meaning here.
pub(super) fn config(served: &Served) -> Value {
    let manifest = &served.version.manifest;
    let typed = |specs: Vec<TensorSpec>| -> Vec<Value> {
        let one = |spec: &TensorSpec| {
            let unit = spec.shape.is_empty().then_some(1);
            let dims: Vec<usize> = spec.shape.iter().copied().chain(unit).collect();
            // Triton's own image client reads the pixel layout from this.
            let format = if dims.len() == 3 { "FORMAT_NHWC" } else { "FORMAT_NONE" };
            let kind = format!("TYPE_{}", triton_name(spec.kind));
            json!({"name": spec.name, "data_type": kind, "format": format, "dims": dims})
        };
        specs.iter().map(one).collect()
    };
    json!({
        "name": served.model,
        "platform": "candle",
        "max_batch_size": manifest.max_batch_size,
        "input": typed(inputs(&served.version)),
        "output": typed(outputs(&served.version)),
        "dynamic_batching": {
            "max_queue_delay_microseconds": u64::try_from(manifest.max_queue_delay.as_micros()).unwrap_or(u64::MAX),
        },
    })
}

fn triton_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "FP32",
        Kind::Text => "STRING",
    }
}

fn tensors(specs: &[TensorSpec]) -> Vec<Value> {
    let one = |spec: &TensorSpec| {
        let datatype = spec.kind.datatype().name();
        let sizes = spec.shape.iter().map(|size| json!(size));
        let shape: Vec<Value> = std::iter::once(json!(-1)).chain(sizes).collect();
        json!({"name": spec.name, "datatype": datatype, "shape": shape})
    };
    specs.iter().map(one).collect()
}
