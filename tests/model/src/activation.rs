//! A generation is put in force, then what is open is judged again: what the old one admitted is never missed.

use std::sync::Arc;
use std::time::Instant;

use real_loom::thread;

use crate::decision::Cause;
use crate::exchange::{Exchange, Registry, SecondLook, Side};
use crate::stage::{GENERATION, Wire, agent, every_order, exchange, kill, open, order, registry, until_cut, until_over};

const NEXT: u64 = GENERATION + 1;

/// Puts the next generation in force and finds what it has not judged.
fn activate(registry: &Registry) -> Vec<Arc<Exchange>> {
    registry.activate(NEXT);
    registry.collect(|exchange| exchange.generation() < NEXT)
}

#[test]
fn an_exchange_sees_the_activation_or_is_found_by_it() {
    every_order(4, || {
        let (registry, exchange) = (registry(), exchange(1));
        let activator = {
            let registry = Arc::clone(&registry);
            thread::spawn(move || activate(&registry).len())
        };
        let (_registered, look) = open(&registry, &exchange, GENERATION, None);
        let found = activator.join().unwrap();
        match look {
            SecondLook::Pass => assert_eq!(found, 1, "admitted by the old generation and missed by the scan"),
            SecondLook::Moved => {}
            SecondLook::Killed(_) | SecondLook::Cut(_) => panic!("nobody cut it"),
        }
        assert_eq!(registry.look_again(&exchange, NEXT, Instant::now()), SecondLook::Pass, "judged by the new one it passes");
        assert_eq!(activate(&registry).len(), 0, "and is not found again");
    });
}

#[test]
fn what_the_next_generation_denies_sends_nothing_after_the_activation_returned() {
    every_order(4, || {
        let (registry, exchange, wire) = (registry(), exchange(1), Wire::new());
        let carrier = {
            let (registry, exchange, wire) = (Arc::clone(&registry), Arc::clone(&exchange), Arc::clone(&wire));
            thread::spawn(move || {
                let (_registered, look) = open(&registry, &exchange, GENERATION, None);
                if look == SecondLook::Pass {
                    wire.send(&exchange, 2);
                    assert_eq!(until_cut(&exchange, Side::Downstream), Cause::Policy);
                    exchange.cut.acknowledge();
                }
                look
            })
        };
        for found in activate(&registry) {
            registry.cut(&found, Cause::Policy, None);
            until_over(&found);
        }
        let returned = wire.bytes();
        let look = carrier.join().unwrap();
        assert_eq!(wire.bytes(), returned, "a byte left under a generation that is gone");
        assert!(matches!(look, SecondLook::Pass | SecondLook::Moved | SecondLook::Cut(Cause::Policy)), "{look:?}");
        assert!(look == SecondLook::Moved || exchange.cut.cause() == Some(Cause::Policy));
    });
}

#[test]
fn a_kill_and_an_activation_at_once_both_reach_the_exchange() {
    every_order(2, || {
        let (registry, exchange) = (registry(), exchange(1));
        let killer = {
            let registry = Arc::clone(&registry);
            thread::spawn(move || kill(&registry, &order(1, agent())))
        };
        let activator = {
            let registry = Arc::clone(&registry);
            thread::spawn(move || activate(&registry).len())
        };
        {
            let (_registered, mut look) = open(&registry, &exchange, GENERATION, None);
            if look == SecondLook::Moved {
                look = registry.look_again(&exchange, NEXT, Instant::now());
            }
            if look == SecondLook::Pass {
                assert_eq!(until_cut(&exchange, Side::Downstream), Cause::Kill);
            }
        }
        killer.join().unwrap();
        activator.join().unwrap();
        assert_eq!(exchange.cut.cause(), Some(Cause::Kill));
    });
}
