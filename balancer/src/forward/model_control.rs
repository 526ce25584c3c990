//! Model control: `load` and `unload` go to every endpoint that can be reached.
//!
//! To its clients the fleet is one server with one repository. Endpoints that take no requests are
//! included: without its last model no worker is ready, and a worker that missed a change would not
//! know of it when it comes back. Afterwards every endpoint is immediately asked which models it
//! serves, so that the next request already goes to the right ones. An `unload` takes a model away
//! from all clients, so only named clients may send one, and never through another proxy, whose
//! address says nothing about its clients.

use std::net::IpAddr;
use std::sync::Arc;

use fleet::Endpoint;
use futures_util::future::join_all;
use http::{StatusCode, request};
use wire::operator::Caller;

use super::attempt::{PreparedRequest, Reply};
use crate::config::Config;
use crate::error::ProxyError;
use crate::headers::Origin;
use crate::health;
use crate::permission::Denied;

/// Outcome of a load or unload at one endpoint.
type Outcome = Result<Box<Reply>, ProxyError>;

/// Refuses clients that may not load and unload; checked before the body is read.
pub(super) fn check(
    config: &Config,
    head: &request::Parts,
    origin: &Origin,
) -> Result<(), ProxyError> {
    let caller = Caller { headers: &head.headers, uri: &head.uri };
    config.permission.check_model_control(&caller, head.version, origin.local).map_err(
        |denied| {
            let text = format!("models are loaded and unloaded by operators: {denied}").into();
            match denied {
                Denied::Token => ProxyError::Unauthorized(text),
                Denied::Stranger(_) | Denied::OldVersion => ProxyError::Forbidden(text),
            }
        },
    )?;
    if !is_allowed(config, &caller, origin) {
        return Err(ProxyError::Forbidden(
            "load and unload are not allowed from this client: they come from the balancer's machine only, and not through a proxy, unless it runs with --model-control-from".into(),
        ));
    }
    Ok(())
}

/// Whether the client's address may load and unload models. If networks are listed, requests
/// through a proxy may not.
fn is_allowed(config: &Config, caller: &Caller<'_>, origin: &Origin) -> bool {
    if config.model_control_from.is_empty() {
        return true;
    }
    let address = origin.forwarded_for.to_str().ok();
    let address = address.and_then(|address| address.parse::<IpAddr>().ok());
    !origin.is_trusted
        && caller.check_direct().is_ok()
        && address.is_some_and(|address| config.allows_model_control_from(address))
}

/// Sends the request to all endpoints concurrently, each with the full time limit; returns the
/// worst outcome.
pub(super) async fn carry_out(prepared: &PreparedRequest<'_>) -> Outcome {
    let snapshot = prepared.shard.snapshot();
    let may_answer = |one: &&Arc<Endpoint>| !one.is_absent() && !one.is_mute();
    let asked = snapshot.all().iter().filter(may_answer);
    let outcomes = join_all(asked.map(|endpoint| send(prepared, endpoint))).await;
    let worst = outcomes.into_iter().flatten().reduce(|worst, outcome| {
        if outcome_rank(&outcome) > outcome_rank(&worst) { outcome } else { worst }
    });
    worst.unwrap_or(Err(ProxyError::Unavailable("no worker is available")))
}

/// Loads or unloads at one endpoint, and learns which models it then serves. `None` if it takes no
/// requests and does not answer this one either: its process may have ended.
async fn send(prepared: &PreparedRequest<'_>, endpoint: &Arc<Endpoint>) -> Option<Outcome> {
    let takes_requests = endpoint.state().is_available();
    let reply = prepared.send_to(endpoint).await;
    if reply.is_err() && !takes_requests {
        return None;
    }
    health::learn_models(&prepared.shard.shared, endpoint).await;
    Some(reply)
}

fn outcome_rank(outcome: &Outcome) -> u8 {
    match outcome {
        Ok(reply) => rank(reply.head.status),
        Err(error) => rank(error.status()),
    }
}

/// How much an answer counts: not every endpoint has every model, but a failure matters.
fn rank(status: StatusCode) -> u8 {
    match status {
        StatusCode::NOT_FOUND => 0,
        status if status.is_success() => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_outweighs_a_success_and_that_an_unknown_model() {
        let ranks = [404, 200, 400, 500].map(|code| StatusCode::from_u16(code).map(rank).ok());
        assert_eq!(ranks, [Some(0), Some(1), Some(2), Some(2)]);
    }
}
