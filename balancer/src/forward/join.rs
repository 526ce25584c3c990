//! Workers that join, renew their lease and leave.
//!
//! The token is looked at before the body is read, on a port that everybody reaches.

use std::net::IpAddr;

use http::{HeaderMap, request};
use hyper::body::Incoming;
use wire::join::{MAX_MEMBER, Member};

use super::collect::collect;
use super::trace::Trace;
use super::{Done, local};
use crate::discovery::{JoinError, Joins};
use crate::error::{Part, ProxyError};
use crate::headers::Origin;
use crate::route::Membership;

/// Answers a worker.
pub(super) async fn answer(
    wish: Membership,
    head: &request::Parts,
    body: &mut Incoming,
    trace: &Trace,
) -> Result<Done, ProxyError> {
    let lane = trace.lane();
    let joins = lane.shared.config.joins.as_deref().ok_or_else(|| {
        let text = "workers do not join here: the balancer runs without --accept-joins";
        ProxyError::NotFound(text.to_owned())
    })?;
    check(joins, &head.headers)?;
    let collected = collect(trace, body).await?;
    let body = collected.payload().as_slice();
    if body.len() > MAX_MEMBER {
        return Err(ProxyError::TooLarge(Part::Body(MAX_MEMBER)));
    }
    let member: Member = serde_json::from_slice(body).map_err(|error| {
        ProxyError::BadRequest(format!("a worker joins as JSON: {error}").into())
    })?;
    match wish {
        Membership::Join => {
            let peer = peer(&trace.client().origin, &member)?;
            let lease = joins.join(&member, peer).map_err(|error| refused(&error))?;
            Ok(Done::Local(local::json(&lease)))
        }
        Membership::Leave => {
            joins.leave(&member);
            Ok(Done::Local(local::json(&serde_json::json!({}))))
        }
    }
}

fn check(joins: &Joins, fields: &HeaderMap) -> Result<(), ProxyError> {
    joins.token().check(fields).map_err(|_| {
        let text =
            "a worker joins with the token of --join-token-file: Authorization: Bearer TOKEN";
        ProxyError::Unauthorized(text.into())
    })
}

/// Who asks. Behind a proxy that is not known a worker has to say where it is.
fn peer(origin: &Origin, member: &Member) -> Result<IpAddr, ProxyError> {
    let peer = origin.forwarded_for.to_str().ok().and_then(|address| address.parse().ok());
    peer.or(member.address.map(|address| address.ip())).ok_or_else(|| {
        let text = "it cannot be told where the worker is: name its address with --advertise";
        ProxyError::BadRequest(text.into())
    })
}

fn refused(error: &JoinError) -> ProxyError {
    let text = error.to_string().into();
    match error {
        JoinError::Name | JoinError::Address(_) => ProxyError::BadRequest(text),
        JoinError::Taken { .. } | JoinError::Full => ProxyError::Conflict(text),
    }
}
