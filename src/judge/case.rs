//! One question put to the judge: everything a policy may know of a request, borrowed from where it lives.
//!
//! Frozen parts come from the request as it was admitted, live parts from now; `facts.rs` says which is which. What a connection
//! never changes is made into values once ([`ConnectionFacts`]) and shared by its exchanges.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use regorus::Value;

use super::Networks;
use crate::action::Action;
use crate::anomaly::Reading;
use crate::decision::Phase;
use crate::session::View;
use crate::spiffe::SpiffeId;

/// Everything a policy may know, now.
#[derive(Debug)]
pub struct Case<'a> {
    pub phase: Phase,
    pub environment: &'a str,
    pub exchange_id: &'a str,
    pub request: RequestFacts<'a>,
    pub body: BodyFacts<'a>,
    pub resource: ResourceFacts<'a>,
    pub route: RouteFacts<'a>,
    pub connection: &'a ConnectionFacts,
    /// Beside an agent only.
    pub destination: Option<DestinationFacts<'a>>,
    pub workload: Option<WorkloadFacts<'a>>,
    pub session_id: &'a str,
    pub session: &'a View,
    pub anomaly: Suspicion<'a>,
    pub progress: Progress,
    /// Since the Unix epoch.
    pub now: Duration,
    /// When the request came, since the Unix epoch.
    pub began: Duration,
    /// Name → open now.
    pub windows: &'a BTreeMap<String, bool>,
}

/// The normalised request.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    pub method: &'a str,
    pub scheme: &'a str,
    pub host: &'a str,
    pub port: u16,
    pub path: &'a str,
    pub segments: &'a [String],
    pub raw_query: Option<&'a str>,
    pub query: &'a [(String, String)],
    pub headers: &'a HeaderMap,
    /// Bytes of the body, when known.
    pub size: Option<u64>,
    pub protocol: &'a str,
    pub rewritten: bool,
    pub action: Action<'a>,
}

/// The body, where the policy reads it.
#[derive(Clone, Copy, Debug, Default)]
pub struct BodyFacts<'a> {
    pub text: Option<&'a str>,
    pub json: Option<&'a Value>,
    pub form: Option<&'a Value>,
}

#[derive(Clone, Copy, Debug)]
pub struct ResourceFacts<'a> {
    pub r#type: &'a str,
    pub sensitivity: &'a str,
    pub effect: &'a str,
    pub environment: &'a str,
}

#[derive(Clone, Copy, Debug)]
pub struct RouteFacts<'a> {
    pub listener: &'a str,
    pub name: &'a str,
    pub upstream: &'a str,
}

/// Where a request of an agent goes.
#[derive(Clone, Copy, Debug)]
pub struct DestinationFacts<'a> {
    pub host: &'a str,
    pub port: u16,
    /// All the name has; the connection goes to one of them.
    pub addresses: &'a [SocketAddr],
    /// One of them is not public.
    pub private: bool,
    /// What a tunnel's TLS asks for, once it has begun.
    pub sni: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
pub struct WorkloadFacts<'a> {
    pub owner: &'a str,
    pub kind: &'a str,
    pub class: Option<&'a str>,
}

/// What anomaly rules say of the session: read only where a policy asks, because it costs a lock.
#[derive(Clone, Copy)]
pub struct Suspicion<'a>(pub &'a dyn Fn() -> Option<Reading>);

impl Suspicion<'_> {
    /// `None` where there are no rules.
    pub fn read(&self) -> Option<Reading> {
        (self.0)()
    }
}

impl fmt::Debug for Suspicion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

/// How far an exchange has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub age: Duration,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What a connection proves once and for all its exchanges.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    pub connection: Value,
    pub peer: Value,
    pub principal: Value,
    pub envoy_source: Value,
    pub envoy_destination: Value,
    pub server_name: Option<Value>,
}

/// The parts of a peer's certificate that policies see.
#[derive(Clone, Copy, Debug)]
pub struct CertificateFacts<'a> {
    pub serial: &'a str,
    pub sha256: &'a str,
    pub not_after: u64,
    pub lifetime_seconds: u64,
}

impl ConnectionFacts {
    /// Builds the values once a connection.
    pub fn new(
        peer: &SpiffeId,
        certificate: CertificateFacts<'_>,
        (remote, local): (SocketAddr, SocketAddr),
        server_name: Option<&str>,
        our_id: &str,
        proof: &str,
        lists: &Networks,
    ) -> Self {
        let address = remote.ip().to_canonical();
        let lists: Vec<Value> = lists.naming(address).map(Value::from).collect();
        let mut connection = vec![
            ("address", Value::from(address.to_string())),
            ("port", Value::from(u64::from(remote.port()))),
            ("lists", Value::from(lists)),
        ];
        connection.extend(server_name.map(|name| ("sni", Value::from(name))));
        let segments: Vec<Value> = peer.path().split('/').skip(1).map(Value::from).collect();
        let certificate = object([
            ("serial", Value::from(certificate.serial)),
            ("sha256", Value::from(certificate.sha256)),
            ("not_after", Value::from(certificate.not_after)),
            ("lifetime_seconds", Value::from(certificate.lifetime_seconds)),
        ]);
        let principal = Value::from(peer.to_string());
        let envoy = |address: SocketAddr, principal: Value| object([("address", envoy_address(address)), ("principal", principal)]);
        Self {
            connection: object(connection),
            peer: object([
                ("spiffe_id", principal.clone()),
                ("trust_domain", Value::from(peer.trust_domain_name())),
                ("segments", Value::from(segments)),
                ("proof", Value::from(proof)),
                ("certificate", certificate),
            ]),
            envoy_source: envoy(remote, principal.clone()),
            envoy_destination: envoy(local, Value::from(our_id)),
            principal,
            server_name: server_name.map(|name| object([("sni", Value::from(name))])),
        }
    }
}

/// A socket address as Envoy writes it.
pub(super) fn envoy_address(address: SocketAddr) -> Value {
    let socket = object([
        ("address", Value::from(address.ip().to_canonical().to_string())),
        ("portValue", Value::from(u64::from(address.port()))),
    ]);
    object([("socketAddress", socket)])
}

/// An object value of named parts.
pub(super) fn object<'k>(parts: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    Value::from(parts.into_iter().map(|(key, value)| (Value::from(key), value)).collect::<BTreeMap<_, _>>())
}
