//! `upstreams`: what the configuration says of a place requests go to, and what is made of it.
//!
//! In: the configuration. Out: an [`Upstream`], or the mistake and what to write instead. What must stay true: an https endpoint
//! always says whom it expects there. A server that is merely "some TLS server" is anybody, and the request carries the caller's name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spiffe::Pattern;
use crate::tls::{self, IdentityError};
use crate::units::Span;

/// One of `upstreams`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// http://host:port or https://host:port; a name is resolved again for every new connection.
    pub endpoint: String,
    /// http1, h2 (over http:// with prior knowledge), or auto: what the TLS handshake agrees on. Default: http1, auto for https.
    #[serde(default)]
    pub protocol: Option<ProtocolConfig>,
    /// Whom to expect behind an https endpoint.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// The environment it stands in, when it is not the gate's own.
    #[serde(default)]
    pub environment: Option<String>,
    #[serde(default = "two_seconds")]
    pub connect_timeout: Span,
    /// From the end of the request to the response head.
    #[serde(default = "half_a_minute")]
    pub response_timeout: Span,
    /// Without a byte either way while bodies flow.
    #[serde(default = "five_minutes")]
    pub idle_timeout: Span,
}

/// Whom to expect behind an https endpoint: workloads by their SPIFFE IDs, or an ordinary server by its name.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Who may answer, each exact or a pattern. We present our own SVID to them.
    #[serde(default)]
    pub spiffe_ids: Vec<Pattern>,
    /// The TLS server name that is asked for, and verified where `ca` is given; the endpoint's host when absent.
    #[serde(default)]
    pub server_name: Option<String>,
    /// PEM file with the CA certificates that vouch for a server that has no SPIFFE ID. It is shown no certificate of ours.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// What is spoken with an upstream.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ProtocolConfig {
    Http1,
    H2,
    Auto,
}

fn two_seconds() -> Span {
    Span::seconds(2)
}

fn half_a_minute() -> Span {
    Span::seconds(30)
}

fn five_minutes() -> Span {
    Span::seconds(300)
}

/// Why an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("endpoint: `{0}` is neither http:// nor https://; write http://host:port or https://host:port")]
    Scheme(String),
    #[error("endpoint: `{0}` is not an endpoint; write http://host:port, without a path")]
    Form(String),
    #[error("tls: an https endpoint needs to know whom to expect; write `tls: {{spiffe_ids: [...]}}`, or `tls: {{ca: file.pem}}`")]
    NobodyExpected,
    #[error("tls: `spiffe_ids` and `ca` are two ways to know a server; write one of them")]
    TwoProofs,
    #[error("tls: the endpoint is http, and speaks no TLS; write https://host:port, or leave `tls` out")]
    PlainTls,
    #[error("protocol: `auto` is agreed on in the TLS handshake, and the endpoint is http; write http1 or h2")]
    PlainAuto,
    #[error("tls.server_name: `{0}` is not a host name")]
    ServerName(String),
    #[error("tls.ca: {0}")]
    Authorities(#[from] IdentityError),
}

/// `scheme://host:port` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) secure: bool,
}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let form = || ConfigError::Form(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| form())?;
        let (secure, default) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(ConfigError::Scheme(text.to_owned())),
        };
        let authority = uri.authority().ok_or_else(form)?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(form());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: authority.port_u16().unwrap_or(default), secure })
    }
}

/// What is spoken on a connection, or that the TLS handshake says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    Http2,
    Either,
}

/// Whom a TLS connection must reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub server_name: ServerName<'static>,
    pub proof: Proof,
}

/// What a server proves itself by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    SpiffeIds(Vec<Pattern>),
    /// The server name, vouched for by a CA in this file. It is read at each handshake, as our own SVID is.
    Authorities(PathBuf),
}

/// How an upstream is reached. Those for whom it is the same share their connections, and nobody else does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub host: String,
    pub port: u16,
    pub tls: Option<Expected>,
    pub speaks: Speaks,
    /// Addresses that were judged; the host is then not looked up.
    pub pinned: Option<Arc<[SocketAddr]>>,
}

impl Way {
    fn new(config: &Config) -> Result<Self, ConfigError> {
        let Endpoint { host, port, secure } = Endpoint::parse(&config.endpoint)?;
        let tls = match (&config.tls, secure) {
            (None, false) => None,
            (Some(_), false) => return Err(ConfigError::PlainTls),
            (None, true) => return Err(ConfigError::NobodyExpected),
            (Some(tls), true) => Some(Expected::new(tls, &host)?),
        };
        let speaks = match (config.protocol, secure) {
            (Some(ProtocolConfig::Auto), false) => return Err(ConfigError::PlainAuto),
            (Some(ProtocolConfig::Auto) | None, true) => Speaks::Either,
            (Some(ProtocolConfig::H2), _) => Speaks::Http2,
            (Some(ProtocolConfig::Http1), _) | (None, false) => Speaks::Http1,
        };
        Ok(Self { host, port, tls, speaks, pinned: None })
    }
}

impl Expected {
    fn new(config: &TlsConfig, host: &str) -> Result<Self, ConfigError> {
        let name = config.server_name.as_deref().unwrap_or(host);
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| ConfigError::ServerName(name.to_owned()))?;
        let proof = match (&config.ca, config.spiffe_ids.is_empty()) {
            (None, false) => Proof::SpiffeIds(config.spiffe_ids.clone()),
            (Some(file), true) => Proof::Authorities(file.clone()),
            (Some(_), false) => return Err(ConfigError::TwoProofs),
            (None, true) => return Err(ConfigError::NobodyExpected),
        };
        Ok(Self { server_name, proof })
    }
}

/// One of `upstreams`, ready to be called.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub name: Arc<str>,
    pub way: Arc<Way>,
    pub environment: Option<String>,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    pub idle_timeout: Duration,
}

impl Upstream {
    /// Makes it ready; reads no file.
    ///
    /// # Errors
    /// The first mistake in it.
    pub fn new(name: &str, config: &Config) -> Result<Self, ConfigError> {
        Ok(Self {
            name: Arc::from(name),
            way: Arc::new(Way::new(config)?),
            environment: config.environment.clone(),
            connect_timeout: config.connect_timeout.0,
            response_timeout: config.response_timeout.0,
            idle_timeout: config.idle_timeout.0,
        })
    }

    /// An upstream that stands nowhere until each request says where: [`Upstream::at`].
    pub fn anywhere(name: &str, connect: Span, response: Span, idle: Span) -> Self {
        let way = Way { host: String::new(), port: 0, tls: None, speaks: Speaks::Http1, pinned: Some(Arc::new([])) };
        Self {
            name: Arc::from(name),
            way: Arc::new(way),
            environment: None,
            connect_timeout: connect.0,
            response_timeout: response.0,
            idle_timeout: idle.0,
        }
    }

    /// The same upstream at addresses that were judged.
    #[must_use]
    pub fn at(&self, host: &str, port: u16, addresses: &Arc<[SocketAddr]>) -> Self {
        let way = Way { host: host.to_owned(), port, pinned: Some(Arc::clone(addresses)), ..(*self.way).clone() };
        Self { way: Arc::new(way), ..self.clone() }
    }

    /// Looks into the files it names.
    ///
    /// # Errors
    /// What is wrong with one.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        match self.way.tls.as_ref().map(|expected| &expected.proof) {
            Some(Proof::Authorities(file)) => Ok(tls::authorities(file).map(drop)?),
            Some(Proof::SpiffeIds(_)) | None => Ok(()),
        }
    }

    /// A copy that shares no reference count with the original.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { name: Arc::from(&*self.name), way: Arc::new((*self.way).clone()), ..self.clone() }
    }
}
