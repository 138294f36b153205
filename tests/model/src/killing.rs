//! Register, judge, look again, against publish, scan: whichever comes first, one of them sees the other.

use std::sync::Arc;
use std::time::Instant;

use real_loom::thread;

use crate::decision::Cause;
use crate::exchange::{Exchange, KillId, Registry, SecondLook, Selector, Side, StandingKill};
use crate::stage::{GENERATION, Wire, agent, every_order, exchange, kill, open, order, registry, until_cut};

/// One exchange, open until somebody cuts it.
fn carry(registry: &Arc<Registry>, exchange: &Arc<Exchange>, wire: &Wire, upstream: Option<&str>) -> SecondLook {
    let (_registered, look) = open(registry, exchange, GENERATION, upstream);
    if look == SecondLook::Pass {
        wire.send(exchange, 2);
        until_cut(exchange, Side::Downstream);
        exchange.cut.acknowledge();
    }
    look
}

/// What is left when an exchange that `kills` match and the killers are done.
fn assert_stopped(exchange: &Exchange, look: &SecondLook, kills: &[KillId], wire: &Wire) {
    match look {
        SecondLook::Pass => {}
        SecondLook::Killed(found) => assert!(kills.contains(found)),
        SecondLook::Cut(cause) => assert_eq!(*cause, Cause::Kill),
        SecondLook::Moved => panic!("nothing was activated"),
    }
    assert_eq!(exchange.cut.cause(), Some(Cause::Kill), "neither cut nor refused");
    assert!(exchange.cut.order().is_some_and(|(_, by)| by.is_some_and(|by| kills.contains(&by))), "a cut without its kill");
    assert!(*look == SecondLook::Pass || wire.bytes() == 0, "a byte without an allow");
}

/// An exchange against a kill that matches it. No byte leaves after the kill returned.
fn against_a_kill(standing: StandingKill, upstream: Option<&'static str>) {
    let (registry, exchange, wire) = (registry(), exchange(1), Wire::new());
    let carrier = {
        let (registry, exchange, wire) = (Arc::clone(&registry), Arc::clone(&exchange), Arc::clone(&wire));
        thread::spawn(move || carry(&registry, &exchange, &wire, upstream))
    };
    kill(&registry, &standing);
    let returned = wire.bytes();
    let look = carrier.join().unwrap();
    assert_eq!(wire.bytes(), returned, "a byte left after the kill returned");
    assert_stopped(&exchange, &look, &[standing.id], &wire);
}

#[test]
fn a_kill_that_returned_has_happened() {
    every_order(4, || against_a_kill(order(1, agent()), None));
}

#[test]
fn a_kill_by_upstream_reaches_an_exchange_that_learns_its_upstream_late() {
    let by_upstream = Selector { upstream: Some("payroll".to_owned()), ..Selector::default() };
    every_order(4, move || against_a_kill(order(1, by_upstream.clone()), Some("payroll")));
}

#[test]
fn a_kill_by_workload_and_upstream_reaches_an_exchange_that_learns_its_upstream_late() {
    let both = Selector { upstream: Some("payroll".to_owned()), ..agent() };
    every_order(4, move || against_a_kill(order(1, both.clone()), Some("payroll")));
}

#[test]
fn a_kill_waits_also_for_what_another_has_just_cut() {
    every_order(2, || {
        let (registry, exchange, wire) = (registry(), exchange(1), Wire::new());
        let orders = [order(1, agent()), order(2, agent())];
        let carrier = {
            let (registry, exchange, wire) = (Arc::clone(&registry), Arc::clone(&exchange), Arc::clone(&wire));
            thread::spawn(move || carry(&registry, &exchange, &wire, None))
        };
        let other = {
            let (registry, wire, standing) = (Arc::clone(&registry), Arc::clone(&wire), orders[0].clone());
            thread::spawn(move || (kill(&registry, &standing), wire.bytes()))
        };
        let cut = kill(&registry, &orders[1]);
        let returned = wire.bytes();
        let look = carrier.join().unwrap();
        let (other_cut, other_returned) = other.join().unwrap();
        assert_eq!((returned, other_returned), (wire.bytes(), wire.bytes()), "a byte left after a kill returned");
        assert!(cut + other_cut <= 1, "two kills cut one exchange");
        assert_stopped(&exchange, &look, &orders.map(|order| order.id), &wire);
    });
}

#[test]
fn a_cut_that_nobody_acknowledged_lets_no_more_through_than_the_byte_on_its_way() {
    every_order(4, || {
        let (registry, exchange, wire) = (registry(), exchange(1), Wire::new());
        let carrier = {
            let (registry, exchange, wire) = (Arc::clone(&registry), Arc::clone(&exchange), Arc::clone(&wire));
            thread::spawn(move || {
                let (registered, look) = open(&registry, &exchange, GENERATION, None);
                if look == SecondLook::Pass {
                    wire.send(&exchange, 2);
                }
                drop(registered);
            })
        };
        let standing = order(1, agent());
        registry.publish(standing.clone());
        registry.cut_matching(&standing.selector, Cause::Kill, Some(standing.id));
        let scanned = wire.bytes_by_the_clock();
        carrier.join().unwrap();
        assert!(wire.bytes() <= scanned + 1, "{scanned} bytes had left at the cut, {} in the end", wire.bytes());
    });
}

#[test]
fn a_kill_returns_also_when_the_exchange_ends_by_itself() {
    every_order(4, || {
        let (registry, exchange, wire) = (registry(), exchange(1), Wire::new());
        let standing = order(1, agent());
        let carrier = {
            let (registry, exchange, wire) = (Arc::clone(&registry), Arc::clone(&exchange), Arc::clone(&wire));
            thread::spawn(move || {
                let (registered, look) = open(&registry, &exchange, GENERATION, None);
                if look == SecondLook::Pass {
                    wire.send(&exchange, 1);
                }
                drop(registered);
            })
        };
        kill(&registry, &standing);
        let returned = wire.bytes();
        carrier.join().unwrap();
        assert_eq!(wire.bytes(), returned, "a byte left after the kill returned");
        assert!(registry.collect(|_| true).is_empty());
    });
}

#[test]
fn a_kill_that_does_not_match_never_stops_an_exchange() {
    let elsewhere = Selector { spiffe_id: Some("spiffe://example.org/other".to_owned()), ..Selector::default() };
    // Filed under the exchange's own workload, so that the second look reads it, and finds another upstream.
    let in_the_same_drawer = Selector { upstream: Some("other".to_owned()), ..agent() };
    every_order(4, move || {
        let (registry, exchange) = (registry(), exchange(1));
        let killers = [order(1, elsewhere.clone()), order(2, in_the_same_drawer.clone())].map(|standing| {
            let registry = Arc::clone(&registry);
            thread::spawn(move || kill(&registry, &standing))
        });
        let (_registered, look) = open(&registry, &exchange, GENERATION, Some("payroll"));
        assert_eq!(look, SecondLook::Pass);
        assert_eq!(registry.look_again(&exchange, GENERATION, Instant::now()), SecondLook::Pass, "nor when it looks once more");
        assert_eq!(killers.map(|killer| killer.join().unwrap()), [0, 0]);
        assert!(exchange.cut.is_admitted());
        assert_eq!(registry.wakes(), 0);
    });
}
