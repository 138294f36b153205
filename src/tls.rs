//! Certificates: our SVID, the bundles peers are checked against, and the TLS configurations made from both.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// `identity`: who we are, and whose certificates we can check.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Our own trust domain, such as example.org.
    pub trust_domain: String,
    pub source: Source,
}

/// Where our SVID and the bundles come from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Source {
    Files(Files),
}

/// PEM files, looked at again when they change.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Our X.509-SVID, leaf first, then intermediates.
    pub certificate: PathBuf,
    /// Its private key, PKCS#8 or SEC1.
    pub private_key: PathBuf,
    /// Trust domain → file with its CA certificates.
    pub bundles: BTreeMap<String, PathBuf>,
}

/// The oldest TLS version a listener speaks.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
pub enum MinimumVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}
