//! Which of a listener's routes takes a request.
//!
//! In: host and path of a normalised request. Out: the index of the first route whose hosts and path prefix match.
//! Prefixes go through the same normalisation as paths and match whole segments: `/v1` that took `/v10` would send a request to an
//! upstream, and judge it under a route, that nobody wrote down for it.

use crate::action::HostPattern;

use super::RouteConfig;
use super::normalise::path;

/// The compiled routes of a listener, in the order they were written.
#[derive(Clone, Debug)]
pub struct Routes {
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    hosts: Vec<HostPattern>,
    /// Without its trailing slash, so empty for `/`.
    prefix: String,
}

impl Routes {
    /// Compiles the routes of a listener.
    ///
    /// # Errors
    ///
    /// Names every route whose hosts or prefix could not match what they seem to say.
    pub fn new(routes: &[RouteConfig]) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut rows = Vec::with_capacity(routes.len());
        for route in routes {
            let mut wrong = |key: &str, what: String| mistakes.push(format!("route `{}`: {key}: {what}", route.name));
            if route.hosts.is_empty() {
                wrong("hosts", "no host can match an empty list; leave the key out or write \"*\"".to_owned());
            }
            let mut hosts = Vec::new();
            for text in &route.hosts {
                match text.parse::<HostPattern>() {
                    Ok(pattern) => hosts.push(pattern),
                    Err(error) => wrong("hosts", error.to_string()),
                }
            }
            let written = route.path_prefix.trim_end_matches('/');
            let prefix = match path::normalise(if written.is_empty() { "/" } else { written }) {
                Ok(path) => path.text.trim_end_matches('/').to_owned(),
                Err(refusal) => {
                    wrong("path_prefix", format!("`{}` is refused as a path ({refusal}); write /v1", route.path_prefix));
                    continue;
                }
            };
            rows.push(Row { hosts, prefix });
        }
        if mistakes.is_empty() { Ok(Self { rows }) } else { Err(mistakes) }
    }

    /// The index of the first route that takes a normalised host and path.
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        self.rows.iter().position(|row| prefix_matches(&row.prefix, path) && row.hosts.iter().any(|pattern| pattern.matches(host)))
    }
}

/// True when `pattern` (an exact name, `*.example.org` for any one label, or `*`) names the normalised `host`.
///
/// A text that is not a pattern names nothing.
pub fn host_matches(pattern: &str, host: &str) -> bool {
    pattern.parse::<HostPattern>().is_ok_and(|pattern| pattern.matches(host))
}

/// The root takes everything, `OPTIONS *` included.
fn prefix_matches(prefix: &str, path: &str) -> bool {
    prefix.is_empty() || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, hosts: &[&str], prefix: &str) -> RouteConfig {
        RouteConfig {
            name: name.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            path_prefix: prefix.to_owned(),
            upstream_host: "preserve".to_owned(),
            upstream: "u".to_owned(),
            enforcement: None,
            decision: None,
            result: None,
        }
    }

    #[test]
    fn the_first_route_whose_host_and_whole_segments_match_takes_the_request() {
        let routes = Routes::new(&[
            route("users", &["api.example.org"], "/v1/users"),
            route("v1", &["*.example.org"], "/v1/"),
            route("spaced", &["*"], "/a%20b"),
            route("all", &["gate.internal"], "/"),
        ])
        .unwrap();
        let cases = [
            ("api.example.org", "/v1/users", Some(0)),
            ("api.example.org", "/v1/users/", Some(0)),
            ("api.example.org", "/v1/users/7", Some(0)),
            ("api.example.org", "/v1/usersx", Some(1)),
            ("b.example.org", "/v1/users/7", Some(1)),
            ("b.example.org", "/v1", Some(1)),
            ("b.example.org", "/v10", None),
            ("b.example.org", "/", None),
            ("other", "/a%20b/c", Some(2)),
            ("gate.internal", "/", Some(3)),
            ("gate.internal", "*", Some(3)),
        ];
        for (host, path, expected) in cases {
            assert_eq!(routes.find(host, path), expected, "{host} {path}");
        }
    }

    #[test]
    fn a_route_that_cannot_match_is_named() {
        let mistakes = Routes::new(&[
            route("a", &[], "/"),
            route("b", &["x:1"], "/../up"),
            route("c", &["*"], "v1"),
            route("d", &["*"], "/x?y"),
        ])
        .unwrap_err();
        assert_eq!(mistakes.len(), 5, "{mistakes:#?}");
        assert!(mistakes[2].contains("route `b`: path_prefix") && mistakes[2].contains("path_above_root"), "{mistakes:#?}");
    }

    #[test]
    fn host_matches_reads_one_pattern() {
        assert!(host_matches("*.example.org", "a.example.org"));
        assert!(!host_matches("*.example.org", "a.b.example.org"));
        assert!(!host_matches("not a pattern", "not a pattern"));
    }
}
