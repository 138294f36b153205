//! Services the gate itself calls over HTTP: where bundles are fetched from, and where records and reports go.
//!
//! In: `services` of the configuration, and a [`Call`]. Out: the whole [`Answer`], or why there is none. What must stay true: an answer is
//! held only up to the size its caller names, no call takes longer than it may, no redirect is followed (the credentials are the
//! service's, not those of whoever it points to), and no error, log or `Debug` holds a token. A connection a call: services are asked
//! once a minute, and a connection that was proven an hour ago would outlive the certificate it was proven by.

pub mod pause;
mod send;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use schemars::JsonSchema;
use serde::Deserialize;

pub use send::{Answer, Call, ServiceError};

use crate::spiffe::Pattern;
use crate::tls::Holder;
use crate::units::{Secret, Span};

/// One of `services`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// http://host:port/path or https://host:port/path; what is asked for is joined to it.
    pub url: String,
    /// How the gate proves itself to it.
    #[serde(default)]
    pub credentials: Credentials,
    /// Whom to expect behind an https url; any server the system's CAs vouch for when absent.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// For a connection, from the request to the head of the answer, and between two pieces of its body.
    #[serde(default = "ten_seconds")]
    pub timeout: Span,
}

/// How the gate proves itself to a service: by either of these, by both, or not at all.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Credentials {
    /// `Authorization: Bearer …`
    pub bearer: Option<Bearer>,
    /// own: the gate's own SVID.
    pub client_tls: Option<ClientTls>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Bearer {
    /// file:PATH, read at each call, or ${NAME}.
    pub token: Secret,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ClientTls {
    Own,
}

/// Whom to expect behind an https url.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the CA certificates that vouch for the server's name, instead of the system's; read at each handshake.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Who may answer, each exact or a pattern, where the server has a SPIFFE ID. We present our own SVID to it.
    #[serde(default)]
    pub spiffe_ids: Vec<Pattern>,
    /// The TLS server name that is asked for and verified; the url's host when absent.
    #[serde(default)]
    pub server_name: Option<String>,
}

fn ten_seconds() -> Span {
    Span::seconds(10)
}

/// Why a service cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("url: `{0}` is not of the form http://host:port/path or https://host:port/path")]
    Form(String),
    #[error("tls.server_name: `{0}` is not a host name")]
    ServerName(String),
}

impl Config {
    /// Takes relative files to be in `directory`.
    pub fn resolve(&mut self, directory: &Path) {
        if let Some(bearer) = &mut self.credentials.bearer {
            bearer.token.resolve(directory);
        }
        if let Some(ca) = self.tls.as_mut().and_then(|tls| tls.ca.as_mut()) {
            *ca = directory.join(&*ca);
        }
    }
}

/// Who vouches for the server.
#[derive(Clone, Debug)]
enum Trust {
    System,
    Authorities(PathBuf),
    SpiffeIds(Vec<Pattern>),
}

/// A TLS connection's terms.
#[derive(Clone, Debug)]
struct Terms {
    server_name: ServerName<'static>,
    trust: Trust,
    presents: bool,
}

/// A service, ready to be called.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: Arc<str>,
    host: String,
    port: u16,
    /// As the Host field has it.
    authority: String,
    /// Without a slash at its end.
    path: String,
    token: Option<Secret>,
    tls: Option<Terms>,
    timeout: Duration,
    holder: Arc<Holder>,
}

impl Service {
    /// Makes it ready; reads no file.
    ///
    /// # Errors
    /// The first mistake in it.
    pub fn new(name: &str, config: &Config, holder: Arc<Holder>) -> Result<Self, ConfigError> {
        let form = || ConfigError::Form(config.url.clone());
        let uri: http::Uri = config.url.parse().map_err(|_| form())?;
        let (secure, default) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(form()),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(form)?;
        if uri.query().is_some() {
            return Err(form());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self {
            name: Arc::from(name),
            port: authority.port_u16().unwrap_or(default),
            authority: authority.to_string(),
            path: uri.path().trim_end_matches('/').to_owned(),
            token: config.credentials.bearer.as_ref().map(|bearer| bearer.token.clone()),
            tls: if secure { Some(Terms::new(config, &host)?) } else { None },
            timeout: config.timeout.0,
            host,
            holder,
        })
    }
}

impl Terms {
    fn new(config: &Config, host: &str) -> Result<Self, ConfigError> {
        let tls = config.tls.as_ref();
        let name = tls.and_then(|tls| tls.server_name.as_deref()).unwrap_or(host);
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| ConfigError::ServerName(name.to_owned()))?;
        let trust = match tls {
            Some(TlsConfig { spiffe_ids, .. }) if !spiffe_ids.is_empty() => Trust::SpiffeIds(spiffe_ids.clone()),
            Some(TlsConfig { ca: Some(ca), .. }) => Trust::Authorities(ca.clone()),
            Some(TlsConfig { ca: None, .. }) | None => Trust::System,
        };
        Ok(Self { server_name, trust, presents: config.credentials.client_tls.is_some() })
    }
}
