//! Who appears in the models: an exchange that forwards bytes, a killer that returns only when it is done, and the wire between.
//!
//! They do what `proxy` and `kill` do, in as few steps as keep the order, because each step multiplies the orders to be run.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use real_loom::future::block_on;

use crate::decision::{Cause, Protocol};
use crate::exchange::{Caller, Exchange, ExchangeId, KillId, Kind, Registered, Registry, SecondLook, Selector, Side, StandingKill};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The generation in force when a model starts.
pub const GENERATION: u64 = 1;

/// Runs a model in every order of its steps that has at most so many preemptions, or `LOOM_MAX_PREEMPTIONS`. Two threads bear four in a
/// second or two, three threads two or three.
pub fn every_order(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    if std::env::var_os("LOOM_LOG").is_some() {
        return real_loom::model(model); // the one entry of loom that sets up its log
    }
    let mut builder = real_loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(model);
}

/// One shard and a generation in force.
pub fn registry() -> Arc<Registry> {
    let registry = Arc::new(Registry::new(1));
    registry.activate(GENERATION);
    registry
}

/// An exchange of the workload `agent`.
pub fn exchange(number: u128) -> Arc<Exchange> {
    let caller = Caller {
        spiffe_id: "spiffe://example.org/agent".to_owned(),
        trust_domain: "example.org".to_owned(),
        certificate: "certificate".to_owned(),
        address: IpAddr::from([127, 0, 0, 1]),
        session: "session".to_owned(),
    };
    Arc::new(Exchange::new(ExchangeId(uuid::Uuid::from_u128(number)), Kind::Exchange(Protocol::Http1), Arc::new(caller)))
}

/// A selector that matches every [`exchange`].
pub fn agent() -> Selector {
    Selector { spiffe_id: Some("spiffe://example.org/agent".to_owned()), ..Selector::default() }
}

/// A kill without an end.
pub fn order(number: u128, selector: Selector) -> StandingKill {
    let id = KillId(uuid::Uuid::from_u128(number));
    StandingKill { id, selector, reason: String::new(), by: String::new(), created: 0, expires: None }
}

/// The bytes that have left the gate. Nothing is ordered by it, so that it cannot hide a missing order in what it watches.
pub struct Wire(AtomicUsize);

impl Wire {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(0)))
    }

    /// What the asking thread must have seen leave by now. Less than what did, where nothing orders the two.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// What has left by now, seen or not.
    pub fn bytes_by_the_clock(&self) -> usize {
        self.0.fetch_add(0, Ordering::Relaxed)
    }

    /// Sends up to `bytes`, asking before each whether the exchange was cut.
    pub fn send(&self, exchange: &Exchange, bytes: usize) {
        for _ in 0..bytes {
            if exchange.cut.cause().is_some() {
                return;
            }
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Registers, is judged by `judged`, looks again.
pub fn open(registry: &Arc<Registry>, exchange: &Arc<Exchange>, judged: u64, upstream: Option<&str>) -> (Registered, SecondLook) {
    let registered = registry.register(0, Arc::clone(exchange));
    if let Some(upstream) = upstream {
        exchange.set_upstream(upstream.into());
    }
    let look = registry.look_again(exchange, judged, Instant::now());
    (registered, look)
}

/// Publishes, scans, and returns when everything it reached is over. Says how many it cut itself.
pub fn kill(registry: &Registry, kill: &StandingKill) -> usize {
    registry.publish(kill.clone());
    let reached = registry.cut_matching(&kill.selector, Cause::Kill, Some(kill.id));
    for exchange in reached.cut.iter().chain(&reached.falling) {
        until_over(exchange);
    }
    reached.cut.len()
}

/// Sleeps until the exchange is over. loom calls it a deadlock when nobody wakes it.
pub fn until_over(exchange: &Exchange) {
    block_on(poll_fn(|cx| exchange.cut.poll_over(cx)));
}

/// Sleeps until the exchange is cut.
pub fn until_cut(exchange: &Exchange, side: Side) -> Cause {
    block_on(poll_fn(|cx| exchange.cut.poll(side, cx)))
}
