//! What kind of answer a client asks for.

use axum::http::{HeaderMap, header};

/// Whether the client asks for JSON by name; `*/*` and no header at all do not.
pub(super) fn names_json(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            kind.eq_ignore_ascii_case("application/json") && !refused
        })
}

#[cfg(test)]
mod tests {
    use super::names_json;
    use axum::http::{HeaderMap, HeaderValue, header};

    #[test]
    fn only_json_by_name_asks_for_json() {
        for (accept, wanted) in [
            ("application/json", true),
            ("text/plain, application/JSON;q=0.5", true),
            ("*/*", false),
            ("application/*", false),
            ("application/json;q=0, */*", false),
        ] {
            let value = HeaderValue::from_static(accept);
            let headers = HeaderMap::from_iter([(header::ACCEPT, value)]);
            assert_eq!(names_json(&headers), wanted, "{accept}");
        }
        assert!(!names_json(&HeaderMap::new()));
    }
}
