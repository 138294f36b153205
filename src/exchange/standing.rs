//! Standing kills: orders that hold until they end or are lifted, found by what an exchange is, not by walking them all.
//!
//! In: a kill with its selector. Out: the kill that matches an exchange, if any. Each kill is filed under its most telling field, so
//! a look costs a few hash probes however many kills stand (10,000 a second must not slow an unrelated request).

#[cfg(loom)]
use loom::sync::{Mutex, atomic::AtomicUsize, atomic::Ordering};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::{Mutex, atomic::AtomicUsize, atomic::Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Exchange, ExchangeId, Kind, lock};

/// The name of one kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KillId(pub uuid::Uuid);

impl std::fmt::Display for KillId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Which exchanges a kill is about: all its fields must hold, and at least one must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// One open exchange. It is cut; nothing stays behind that could match another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<uuid::Uuid>,
    /// A name of `upstreams`, or beside an agent one of `destinations` or a host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// SHA-256 of the peer's certificate, in lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

impl Selector {
    /// True when it names nothing, which would be everybody.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// True when it names what a whole connection is, so that connections are closed too.
    pub fn names_connections(&self) -> bool {
        self.exchange.is_none() && self.upstream.is_none()
    }

    /// True when every field holds for what is registered. A connection has no upstream and is not an exchange.
    pub fn matches(&self, exchange: &Exchange) -> bool {
        fn holds<T: PartialEq + ?Sized>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let caller = &exchange.caller;
        let connection = exchange.kind == Kind::Connection;
        !self.is_empty()
            && holds(self.spiffe_id.as_deref(), &caller.spiffe_id)
            && holds(self.trust_domain.as_deref(), &caller.trust_domain)
            && holds(self.session.as_deref(), &caller.session)
            && holds(self.certificate.as_deref(), &caller.certificate)
            && holds(self.address.as_ref(), &caller.address)
            && self.exchange.is_none_or(|wanted| !connection && ExchangeId(wanted) == exchange.id)
            && self.upstream.as_deref().is_none_or(|wanted| {
                !connection && [exchange.upstream(), exchange.host()].iter().flatten().any(|found| **found == *wanted)
            })
    }

    fn drawer(&self) -> Option<(Drawer, String)> {
        let address = self.address.map(|address| address.to_string());
        [
            (Drawer::Session, self.session.clone()),
            (Drawer::Certificate, self.certificate.clone()),
            (Drawer::SpiffeId, self.spiffe_id.clone()),
            (Drawer::Address, address),
            (Drawer::Upstream, self.upstream.clone()),
            (Drawer::TrustDomain, self.trust_domain.clone()),
        ]
        .into_iter()
        .find_map(|(drawer, value)| value.map(|value| (drawer, value)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Drawer {
    Session,
    Certificate,
    SpiffeId,
    Address,
    Upstream,
    TrustDomain,
}

/// One standing order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingKill {
    pub id: KillId,
    pub selector: Selector,
    pub reason: String,
    /// Who gave it: an operator's name, or `policy`.
    pub by: String,
    /// Unix seconds.
    pub created: u64,
    /// On the monotonic clock, so that setting the wall clock back never lengthens a kill.
    pub expires: Option<Instant>,
}

impl StandingKill {
    fn stands(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// The set of standing kills.
#[derive(Debug)]
pub struct Standing {
    /// Read without the lock: nearly always nothing stands, and then a request pays one load.
    count: AtomicUsize,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    by_id: HashMap<KillId, Arc<StandingKill>>,
    drawers: HashMap<Drawer, HashMap<String, Vec<Arc<StandingKill>>>>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), files: Mutex::new(Files::default()) }
    }
}

impl Standing {
    pub(super) fn publish(&self, kill: StandingKill) {
        let Some((drawer, value)) = kill.selector.drawer() else { return };
        let kill = Arc::new(kill);
        let mut files = lock(&self.files);
        files.drawers.entry(drawer).or_default().entry(value).or_default().push(Arc::clone(&kill));
        files.by_id.insert(kill.id, kill);
        self.count.store(files.by_id.len(), Ordering::SeqCst);
    }

    /// Takes a kill out; what it cut stays cut. Returns it, or nothing when no such kill stands.
    pub fn lift(&self, id: KillId) -> Option<Arc<StandingKill>> {
        let mut files = lock(&self.files);
        let kill = files.remove(id);
        self.count.store(files.by_id.len(), Ordering::SeqCst);
        kill
    }

    /// Takes out the kills whose time is over, and returns them.
    pub fn expire(&self, now: Instant) -> Vec<Arc<StandingKill>> {
        let mut files = lock(&self.files);
        let over: Vec<KillId> = files.by_id.values().filter(|kill| !kill.stands(now)).map(|kill| kill.id).collect();
        let over = over.into_iter().filter_map(|id| files.remove(id)).collect();
        self.count.store(files.by_id.len(), Ordering::SeqCst);
        over
    }

    /// The kill that matches, if one stands.
    pub fn matching(&self, exchange: &Exchange, now: Instant) -> Option<KillId> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let caller = &exchange.caller;
        let (address, upstream, host) = (caller.address.to_string(), exchange.upstream(), exchange.host());
        let values = [
            (Drawer::Session, Some(caller.session.as_str())),
            (Drawer::Certificate, Some(caller.certificate.as_str())),
            (Drawer::SpiffeId, Some(caller.spiffe_id.as_str())),
            (Drawer::Address, Some(address.as_str())),
            (Drawer::Upstream, upstream.as_deref()),
            (Drawer::Upstream, host.as_deref()),
            (Drawer::TrustDomain, Some(caller.trust_domain.as_str())),
        ];
        let files = lock(&self.files);
        values
            .into_iter()
            .filter_map(|(drawer, value)| files.drawers.get(&drawer)?.get(value?))
            .flatten()
            .find_map(|kill| (kill.stands(now) && kill.selector.matches(exchange)).then_some(kill.id))
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Arc<StandingKill>> {
        let mut all: Vec<_> = lock(&self.files).by_id.values().cloned().collect();
        all.sort_by_key(|kill| (kill.created, kill.id));
        all
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Files {
    fn remove(&mut self, id: KillId) -> Option<Arc<StandingKill>> {
        let kill = self.by_id.remove(&id)?;
        let (drawer, value) = kill.selector.drawer()?;
        if let Some(drawer) = self.drawers.get_mut(&drawer) {
            if let Some(kills) = drawer.get_mut(&value) {
                kills.retain(|other| other.id != id);
            }
            if drawer.get(&value).is_some_and(Vec::is_empty) {
                drawer.remove(&value);
            }
        }
        Some(kill)
    }
}
