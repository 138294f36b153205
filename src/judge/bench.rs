//! The bench: one seat a worker, and the policy that sits on all of them.
//!
//! In: a loaded policy. Out: a generation in force. What must stay true: a new generation is placed on every worker's [`Seat`] before it
//! is put in force, so that no worker ever finds itself without the judge of the generation that counts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::facts::Plan;
use super::reuse::Given;
use super::{Generation, Judge};
use crate::exchange::Registry;
use crate::policy::{KillScope, Policy, Report};

/// Where an activation leaves the next judge for one worker.
#[derive(Default)]
pub struct Seat {
    next: Mutex<VecDeque<Judge>>,
}

impl Seat {
    /// The judge of `generation`, if the worker's own is older. What is older still is returned to be freed elsewhere.
    pub fn take(&self, generation: u64) -> (Option<Judge>, Vec<Judge>) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut passed = Vec::new();
        while let Some(judge) = next.pop_front() {
            if judge.generation.number == generation {
                return (Some(judge), passed);
            }
            if judge.generation.number > generation {
                next.push_front(judge);
                break;
            }
            passed.push(judge);
        }
        (None, passed)
    }

    fn place(&self, judge: Judge) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).push_back(judge);
    }
}

/// All seats, and the policy that sits on them.
pub struct Bench {
    seats: Vec<Arc<Seat>>,
    in_force: InForce,
    active: Mutex<Active>,
}

/// Who is told which generation judges.
enum InForce {
    Registry(Arc<Registry>),
    /// Nobody admits by it.
    Apart(AtomicU64),
}

#[derive(Default)]
struct Active {
    number: u64,
    policy: Option<Arc<Policy>>,
    previous: Option<Arc<Policy>>,
}

impl Bench {
    /// A bench of one seat a worker, with nobody on it: until the first activation everything is denied.
    pub fn new(workers: usize, registry: Arc<Registry>) -> Self {
        let in_force = InForce::Registry(registry);
        Self { seats: (0..workers).map(|_| Arc::default()).collect(), in_force, active: Mutex::default() }
    }

    /// A bench whose generations admit and cut nothing.
    pub fn without_force(workers: usize) -> Self {
        let in_force = InForce::Apart(AtomicU64::new(0));
        Self { seats: (0..workers).map(|_| Arc::default()).collect(), in_force, active: Mutex::default() }
    }

    /// The generation that judges; 0 when nobody does.
    pub fn generation(&self) -> u64 {
        match &self.in_force {
            InForce::Registry(registry) => registry.generation(),
            InForce::Apart(number) => number.load(Ordering::Acquire),
        }
    }

    /// Has nobody judge any more; only of a bench without force.
    pub fn withdraw(&self) {
        if let InForce::Apart(number) = &self.in_force {
            number.store(0, Ordering::Release);
        }
    }

    pub fn seats(&self) -> &[Arc<Seat>] {
        &self.seats
    }

    /// Compiles a policy once for each worker. Slow; never on a worker.
    ///
    /// # Errors
    /// The findings of the compiler; nothing has changed then.
    pub fn candidates(&self, policy: &Arc<Policy>, may_kill: &[KillScope], number: u64) -> Result<Vec<Judge>, Report> {
        let plans = || (0..policy.entries().len()).map(|entry| Plan::new(policy.footprint(entry))).collect();
        let generation = |number| Generation { number, policy: Arc::clone(policy), plans: plans(), may_kill: may_kill.to_vec() };
        let given = || Given::new((0..policy.entries().len()).map(|entry| policy.footprint(entry)), policy.reuse());
        self.seats
            .iter()
            .map(|_| Ok(Judge { generation: Arc::new(generation(number)), engine: policy.engine()?, given: given() }))
            .collect()
    }

    /// Puts a policy in force for all workers at once, and returns its generation. `keep` writes down what must not be forgotten once
    /// it is; `prepare` is told its number just before, when nothing can fail any more.
    ///
    /// # Errors
    /// The findings of the compiler, or of `keep`; the generation in force stays.
    pub fn activate(
        &self,
        policy: Arc<Policy>,
        may_kill: &[KillScope],
        keep: impl FnOnce() -> Result<(), Report>,
        prepare: impl FnOnce(u64),
    ) -> Result<u64, Report> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let number = active.number + 1;
        let judges = self.candidates(&policy, may_kill, number)?;
        keep()?;
        for (seat, judge) in self.seats.iter().zip(judges) {
            seat.place(judge);
        }
        active.number = number;
        active.previous = active.policy.replace(policy);
        prepare(number);
        match &self.in_force {
            InForce::Registry(registry) => registry.activate(number),
            InForce::Apart(generation) => generation.store(number, Ordering::Release),
        }
        Ok(number)
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).policy.clone()
    }

    /// The policy that was in force before it.
    pub fn previous(&self) -> Option<Arc<Policy>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).previous.clone()
    }
}
