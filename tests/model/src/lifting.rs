//! Kills that are lifted leave nothing behind, and take no other kill with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use real_loom::thread;

use crate::decision::Cause;
use crate::exchange::{SecondLook, Side, StandingKill};
use crate::stage::{GENERATION, agent, every_order, exchange, kill, open, order, registry, until_cut};

#[test]
fn a_lifted_kill_matches_nobody_and_what_it_cut_stays_cut() {
    every_order(4, || {
        let (registry, early) = (registry(), exchange(1));
        let standing = order(1, agent());
        let carrier = {
            let (registry, early) = (Arc::clone(&registry), Arc::clone(&early));
            thread::spawn(move || open(&registry, &early, GENERATION, None).1)
        };
        kill(&registry, &standing);
        assert!(registry.standing().lift(standing.id).is_some());
        let late = exchange(2);
        assert_eq!(registry.standing().matching(&late, Instant::now()), None);
        assert_eq!(open(&registry, &late, GENERATION, None).1, SecondLook::Pass);
        let look = carrier.join().unwrap();
        if matches!(look, SecondLook::Killed(_) | SecondLook::Cut(_)) {
            assert_eq!(early.cut.cause(), Some(Cause::Kill), "refused and not cut");
            let again = registry.look_again(&early, GENERATION, Instant::now());
            assert_eq!(again, SecondLook::Cut(Cause::Kill), "refused once, refused for good");
        }
        assert!(registry.standing().is_empty());
    });
}

#[test]
fn a_lift_takes_no_other_kill_with_it() {
    every_order(3, || {
        let (registry, exchange) = (registry(), exchange(1));
        let (lifted, stays) = (order(1, agent()), order(2, agent()));
        let lifter = {
            let registry = Arc::clone(&registry);
            thread::spawn(move || {
                registry.publish(lifted.clone());
                registry.standing().lift(lifted.id).is_some()
            })
        };
        let carrier = {
            let (registry, exchange) = (Arc::clone(&registry), Arc::clone(&exchange));
            thread::spawn(move || {
                let (_registered, look) = open(&registry, &exchange, GENERATION, None);
                if look == SecondLook::Pass {
                    assert_eq!(until_cut(&exchange, Side::Downstream), Cause::Kill);
                }
            })
        };
        kill(&registry, &stays);
        assert!(lifter.join().unwrap());
        carrier.join().unwrap();
        assert_eq!(exchange.cut.cause(), Some(Cause::Kill));
        assert_eq!(registry.standing().matching(&exchange, Instant::now()), Some(stays.id), "it stands for the next one");
        assert_eq!(registry.standing().len(), 1);
    });
}

#[test]
fn a_kill_is_taken_out_once_by_lift_or_by_time() {
    every_order(4, || {
        let registry = registry();
        let now = Instant::now();
        let brief = StandingKill { expires: Some(now + Duration::from_secs(1)), ..order(1, agent()) };
        registry.publish(brief.clone());
        let sweeper = {
            let registry = Arc::clone(&registry);
            thread::spawn(move || registry.standing().expire(now + Duration::from_secs(2)).len())
        };
        let lifted = registry.standing().lift(brief.id).is_some();
        let swept = sweeper.join().unwrap();
        assert_eq!(usize::from(lifted) + swept, 1);
        assert!(registry.standing().is_empty() && registry.standing().all().is_empty());
    });
}
