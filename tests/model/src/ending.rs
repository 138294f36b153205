//! The cut of one exchange: one cause, one end, and nobody sleeps through either.

use std::sync::Arc;

use real_loom::thread;

use crate::decision::Cause;
use crate::exchange::{KillId, Side};
use crate::stage::{every_order, exchange, registry, until_cut, until_over};

fn kill_id(number: u128) -> KillId {
    KillId(uuid::Uuid::from_u128(number))
}

#[test]
fn of_two_kills_and_an_end_one_wins_and_the_exchange_is_over() {
    every_order(4, || {
        let (registry, exchange) = (registry(), exchange(1));
        let registered = registry.register(0, Arc::clone(&exchange));
        let killers = [1, 2].map(|number| {
            let (registry, exchange) = (Arc::clone(&registry), Arc::clone(&exchange));
            thread::spawn(move || registry.cut(&exchange, Cause::Kill, Some(kill_id(number))))
        });
        drop(registered);
        until_over(&exchange);
        let [first, second] = killers.map(|killer| killer.join().unwrap());
        assert!(!(first && second), "two kills cut one exchange");
        let winner = first.then_some(1).or(second.then_some(2)).map(kill_id);
        assert_eq!(exchange.cut.order().and_then(|(_, kill)| kill), winner, "the order bears the name of the kill that won");
        assert_eq!(exchange.cut.cause(), winner.map(|_| Cause::Kill));
        assert_eq!(registry.wakes(), u64::from(winner.is_some()));
        until_over(&exchange);
    });
}

#[test]
fn both_sides_hear_of_a_cut() {
    every_order(3, || {
        let (registry, exchange) = (registry(), exchange(1));
        let upstream = {
            let exchange = Arc::clone(&exchange);
            thread::spawn(move || until_cut(&exchange, Side::Upstream))
        };
        let killer = {
            let (registry, exchange) = (Arc::clone(&registry), Arc::clone(&exchange));
            thread::spawn(move || registry.cut(&exchange, Cause::LeaseAge, None))
        };
        assert_eq!(until_cut(&exchange, Side::Downstream), Cause::LeaseAge);
        assert_eq!(upstream.join().unwrap(), Cause::LeaseAge);
        assert!(killer.join().unwrap());
    });
}

#[test]
fn all_who_wait_for_the_end_hear_of_it() {
    every_order(3, || {
        let (registry, exchange) = (registry(), exchange(1));
        let registered = registry.register(0, Arc::clone(&exchange));
        let carrier = thread::spawn(move || drop(registered));
        let waiter = {
            let exchange = Arc::clone(&exchange);
            thread::spawn(move || until_over(&exchange))
        };
        until_over(&exchange);
        waiter.join().unwrap();
        carrier.join().unwrap();
    });
}

#[test]
fn an_acknowledgement_is_heard_and_keeps_the_cause() {
    every_order(4, || {
        let (registry, exchange) = (registry(), exchange(1));
        let carrier = {
            let exchange = Arc::clone(&exchange);
            thread::spawn(move || {
                until_cut(&exchange, Side::Downstream);
                exchange.cut.acknowledge();
            })
        };
        assert!(registry.cut(&exchange, Cause::Kill, None));
        until_over(&exchange);
        assert_eq!(exchange.cut.cause(), Some(Cause::Kill));
        carrier.join().unwrap();
    });
}

#[test]
fn who_sees_the_cut_finds_its_order() {
    every_order(4, || {
        let (registry, exchange) = (registry(), exchange(1));
        let killer = {
            let (registry, exchange) = (Arc::clone(&registry), Arc::clone(&exchange));
            thread::spawn(move || registry.cut(&exchange, Cause::Kill, Some(kill_id(1))))
        };
        if exchange.cut.cause().is_some() {
            assert_eq!(exchange.cut.order().map(|(_, kill)| kill), Some(Some(kill_id(1))));
        }
        assert!(killer.join().unwrap());
    });
}
