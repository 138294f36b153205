//! The `resources` table, compiled: which kind of resource a request touches, and what it does to it.
//!
//! In: host, decoded segments and method of a normalised request. Out: the first matching row, or [`Resource::UNLISTED`].
//! What must stay true: no spelling of a path that a back end may read as a listed one is rated below that one. So a trailing slash
//! does not count, and a path with `;` parameters is looked up with and without them and the harsher answer stands.

use super::{HostPattern, Resource, ResourceRule};

/// The compiled rows of `resources`.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    hosts: Vec<HostPattern>,
    path: Option<Vec<Segment>>,
    methods: Vec<String>,
    rule: ResourceRule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Exact(String),
    One,
    Rest,
}

impl Resources {
    /// Compiles the rows of a configuration.
    ///
    /// # Errors
    ///
    /// Names every row that could not match what it seems to say.
    pub fn new(rules: &[ResourceRule]) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut rows = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let mut wrong = |key: &str, what: String| mistakes.push(format!("resources[{index}].match.{key}: {what}"));
            let mut hosts = Vec::new();
            for text in &rule.r#match.hosts {
                match text.parse::<HostPattern>() {
                    Ok(pattern) => hosts.push(pattern),
                    Err(error) => wrong("hosts", error.to_string()),
                }
            }
            for method in rule.r#match.methods.iter().filter(|method| !is_method(method)) {
                wrong("methods", format!("`{method}` is not a method; methods are case-sensitive, write GET"));
            }
            let path = rule.r#match.path.as_deref().map(compile).transpose().unwrap_or_else(|what| {
                wrong("path", what);
                None
            });
            rows.push(Row { hosts, path, methods: rule.r#match.methods.clone(), rule: rule.clone() });
        }
        if mistakes.is_empty() { Ok(Self { rows }) } else { Err(mistakes) }
    }

    /// The resource a request touches.
    pub fn find(&self, host: &str, segments: &[String], method: &str) -> Resource<'_> {
        let segments = match segments {
            [before @ .., last] if last.is_empty() => before,
            all => all,
        };
        let as_sent = self.first(host, segments.iter().map(String::as_str), method);
        if !segments.iter().any(|segment| segment.contains(';')) {
            return as_sent;
        }
        let plain = self.first(host, segments.iter().map(|segment| without_parameters(segment)), method);
        if (plain.sensitivity, plain.effect) > (as_sent.sensitivity, as_sent.effect) { plain } else { as_sent }
    }

    fn first<'a>(&self, host: &str, segments: impl Iterator<Item = &'a str> + Clone, method: &str) -> Resource<'_> {
        let row = self.rows.iter().find(|row| {
            (row.methods.is_empty() || row.methods.iter().any(|wanted| wanted == method))
                && (row.hosts.is_empty() || row.hosts.iter().any(|pattern| pattern.matches(host)))
                && row.path.as_deref().is_none_or(|pattern| matches(pattern, segments.clone()))
        });
        row.map_or(Resource::UNLISTED, |Row { rule, .. }| Resource {
            r#type: &rule.r#type,
            sensitivity: rule.sensitivity,
            effect: rule.effect,
        })
    }
}

/// A path in which a whole segment may be `*` and the last one `**`, for rules beside the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern(Vec<Segment>);

impl PathPattern {
    /// True for decoded segments the pattern names, in any of the spellings the table above takes for one path.
    pub fn matches(&self, segments: &[String]) -> bool {
        let segments = match segments {
            [before @ .., last] if last.is_empty() => before,
            all => all,
        };
        matches(&self.0, segments.iter().map(String::as_str))
            || matches(&self.0, segments.iter().map(|segment| without_parameters(segment)))
    }
}

impl std::str::FromStr for PathPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        compile(text).map(Self)
    }
}

fn matches<'a>(pattern: &[Segment], mut found: impl Iterator<Item = &'a str>) -> bool {
    for segment in pattern {
        match (segment, found.next()) {
            (Segment::Rest, _) => return true,
            (Segment::One, Some(_)) => {}
            (Segment::Exact(wanted), Some(text)) if wanted == text => {}
            (Segment::One | Segment::Exact(_), _) => return false,
        }
    }
    found.next().is_none()
}

fn without_parameters(segment: &str) -> &str {
    segment.split_once(';').map_or(segment, |(name, _)| name)
}

fn is_method(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

fn compile(text: &str) -> Result<Vec<Segment>, String> {
    let wrong = |why: &str| format!("`{text}` is not a path pattern: {why}; write /v1/users, /v1/users/* or /v1/**");
    let rest = text.strip_prefix('/').ok_or_else(|| wrong("it does not start with /"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let mut segments = Vec::new();
    if rest.is_empty() {
        return Ok(segments);
    }
    for part in rest.split('/') {
        if segments.last() == Some(&Segment::Rest) {
            return Err(wrong("`**` may only stand last"));
        }
        segments.push(match part {
            "**" => Segment::Rest,
            "*" => Segment::One,
            "" | "." | ".." => return Err(wrong("a normalised path has no empty or dot segments")),
            part if part.contains('*') => return Err(wrong("a star must be a whole segment")),
            part if part.contains(['%', '?', '#', '\\']) => return Err(wrong("patterns name decoded segments, without a query")),
            part => Segment::Exact(part.to_owned()),
        });
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::super::{Effect, ResourceMatch, Sensitivity};
    use super::*;

    fn rule(path: &str, methods: &[&str], r#type: &str, sensitivity: Sensitivity, effect: Effect) -> ResourceRule {
        let methods = methods.iter().map(|&method| method.to_owned()).collect();
        let r#match = ResourceMatch { hosts: Vec::new(), path: Some(path.to_owned()), methods };
        ResourceRule { r#match, r#type: r#type.to_owned(), sensitivity, effect }
    }

    fn segments(path: &str) -> Vec<String> {
        path.split('/').skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn the_first_matching_row_counts_and_what_is_unlisted_is_the_most_sensitive() {
        let table = Resources::new(&[
            rule("/v1/users/*", &["DELETE"], "user", Sensitivity::High, Effect::Destroy),
            rule("/v1/users/*", &[], "user", Sensitivity::Medium, Effect::Write),
            rule("/v1/public/**", &["GET"], "page", Sensitivity::Low, Effect::Read),
            rule("/", &["GET"], "index", Sensitivity::Low, Effect::Read),
        ])
        .unwrap();
        let cases = [
            ("DELETE", "/v1/users/7", "user", Effect::Destroy),
            ("GET", "/v1/users/7", "user", Effect::Write),
            ("GET", "/v1/users/7/", "user", Effect::Write),
            ("GET", "/v1/users", "unlisted", Effect::Destroy),
            ("GET", "/v1/users/7/keys", "unlisted", Effect::Destroy),
            ("GET", "/v1/public", "page", Effect::Read),
            ("GET", "/v1/public/a/b/c", "page", Effect::Read),
            ("get", "/v1/public/a", "unlisted", Effect::Destroy),
            ("GET", "/v1/publicity", "unlisted", Effect::Destroy),
        ];
        for (method, path, r#type, effect) in cases {
            let found = table.find("any.example", &segments(path), method);
            assert_eq!((found.r#type, found.effect), (r#type, effect), "{method} {path}");
        }
        assert_eq!(table.find("any.example", &[], "GET").r#type, "index");
        assert_eq!(Resources::default().find("any.example", &[], "GET"), Resource::UNLISTED);
    }

    #[test]
    fn parameters_never_lower_the_rating() {
        let table = Resources::new(&[
            rule("/v1/users/*", &[], "user", Sensitivity::High, Effect::Write),
            rule("/**", &[], "rest", Sensitivity::Low, Effect::Read),
        ])
        .unwrap();
        assert_eq!(table.find("h", &segments("/v1/users;x=1/7"), "GET").r#type, "user");
        assert_eq!(table.find("h", &segments("/v1/other;x=1/7"), "GET").r#type, "rest");
        let strict = Resources::new(&[rule("/v1/public/*", &[], "page", Sensitivity::Low, Effect::Read)]).unwrap();
        assert_eq!(strict.find("h", &segments("/v1/public;x/7"), "GET"), Resource::UNLISTED);
    }

    #[test]
    fn hosts_narrow_a_row() {
        let mut row = rule("/**", &[], "payroll", Sensitivity::Medium, Effect::Read);
        row.r#match.hosts = vec!["*.example.org".to_owned()];
        let table = Resources::new(&[row]).unwrap();
        assert_eq!(table.find("pay.example.org", &segments("/x"), "GET").r#type, "payroll");
        assert_eq!(table.find("pay.example.com", &segments("/x"), "GET").r#type, "unlisted");
    }

    #[test]
    fn every_bad_pattern_is_named_at_once() {
        let mut bad_host = rule("/x", &["get"], "a", Sensitivity::Low, Effect::Read);
        bad_host.r#match.hosts = vec!["a..b".to_owned()];
        let mut rules = vec![bad_host];
        for path in ["v1", "/a*/b", "/**/x", "/a//b", "/a/../b", "/a%20b", "/a?b", "/a#b", "/a\\b"] {
            rules.push(rule(path, &[], "a", Sensitivity::Low, Effect::Read));
        }
        let mistakes = Resources::new(&rules).unwrap_err();
        assert_eq!(mistakes.len(), 2 + 9, "{mistakes:#?}");
        assert!(mistakes[0].starts_with("resources[0].match.hosts: `a..b`"), "{mistakes:#?}");
        assert!(mistakes[2].starts_with("resources[1].match.path: `v1`"), "{mistakes:#?}");
    }
}
