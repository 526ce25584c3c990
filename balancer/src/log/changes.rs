//! State changes of the endpoints as log lines.

use fleet::{Change, Changes, What};

/// Logs what changed, for operators.
pub(crate) fn tell(changes: &Changes) {
    changes.iter().for_each(tell_one);
}

fn tell_one(change: &Change) {
    let endpoint = &*change.endpoint;
    match &change.what {
        What::Added(address) => tracing::info!(endpoint, %address, "endpoint added"),
        What::Removed => tracing::info!(endpoint, "endpoint removed"),
        What::Restored { is_draining, weight } => {
            tracing::info!(
                endpoint,
                is_draining,
                weight,
                "endpoint restored as operators had set it"
            );
        }
        What::LeftOut(worker) => tracing::warn!(worker = &**worker, "worker left out"),
        What::Down(reason) => tracing::warn!(endpoint, reason = &**reason, "endpoint down"),
        What::Ejected { reason, time } => {
            let seconds = time.as_secs();
            tracing::warn!(endpoint, reason = &**reason, seconds, "endpoint ejected");
        }
        What::Readmitted => tracing::info!(endpoint, "endpoint readmitted"),
        What::Up => tracing::info!(endpoint, "endpoint up"),
        What::Other(state) => tracing::info!(endpoint, state, "endpoint changed"),
        What::PanicMode { available, all } => {
            tracing::warn!(available, all, "panic mode: ejected endpoints are used again");
        }
    }
}
