//! What all listeners together may hold: connections, handshakes at a time, and what one identity has of them.
//!
//! In: whoever asks for room. Out: room, or none; it is given back when it is dropped, however its connection ends. Counted before
//! anything else is done for a connection, so that what is refused costs next to nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Limits;

/// What all listeners together may hold.
pub struct House {
    /// Turns at the handshake, which is what costs most.
    pub(super) handshakes: Semaphore,
    connections: AtomicUsize,
    most: usize,
    by_identity: Mutex<HashMap<String, usize>>,
    most_by_identity: usize,
    /// When killed identities knocked lately.
    killed: Mutex<Vec<Instant>>,
}

/// Killed identities that get their handshake and a 403 in a second; more are dropped.
const KILLED_A_SECOND: usize = 10;

impl House {
    pub fn new(limits: &Limits) -> Self {
        Self {
            handshakes: Semaphore::new(limits.handshakes),
            connections: AtomicUsize::new(0),
            most: limits.connections,
            by_identity: Mutex::default(),
            most_by_identity: limits.per_identity.connections,
            killed: Mutex::default(),
        }
    }

    /// Room for one more connection, or none. Asked before the connection costs anything.
    pub fn admit(self: &Arc<Self>) -> Option<Room> {
        let take = |open: usize| (open < self.most).then_some(open + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Room { house: Arc::clone(self), identity: None })
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn knocks_too_often(&self, now: Instant) -> bool {
        let mut killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        killed.retain(|at| now.duration_since(*at) < Duration::from_secs(1));
        killed.push(now);
        killed.len() > KILLED_A_SECOND
    }
}

/// The room one connection takes, given back when it is dropped.
pub struct Room {
    house: Arc<House>,
    identity: Option<String>,
}

impl Room {
    /// Counts the connection to an identity; false when that one holds its limit.
    pub(super) fn identify(&mut self, identity: &str) -> bool {
        let mut by_identity = self.house.by_identity.lock().unwrap_or_else(PoisonError::into_inner);
        let held = by_identity.entry(identity.to_owned()).or_default();
        if *held >= self.house.most_by_identity {
            return false;
        }
        *held += 1;
        self.identity = Some(identity.to_owned());
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.house.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(identity) = self.identity.take() else { return };
        let mut by_identity = self.house.by_identity.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = by_identity.get_mut(&identity) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                by_identity.remove(&identity);
            }
        }
    }
}
