//! What the gate tells the upstream about who is calling.
//!
//! In: the verified peer of a connection, once; then each of its requests. Out: the identity and forwarding fields, which nobody else
//! can set because normalising takes them off and edits may not name them. Built once a connection: only the host and `Via` differ
//! between its requests.

use std::net::IpAddr;

use http::Version;
use http::header::{HeaderName, HeaderValue, VIA};

use crate::spiffe::SpiffeId;

use super::super::normalise::Request;
use super::EditError;

const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const SPIFFE_ID: HeaderName = HeaderName::from_static("x-spiffe-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The fields of one connection's peer.
#[derive(Clone, Debug)]
pub struct IdentityHeaders {
    client_certificate: HeaderValue,
    spiffe_id: HeaderValue,
    forwarded_for: HeaderValue,
}

impl IdentityHeaders {
    /// Writes the fields for a verified peer: `x-forwarded-client-cert` in Envoy's form, `x-spiffe-id`, `x-forwarded-for`.
    ///
    /// # Errors
    ///
    /// When `certificate_sha256` is not the hex text of a digest: an identity that cannot be written must not be left out.
    pub fn new(peer: &SpiffeId, gate: &SpiffeId, certificate_sha256: &str, address: IpAddr) -> Result<Self, EditError> {
        if certificate_sha256.len() != 64 || !certificate_sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(EditError::HeaderValue(CLIENT_CERTIFICATE.to_string()));
        }
        // SPIFFE IDs and hex need none of the quoting that Envoy's form has for `,`, `;` and `=`.
        let hash = certificate_sha256.to_ascii_lowercase();
        Ok(Self {
            client_certificate: value(&CLIENT_CERTIFICATE, &format!("By={gate};Hash={hash};URI={peer}"))?,
            spiffe_id: value(&SPIFFE_ID, &peer.to_string())?,
            // A mapped address is an IPv4 peer on a dual-stack socket, and upstreams compare texts.
            forwarded_for: value(&FORWARDED_FOR, &address.to_canonical().to_string())?,
        })
    }

    /// Sets the fields on a request that is about to be forwarded, and appends the gate to its `Via` (RFC 9110 section 7.6.3).
    ///
    /// # Errors
    ///
    /// When the head would become too large.
    pub fn write(&self, request: &mut Request) -> Result<(), EditError> {
        let host = value(&FORWARDED_HOST, &request.authority())?;
        let proto = value(&FORWARDED_PROTO, request.scheme.as_str())?;
        let set = [
            (CLIENT_CERTIFICATE, self.client_certificate.clone()),
            (SPIFFE_ID, self.spiffe_id.clone()),
            (FORWARDED_FOR, self.forwarded_for.clone()),
            (FORWARDED_HOST, host),
            (FORWARDED_PROTO, proto),
        ];
        for (name, value) in set {
            request.headers.try_insert(name, value).map_err(|_| EditError::HeadersTooMany)?;
        }
        append_via(request)
    }
}

/// Appends the gate to a request's `Via` (RFC 9110 section 7.6.3).
///
/// # Errors
///
/// When the head would become too large.
pub fn append_via(request: &mut Request) -> Result<(), EditError> {
    let via = match request.version {
        Version::HTTP_10 => "1.0 portcullis",
        Version::HTTP_2 => "2.0 portcullis",
        _ => "1.1 portcullis",
    };
    request.headers.try_append(VIA, HeaderValue::from_static(via)).map_err(|_| EditError::HeadersTooMany)?;
    Ok(())
}

fn value(name: &HeaderName, text: &str) -> Result<HeaderValue, EditError> {
    HeaderValue::from_str(text).map_err(|_| EditError::HeaderValue(name.to_string()))
}
