//! Beside an agent: which entry of `destinations` takes a request, and whether the addresses its name has may be reached.
//!
//! In: host and port of a normalised request. Out: the first entry that names both; the addresses of the name, looked up once and
//! before the judge is asked; or why it is refused. What must stay true: nothing is looked up for a host that no entry names, every
//! address must be permitted and not only the one that would be used, and the permission is asked anew with the settings in force.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::VIA;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::EnforcementConfig;
use super::normalise::Request;
use super::open::Open;
use super::respond::Stop;
use crate::action::HostPattern;
use crate::decision::Refusal;
use crate::destination::{self, Permit};
use crate::policy::ResultShape;
use crate::units::Span;

/// One of a listener's `destinations`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DestinationConfig {
    pub name: String,
    /// Exact names, `*.example.org` for any one label, addresses, or `*`.
    pub hosts: Vec<String>,
    #[serde(default = "web")]
    pub ports: Vec<u16>,
    /// Private networks too (RFC 1918, RFC 6598, RFC 4193); loopback, link-local and the rest only where `cidrs` names them.
    #[serde(default)]
    pub allow_private: bool,
    /// Networks that are not public and may be reached all the same.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub cidrs: Vec<IpNet>,
    /// What a tunnel must begin with; `if_tls` for port 443 when absent, else `ignore`.
    #[serde(default)]
    pub sni: Option<SniConfig>,
    /// TLS server names a tunnel may ask for besides its host.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// For the name's addresses, and for one of them to accept.
    #[serde(default = "five_seconds")]
    pub connect_timeout: Span,
    /// From the end of the request to the response head; not for tunnels.
    #[serde(default = "half_a_minute")]
    pub response_timeout: Span,
    /// Without a byte either way.
    #[serde(default = "five_minutes")]
    pub idle_timeout: Span,
    /// The listener's own when absent.
    #[serde(default)]
    pub enforcement: Option<EnforcementConfig>,
    /// Another rule than `policy.decision`.
    #[serde(default)]
    pub decision: Option<String>,
    #[serde(default)]
    pub result: Option<ResultShape>,
}

/// Whether the TLS server name of a tunnel is looked at.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SniConfig {
    /// It must be TLS and name the host.
    Required,
    /// If it is TLS and names a host, it must be the tunnel's.
    IfTls,
    /// Nothing is looked at, and nothing is waited for: protocols in which the server speaks first.
    Ignore,
}

fn web() -> Vec<u16> {
    vec![443, 80]
}

fn five_seconds() -> Span {
    Span::seconds(5)
}

fn half_a_minute() -> Span {
    Span::seconds(30)
}

fn five_minutes() -> Span {
    Span::seconds(300)
}

/// The compiled destinations of a listener, in the order they were written.
#[derive(Clone, Debug)]
pub struct Destinations {
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    hosts: Vec<HostPattern>,
    ports: Vec<u16>,
}

/// What an entry says about the requests it takes.
#[derive(Clone, Debug)]
pub struct Rule {
    permit: Permit,
    sni: Option<SniConfig>,
    server_names: Vec<HostPattern>,
}

impl Destinations {
    /// Compiles the destinations of a listener, with a rule each.
    ///
    /// # Errors
    ///
    /// Names every entry whose hosts could not match what they seem to say.
    pub fn new(entries: &[DestinationConfig]) -> Result<(Self, Vec<Rule>), Vec<String>> {
        let (mut rows, mut rules, mut mistakes) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries {
            let mut patterns = |key: &str, texts: &[String]| {
                let mut read = Vec::new();
                for text in texts {
                    match text.parse::<HostPattern>() {
                        Ok(pattern) => read.push(pattern),
                        Err(error) => mistakes.push(format!("destination `{}`: {key}: {error}", entry.name)),
                    }
                }
                read
            };
            rows.push(Row { hosts: patterns("hosts", &entry.hosts), ports: entry.ports.clone() });
            rules.push(Rule {
                permit: Permit { private: entry.allow_private, networks: entry.cidrs.clone() },
                sni: entry.sni,
                server_names: patterns("server_names", &entry.server_names),
            });
        }
        if mistakes.is_empty() { Ok((Self { rows }, rules)) } else { Err(mistakes) }
    }

    /// The index of the first entry that takes a normalised host and port.
    pub fn find(&self, host: &str, port: u16) -> Option<usize> {
        self.rows.iter().position(|row| row.ports.contains(&port) && row.hosts.iter().any(|pattern| pattern.matches(host)))
    }
}

impl Rule {
    /// Whether all of a destination's addresses may be reached, and none of them is the gate itself.
    ///
    /// # Errors
    ///
    /// The refusal for the first that may not.
    pub fn check(&self, addresses: &[SocketAddr], own: &[SocketAddr]) -> Result<(), Refusal> {
        if addresses.iter().any(|address| destination::is_our_own(*address, own)) {
            return Err(Refusal::Loop);
        }
        if addresses.iter().all(|address| self.permit.allows(address.ip())) { Ok(()) } else { Err(Refusal::DestinationPrivate) }
    }

    /// What the first bytes of a tunnel to this port must be.
    pub fn sni(&self, port: u16) -> SniConfig {
        self.sni.unwrap_or(if port == 443 { SniConfig::IfTls } else { SniConfig::Ignore })
    }

    /// Whether a tunnel to this host may ask for this TLS server name.
    pub fn takes_server_name(&self, name: &str, host: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        name == host || self.server_names.iter().any(|pattern| pattern.matches(name))
    }
}

/// Gates a request may have passed before it is taken for one that goes round. `Via` names them (RFC 9110 section 7.6.3); more than a
/// few of ours in a row are a circle and not a chain.
const GATES_PASSED: usize = 4;

/// Refuses a request that goes round.
pub(super) fn passes_too_many(request: &Request) -> bool {
    let entries = request.headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    entries.filter(|entry| entry.split_ascii_whitespace().nth(1) == Some("portcullis")).count() > GATES_PASSED
}

/// The addresses of a request's destination, looked up once.
///
/// # Errors
///
/// When its name has none, or nobody says them in time.
pub(super) async fn addresses(open: &Open, request: &Request, within: Span) -> Result<Arc<[SocketAddr]>, Stop> {
    let resolver = &open.worker.resolver;
    match resolver.resolve(&request.host, Instant::now(), within.0, destination::system).await {
        Ok(found) => Ok(found.iter().map(|address| SocketAddr::new(*address, request.port)).collect()),
        Err(error) => {
            open.story(|story| story.fault = Some(format!("resolving the destination's name: {error}")));
            Err(Stop::Refused(Refusal::DestinationUnresolved))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> DestinationConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_first_entry_that_names_host_and_port_takes_the_request() {
        let (destinations, _) = Destinations::new(&[
            entry(r#"{"name": "api", "hosts": ["api.example.com"]}"#),
            entry(r#"{"name": "internal", "hosts": ["*.internal", "[::1]"], "ports": [8080]}"#),
            entry(r#"{"name": "web", "hosts": ["*"], "ports": [80]}"#),
        ])
        .unwrap();
        let cases = [
            ("api.example.com", 443, Some(0)),
            ("api.example.com", 80, Some(0)),
            ("api.example.com", 22, None),
            ("a.internal", 8080, Some(1)),
            ("a.b.internal", 8080, None),
            ("[::1]", 8080, Some(1)),
            ("other.example", 80, Some(2)),
            ("other.example", 443, None),
        ];
        for (host, port, expected) in cases {
            assert_eq!(destinations.find(host, port), expected, "{host} {port}");
        }
        assert!(Destinations::new(&[entry(r#"{"name": "a", "hosts": ["a:1"], "server_names": ["*.*"]}"#)]).unwrap_err().len() == 2);
    }

    #[test]
    fn all_addresses_must_be_permitted_and_none_be_our_own() {
        let (_, rules) = Destinations::new(&[entry(r#"{"name": "a", "hosts": ["*"], "cidrs": ["127.0.0.0/8"]}"#)]).unwrap();
        let check = |addresses: &[&str]| {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            rules[0].check(&addresses, &["127.0.0.1:3128".parse().unwrap()])
        };
        assert_eq!(check(&["8.8.8.8:80", "127.0.0.1:80"]), Ok(()));
        // A name that has a public address and a private one is what a rebinding looks like.
        assert_eq!(check(&["8.8.8.8:80", "169.254.169.254:80"]), Err(Refusal::DestinationPrivate));
        assert_eq!(check(&["8.8.8.8:3128", "127.0.0.1:3128"]), Err(Refusal::Loop));
    }

    #[test]
    fn server_names_are_the_hosts_own_or_listed() {
        let json = r#"{"name": "a", "hosts": ["*"], "server_names": ["*.cdn.example"], "ports": [443, 22]}"#;
        let (_, rules) = Destinations::new(&[entry(json)]).unwrap();
        let takes = |name| rules[0].takes_server_name(name, "api.example.com");
        assert!(takes("api.example.com") && takes("api.example.com.") && takes("x.cdn.example"));
        assert!(!takes("evil.example") && !takes("x.y.cdn.example") && !takes(""));
        assert_eq!((rules[0].sni(443), rules[0].sni(22)), (SniConfig::IfTls, SniConfig::Ignore));
    }
}
