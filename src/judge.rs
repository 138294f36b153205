//! The judge: facts, input, verdict. The only room that reads policy and state together.
//!
//! In: a case. Out: a judgement, which is a deny whenever anything is unclear: no policy, undefined, error, timeout, panic, a wrong
//! type. Each worker owns one [`Judge`] with an engine of its own, so that nothing of a policy is shared between cores. A new
//! generation is placed on every worker's [`Seat`] before it is put in force: no worker ever finds itself without the judge of the
//! generation that counts, and no verdict mixes two.

pub mod answer;
pub mod body;
pub mod case;
pub mod facts;
pub mod reuse;
pub mod shadow;
pub mod unknown;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use regorus::Value;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::decision::{Reason, Reuse};
use crate::exchange::Registry;
use crate::policy::{Engine, Evaluation, EvaluationError, KillScope, Kind, Policy, Report};
use crate::spiffe::{Pattern, SpiffeId};
use crate::verdict::Verdict;
use case::{Case, WorkloadFacts};
use facts::Plan;
use reuse::{Found, Given};

/// One row of `workloads`: who owns an identity, and what it is. The first matching row counts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRule {
    pub spiffe_id: Pattern,
    pub owner: String,
    /// Such as agent, service, job.
    pub kind: String,
    /// Such as high, low.
    #[serde(default)]
    pub class: Option<String>,
    /// Whom to call, as a URL.
    #[serde(default)]
    pub contact: Option<String>,
}

/// One row of `time_windows`: the hours of the week in which it is open, in UTC.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeWindow {
    /// Such as [mon, tue, wed, thu, fri].
    pub days: Vec<Day>,
    /// The first minute it is open, as 08:00.
    pub from: String,
    /// The first minute it is closed again, as 18:00.
    pub to: String,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// `address_lists`: name → networks.
pub type AddressLists = BTreeMap<String, Vec<IpNet>>;

/// `address_lists`, made ready to be asked: one hash set a prefix length, so the answer costs the same however long a list is.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    lists: Vec<(String, BTreeMap<u8, HashSet<IpNet>>)>,
}

impl Networks {
    pub fn new(lists: &AddressLists) -> Self {
        let by_length = |networks: &Vec<IpNet>| {
            let mut lengths: BTreeMap<u8, HashSet<IpNet>> = BTreeMap::new();
            for network in networks {
                lengths.entry(network.prefix_len()).or_default().insert(network.trunc());
            }
            lengths
        };
        Self { lists: lists.iter().map(|(name, networks)| (name.clone(), by_length(networks))).collect() }
    }

    /// The names of the lists an address is on.
    pub fn naming(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        let holds = move |lengths: &BTreeMap<u8, HashSet<IpNet>>| {
            lengths
                .iter()
                .any(|(length, networks)| IpNet::new(address, *length).is_ok_and(|network| networks.contains(&network.trunc())))
        };
        self.lists.iter().filter(move |(_, lengths)| holds(lengths)).map(|(name, _)| name.as_str())
    }
}

/// `workloads`: the first row that matches an identity.
pub fn workload<'r>(rules: &'r [WorkloadRule], id: &SpiffeId) -> Option<WorkloadFacts<'r>> {
    rules.iter().find(|rule| rule.spiffe_id.matches(id)).map(|rule| WorkloadFacts {
        owner: &rule.owner,
        kind: &rule.kind,
        class: rule.class.as_deref(),
    })
}

impl TimeWindow {
    /// True when the window is open at a time since the Unix epoch, in UTC. A window that cannot be read is closed.
    pub fn open(&self, since_epoch: Duration) -> bool {
        const WEEK: [Day; 7] = [Day::Thu, Day::Fri, Day::Sat, Day::Sun, Day::Mon, Day::Tue, Day::Wed];
        let minutes = since_epoch.as_secs() / 60;
        let (day, minute) = ((minutes / 1440) % 7, minutes % 1440);
        let today = usize::try_from(day).ok().and_then(|day| WEEK.get(day));
        let (Some(from), Some(to)) = (minute_of_day(&self.from), minute_of_day(&self.to)) else { return false };
        today.is_some_and(|today| self.days.contains(today)) && (from..to).contains(&minute)
    }
}

/// `HH:MM` as minutes since midnight; 24:00 is the end of a day.
pub fn minute_of_day(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':').filter(|(hours, minutes)| hours.len() == 2 && minutes.len() == 2)?;
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= 1440).then_some(total)
}

/// One activated set of policy and data, as all workers know it.
#[derive(Debug)]
pub struct Generation {
    pub number: u64,
    pub policy: Arc<Policy>,
    /// One an entry of the policy.
    pub plans: Vec<Plan>,
    may_kill: Vec<KillScope>,
}

/// A worker's judge: one generation, one engine.
pub struct Judge {
    pub generation: Arc<Generation>,
    engine: Engine,
    given: Given,
}

/// What came of one question.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub verdict: Verdict,
    pub generation: u64,
    pub input: Value,
    pub answer: Option<Value>,
    /// What went wrong, for the record and the log; never for the client.
    pub fault: Option<String>,
    /// Who judged.
    pub engine: Kind,
    /// The two engines gave different answers, so the request is denied.
    pub disagreed: bool,
    /// Whether it was judged now, or was the answer to an equal question before.
    pub reuse: Reuse,
    pub took: Duration,
}

impl Judge {
    /// Asks entry point `entry` about a case.
    pub fn judge(&mut self, entry: usize, case: &Case<'_>) -> Judgement {
        let began = Instant::now();
        let input = self.generation.plans.get(entry).map_or_else(Value::new_object, |plan| plan.input(case));
        self.answer(entry, input, began)
    }

    /// A judge outside of a gate, for the commands that ask it about an input document as it stands.
    ///
    /// # Errors
    /// The findings of the compiler.
    pub fn alone(policy: &Arc<Policy>, may_kill: &[KillScope]) -> Result<Option<Self>, Report> {
        let bench = Bench::new(1, Arc::new(Registry::new(1)));
        Ok(bench.candidates(policy, may_kill, 1)?.pop())
    }

    /// Asks entry point `entry` about an input document, whoever made it.
    pub fn judge_document(&mut self, entry: usize, input: Value) -> Judgement {
        self.answer(entry, input, Instant::now())
    }

    /// Takes out of a record what the policy keeps out of it.
    ///
    /// # Errors
    /// It is not known what that is.
    pub fn mask(
        &mut self,
        event: serde_json::Map<String, serde_json::Value>,
        input: Option<serde_json::Value>,
        result: Option<serde_json::Value>,
    ) -> Result<crate::policy::Masked, String> {
        self.engine.mask(event, input, result)
    }

    /// Whether the policy keeps a decision out of the record.
    ///
    /// # Errors
    /// It has not said so: its rule failed.
    pub fn drops(&mut self, event: &serde_json::Value) -> Result<bool, String> {
        self.engine.drops(event)
    }

    /// Asks about an input document; in an equal question lies an equal answer.
    fn answer(&mut self, entry: usize, input: Value, began: Instant) -> Judgement {
        let generation = self.generation.number;
        let doubted = || self.generation.policy.is_doubted(entry);
        let (reuse, keeps) = match self.given.find(entry, &input) {
            Found::Kept(kept) if kept.engine == Kind::Interpreter || !doubted() => {
                let (verdict, answer, engine) = (kept.verdict.clone(), kept.answer.clone(), kept.engine);
                let (reuse, took) = (Reuse::Reused, began.elapsed());
                return Judgement { verdict, generation, input, answer, fault: None, engine, disagreed: false, reuse, took };
            }
            Found::Kept(_) | Found::Nothing => (Reuse::Judged, true),
            Found::Resting => (Reuse::Judged, false),
            Found::Never => (Reuse::Unfit, false),
        };
        let Evaluation { answer, by: engine } = self.engine.ask(entry, input.clone());
        let disagreed = answer == Err(EvaluationError::Disagreement);
        let (verdict, answer, fault) = self.read(entry, answer);
        // A fault is this question's alone: one that came too late on a busy machine must not answer for ten thousand others.
        if keeps && fault.is_none() {
            self.given.keep(&verdict, answer.as_ref(), engine);
        }
        Judgement { verdict, generation, input, answer, fault, engine, disagreed, reuse, took: began.elapsed() }
    }

    fn read(&self, entry: usize, answer: Result<Value, EvaluationError>) -> (Verdict, Option<Value>, Option<String>) {
        let Some(shape) = self.generation.policy.entries().get(entry).map(|entry| entry.shape) else {
            return (Verdict::deny(Reason::NoPolicy), None, Some("the policy has no such entry point".to_owned()));
        };
        match answer {
            Ok(answer) => match answer::read(&answer, shape, &self.generation.may_kill) {
                Ok(verdict) => (verdict, Some(answer), None),
                Err(error) => (Verdict::deny(Reason::VerdictType), Some(answer), Some(error.to_string())),
            },
            Err(EvaluationError::Undefined) => (Verdict::deny(Reason::Undefined), None, None),
            Err(EvaluationError::Timeout) => (Verdict::deny(Reason::PolicyTimeout), None, Some("the time limit".to_owned())),
            Err(EvaluationError::Panic(what)) => (Verdict::deny(Reason::PolicyPanic), None, Some(what)),
            Err(error @ EvaluationError::Disagreement) => (Verdict::deny(Reason::PolicyError), None, Some(error.to_string())),
            Err(EvaluationError::Error(what)) => (Verdict::deny(Reason::PolicyError), None, Some(what)),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_engines_that_disagree_deny_the_request_and_the_interpreter_goes_on() {
        let (policy, engine) = crate::policy::engine::tests::lying(1);
        let bench = Bench::new(1, Arc::new(Registry::new(1)));
        let mut judge = bench.candidates(&Arc::new(policy), &[], 1).unwrap().remove(0);
        judge.engine = engine;
        let mut ask = || {
            let Evaluation { answer, by } = judge.engine.ask(0, Value::new_object());
            let (verdict, ..) = judge.read(0, answer);
            (verdict.reason, by)
        };
        assert_eq!(ask(), (Some(Reason::PolicyError), Kind::Vm));
        assert_eq!(ask(), (Some(Reason::Policy), Kind::Interpreter));
    }

    #[test]
    fn an_address_is_on_the_lists_whose_networks_hold_it() {
        let lists = Networks::new(&BTreeMap::from([
            ("corp".to_owned(), vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]),
            ("lab".to_owned(), vec!["10.1.2.3/16".parse().unwrap()]),
        ]));
        let on = |address: &str| lists.naming(address.parse().unwrap()).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(on("10.1.9.9"), ["corp", "lab"]);
        assert_eq!(on("10.2.0.1"), ["corp"]);
        assert_eq!(on("2001:db8::7"), ["corp"]);
        assert_eq!(on("192.0.2.1"), Vec::<String>::new());
    }

    #[test]
    fn a_window_is_open_on_its_days_between_its_minutes() {
        let window = TimeWindow { days: vec![Day::Mon, Day::Tue], from: "08:00".to_owned(), to: "18:00".to_owned() };
        // 2026-11-23 is a Monday; 20,780 days after the epoch.
        let at = |day: u64, hour: u64, minute: u64| Duration::from_secs(((20_780 + day) * 24 + hour) * 3600 + minute * 60);
        assert!(window.open(at(0, 8, 0)) && window.open(at(1, 17, 59)));
        assert!(!window.open(at(0, 7, 59)) && !window.open(at(0, 18, 0)) && !window.open(at(2, 9, 0)));
        assert!(!TimeWindow { from: "8:00".to_owned(), ..window }.open(at(0, 9, 0)), "an unreadable window is closed");
        assert_eq!((minute_of_day("24:00"), minute_of_day("24:01"), minute_of_day("12:60")), (Some(1440), None, None));
    }
}
