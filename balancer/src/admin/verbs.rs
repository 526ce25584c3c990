//! The verbs of operators, which change the fleet.

use std::sync::Arc;

use fleet::policy::Kind;
use fleet::{Chosen, Event};
use http::StatusCode;
use tokio::time::Instant;

use crate::log::changes::tell;
use crate::shared::Shared;
use crate::supervisor::Kill;

/// Status and message of a verb that changed nothing.
pub(super) type Refusal = (StatusCode, String);

/// `POST /fleet/policy?name=p2c`, `/fleet/NAME/drain`, `/fleet/NAME/undrain`,
/// `/fleet/NAME/weight?value=3`, `/fleet/NAME/kill`
pub(super) fn change(shared: &Shared, path: &str, query: Option<&str>) -> Result<(), Refusal> {
    let unknown = || (StatusCode::NOT_FOUND, format!("there is no verb at {path}"));
    let rest = path.strip_prefix("/fleet/").ok_or_else(unknown)?;
    if rest == "policy" {
        return set_policy(shared, parameter(query, "name").unwrap_or_default());
    }
    let (name, verb) = rest.rsplit_once('/').ok_or_else(unknown)?;
    let name = &*message::decode_text(name).ok_or_else(unknown)?;
    let snapshot = shared.fleet.pool.snapshot();
    let endpoint = snapshot.all().iter().find(|endpoint| endpoint.name() == name);
    let endpoint = endpoint
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("there is no endpoint {name:?}")))?;
    match verb {
        "drain" => tell(&shared.fleet.pool.apply(endpoint, Event::Drain, Instant::now())),
        "undrain" => tell(&shared.fleet.pool.apply(endpoint, Event::Undrain, Instant::now())),
        "weight" => {
            let weight = parameter(query, "value").and_then(|value| value.parse().ok());
            let text = "weight?value=N takes a number from 0 to 1000";
            let weight: u32 = weight
                .filter(|weight| *weight <= 1000)
                .ok_or_else(|| (StatusCode::BAD_REQUEST, text.to_owned()))?;
            tell(&shared.fleet.pool.set_weight(endpoint, weight));
        }
        "kill" => kill(shared, name)?,
        _ => return Err(unknown()),
    }
    tracing::info!(endpoint = name, verb, "endpoint changed by an operator");
    Ok(())
}

/// For lessons: shows what clients notice when a worker crashes.
fn kill(shared: &Shared, name: &str) -> Result<(), Refusal> {
    let Some(supervisor) = shared.lessons() else {
        let text = "workers are killed only with --spawn and --lessons";
        return Err((StatusCode::FORBIDDEN, text.to_owned()));
    };
    let text = match supervisor.kill(name) {
        Kill::Done => return Ok(()),
        Kill::NoProcess => format!("{name} does not run at the moment: it is started again soon"),
        Kill::Unknown => format!("{name} is not a worker that this balancer has started"),
    };
    Err((StatusCode::CONFLICT, text))
}

fn set_policy(shared: &Shared, name: &str) -> Result<(), Refusal> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.into_iter().map(Kind::as_str).collect();
        (StatusCode::BAD_REQUEST, format!("policy?name= takes one of {}", names.join(", ")))
    })?;
    shared.fleet.policy.store(Arc::new(Chosen::new(kind)));
    tracing::info!(policy = name, "policy set by an operator");
    Ok(())
}

fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query?
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value)
}
