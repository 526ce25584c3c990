//! Workers that join, renew their lease and leave.
//!
//! The public port takes these requests, so the token is checked before the body is read.

use std::net::IpAddr;

use http::{HeaderMap, request};
use hyper::body::Incoming;
use wire::join::{MAX_MEMBER, Member};
use wire::operator::Caller;

use super::collect::collect;
use super::request_log::RequestLog;
use super::{Done, local};
use crate::error::{Part, ProxyError};
use crate::headers::Origin;
use crate::joins::{JoinError, Joins};
use crate::route::Membership;

/// Answers a worker that joins, renews or leaves.
pub(super) async fn answer(
    wish: Membership,
    head: &request::Parts,
    body: &mut Incoming,
    request_log: &RequestLog,
) -> Result<Done, ProxyError> {
    let shard = request_log.shard();
    let joins = shard.shared.config.joins.as_deref().ok_or_else(|| {
        let text = "workers do not join here: the balancer runs without --accept-joins";
        ProxyError::NotFound(text.to_owned())
    })?;
    check(joins, &head.headers)?;
    let collected = collect(request_log, body).await?;
    let body = collected.payload().as_slice();
    if body.len() > MAX_MEMBER {
        return Err(ProxyError::TooLarge(Part::Body(MAX_MEMBER)));
    }
    let member: Member = serde_json::from_slice(body).map_err(|error| {
        ProxyError::BadRequest(format!("a worker joins as JSON: {error}").into())
    })?;
    match wish {
        Membership::Join => {
            let peer = peer(head, &request_log.client().origin);
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

/// The address that a request comes from; `None` if a proxy passed it on.
fn peer(head: &request::Parts, origin: &Origin) -> Option<IpAddr> {
    let caller = Caller { headers: &head.headers, uri: &head.uri };
    if origin.is_trusted || caller.check_direct().is_err() {
        return None;
    }
    origin.forwarded_for.to_str().ok()?.parse().ok()
}

fn refused(error: &JoinError) -> ProxyError {
    let text = error.to_string().into();
    match error {
        JoinError::Name | JoinError::Address(_) | JoinError::Unseen => ProxyError::BadRequest(text),
        JoinError::Taken { .. } | JoinError::Full => ProxyError::Conflict(text),
    }
}
