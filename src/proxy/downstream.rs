//! One downstream connection, as its exchanges see it: who is on the other end, and how it came in.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use super::edit::identity::IdentityHeaders;
use crate::decision::Transport;
use crate::exchange::Caller;
use crate::judge::case::ConnectionFacts;
use crate::spiffe::SpiffeId;

/// See the module. Made once a connection.
#[derive(Debug)]
pub struct Downstream {
    /// The listener's place in the settings.
    pub listener: usize,
    pub transport: Transport,
    pub remote: SocketAddr,
    /// The TLS server name the client asked for, in lower case.
    pub server_name: Option<String>,
    /// The words kills use; empty where nobody was proven.
    pub caller: Arc<Caller>,
    /// `None`: a caller without a certificate, who may ask for health and nothing else.
    pub peer: Option<Peer>,
    /// Exchanges open on it.
    pub open: Cell<usize>,
}

/// Who was proven.
#[derive(Debug)]
pub struct Peer {
    pub spiffe_id: SpiffeId,
    pub name: Arc<str>,
    pub facts: ConnectionFacts,
    pub headers: IdentityHeaders,
    /// When the certificate ends, in seconds since the Unix epoch; moved where our own identity stands for the caller and is renewed.
    pub not_after: Cell<u64>,
    /// Our own identity stands for the caller.
    pub own: bool,
}
