//! Who may load and unload models: programs, but not web pages.
//!
//! Balancers and tools may address a worker by any name. A browser sends requests on behalf of a
//! page, which may be of any site: one of another origin, or one whose name was made to point here.
//! Browsers announce this, and then only a page of this machine itself is obeyed.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use wire::operator::Caller;

use super::Problem;

/// Middleware for the routes that change what is served.
pub(super) async fn no_pages(request: Request, next: Next) -> Response {
    let caller = Caller { headers: request.headers(), uri: request.uri() };
    let checked = if caller.is_page() {
        caller.check_page().and_then(|()| caller.check_host(None, &[]))
    } else {
        Ok(())
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(stranger) => {
            let text = format!("models are loaded and unloaded by operators: {stranger}");
            Problem::Forbidden(text).into_response()
        }
    }
}
