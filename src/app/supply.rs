//! What services gave for bundles: the archives in force, the newest ones, and the copies kept for a start without the service.
//!
//! In: archives as they come. Out: the sets of them a policy may be loaded from. What must stay true: a set is whole or there is none;
//! an archive counts as in force only after a policy made of it is, and only then is it kept on the disk. A newest one that was refused
//! is remembered: two bundles that changed together (a rule moved from one to the other) come one after the other, and only both fit.
//! One that an operator went back from is held: it stays out, after a restart as well, until its service gives another or an operator
//! orders it. What a service has not confirmed for too long is told as stale; a restart does not make it younger.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::config::Config;
use crate::policy::{Archives, BundleSource, Entry, Policy, Report};
use crate::service::Service;
use crate::store::bundles::{self, Held};
use crate::tls::Holder;
use crate::units::{Span, since_epoch};

use super::AppError;

/// What a service gave for a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Archive {
    pub(super) bytes: Bytes,
    pub(super) etag: Option<String>,
}

/// One archive for each bundle that is fetched.
pub(super) type Set = BTreeMap<String, Archive>;

#[derive(Debug, Default)]
struct Stock {
    in_force: Option<Archive>,
    /// Newer than that, and not in force: it waits for others, was refused, or is held.
    newest: Option<Archive>,
    held: Option<Held>,
    confirmed: Option<Confirmed>,
    /// The last confirmation that is on the disk.
    noted: Option<Instant>,
}

/// When a service last said that what is in force is the newest.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    at: Instant,
    /// How old the word was then: after a start, as the wall clock has it. From there on no clock that is set makes it younger.
    age: Duration,
}

/// What came into force last, and what was before it.
#[derive(Debug, Default)]
struct Steps {
    now: Set,
    before: Option<Set>,
}

/// What is to be tried with a new archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// These sets, one after the other; none where another bundle is missing.
    Sets(Vec<Set>),
    /// An operator went back from it.
    Held,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Supply {
    state: PathBuf,
    pub(super) services: BTreeMap<String, Arc<Service>>,
    stocks: Mutex<BTreeMap<String, Stock>>,
    steps: Mutex<Steps>,
}

impl Supply {
    /// Makes the services ready, and reads what is kept of bundles. A copy that cannot be used is told and left where it is.
    pub(super) fn open(config: &Config, holder: &Arc<Holder>) -> Result<Self, AppError> {
        let service = |(name, service): (&String, &crate::service::Config)| {
            let made = Service::new(name, service, Arc::clone(holder));
            made.map(|made| (name.clone(), Arc::new(made))).map_err(|why| AppError::Config(format!("services.{name}.{why}")))
        };
        let services = config.services.iter().map(service).collect::<Result<_, _>>()?;
        let state = config.state.directory.clone();
        let stocks = fetched(config).map(|name| (name.to_owned(), kept(config, name).unwrap_or_default()));
        Ok(Self { state, services, stocks: Mutex::new(stocks.collect()), steps: Mutex::default() })
    }

    /// The policy of a start, made of what is kept; none where a bundle is yet to be fetched. Mistakes in bundles on this machine are
    /// whoever configured them; a kept copy that does not fit them is told, and fetched anew.
    pub(super) fn first(&self, config: &Config, entries: &[Entry]) -> Result<Option<Policy>, Report> {
        if self.stocks().is_empty() {
            return Policy::load(&config.policy, entries).map(Some);
        }
        let here = config.policy.bundles.iter().filter(|(_, source)| source.path().is_some());
        let findings: Vec<_> = here.filter_map(|(name, source)| source.read(name, &Archives::new()).err()).flatten().collect();
        if !findings.is_empty() {
            return Err(Report::sorted(findings));
        }
        let Some(set) = self.standing() else { return Ok(None) };
        match Policy::load_with(&config.policy, entries, &archives(&set)) {
            Ok(policy) => {
                self.steps().now = set;
                Ok(Some(policy))
            }
            Err(report) => {
                tracing::error!(%report, "the bundles kept from before were refused; everything is denied until they are fetched");
                self.forget();
                Ok(None)
            }
        }
    }

    /// Forgets every archive, so that each is fetched anew; false where there is none to fetch.
    pub(super) fn forget(&self) -> bool {
        let mut stocks = self.stocks();
        stocks.values_mut().for_each(|stock| *stock = Stock::default());
        !stocks.is_empty()
    }

    /// What an operator orders: what stands, with what is held, and with the newest archive of these bundles although it was refused.
    pub(super) fn ordered(&self, allowed: &[String]) -> Option<Set> {
        let mut set = self.standing()?;
        for (name, stock) in self.stocks().iter() {
            let wanted = stock.held.is_some() || allowed.contains(name);
            set.extend(stock.newest.clone().filter(|_| wanted).map(|newest| (name.clone(), newest)));
        }
        Some(set)
    }

    /// What a policy is loaded from when nothing new came; none where a bundle is missing.
    pub(super) fn standing(&self) -> Option<Set> {
        let stocks = self.stocks();
        let archive = |(name, stock): (&String, &Stock)| {
            let archive = stock.in_force.as_ref().or(stock.newest.as_ref())?;
            Some((name.clone(), archive.clone()))
        };
        stocks.iter().map(archive).collect()
    }

    /// The ETag of what is in force.
    pub(super) fn etag(&self, bundle: &str) -> Option<String> {
        self.stocks().get(bundle)?.in_force.as_ref()?.etag.clone()
    }

    /// Takes a new archive, and gives the sets to try with it: the newest of all, then with the others as they are in force.
    pub(super) fn offer(&self, bundle: &str, archive: Archive) -> Offer {
        let mut stocks = self.stocks();
        if let Some(stock) = stocks.get_mut(bundle) {
            let held = stock.held.as_ref().is_some_and(|held| held.sha256 == bundles::digest(&archive.bytes));
            stock.newest = Some(archive);
            if held {
                return Offer::Held;
            }
        }
        let chosen = |choose: &dyn Fn(&str, &Stock) -> Option<Archive>| -> Option<Set> {
            stocks.iter().map(|(name, stock)| Some((name.clone(), choose(name, stock)?))).collect()
        };
        let newest = chosen(&|name, stock| {
            let waits = stock.held.is_some() && name != bundle;
            stock.newest.clone().filter(|_| !waits).or_else(|| stock.in_force.clone())
        });
        let others_stay = chosen(&|name, stock| if name == bundle { stock.newest.clone() } else { stock.in_force.clone() });
        let mut sets: Vec<Set> = newest.into_iter().chain(others_stay).collect();
        sets.dedup();
        Offer::Sets(sets)
    }

    /// A set has come into force. What of it was not before is kept on the disk, where it is to be; the names of those come back.
    pub(super) fn in_force(&self, config: &Config, set: &Set) -> Vec<String> {
        let mut new = Vec::new();
        for (name, archive) in set {
            if let Some(stock) = self.stocks().get_mut(name)
                && stock.in_force.as_ref() != Some(archive)
            {
                stock.in_force = Some(archive.clone());
                stock.newest = stock.newest.take().filter(|newest| newest != archive);
                stock.held = None;
                new.push(name.clone());
            }
        }
        let mut steps = self.steps();
        steps.before = Some(std::mem::replace(&mut steps.now, set.clone()));
        drop(steps);
        for name in &new {
            // What failed is in the log; the bundle is in force all the same.
            let _ = self.keep(config, name);
        }
        new
    }

    /// The policy before the one in force is in force again. Holds back what it left, where a service gave that, and gives what an
    /// operator should know of it.
    pub(super) fn went_back(&self, config: &Config, since: u64) -> Vec<String> {
        let mut steps = self.steps();
        let Some(before) = steps.before.take() else { return Vec::new() };
        let mut changed = Vec::new();
        for (name, archive) in &before {
            if let Some(stock) = self.stocks().get_mut(name)
                && stock.in_force.as_ref() != Some(archive)
            {
                let left = stock.in_force.replace(archive.clone());
                let forward = stock.held.as_ref().is_some_and(|held| held.sha256 == bundles::digest(&archive.bytes));
                let digest = left.as_ref().filter(|_| !forward).map(|left| bundles::digest(&left.bytes));
                stock.held = digest.map(|sha256| Held { sha256, since });
                stock.newest = left.filter(|_| !forward);
                changed.push((name.clone(), forward));
            }
        }
        let left = std::mem::replace(&mut steps.now, before);
        steps.before = Some(left);
        drop(steps);
        let note = |(name, forward): &(String, bool)| match (self.keep(config, name), forward) {
            (_, true) => format!("bundle `{name}`: what was held back is in force again"),
            (Ok(true), false) => format!(
                "bundle `{name}`: its newest version is held back, after a restart as well, until its service gives another or `portcullis \
                 policy activate` takes it"
            ),
            (Ok(false), false) => {
                format!(
                    "bundle `{name}`: its newest version is held back until a restart, because it is not kept (`persist: false`)"
                )
            }
            (Err(error), false) => {
                format!("bundle `{name}`: its newest version is held back until a restart, because that could not be kept: {error}")
            }
        };
        changed.iter().map(note).collect()
    }

    /// Keeps what is in force of a bundle on the disk, with what is held and when it was confirmed; false where nothing is to be kept.
    fn keep(&self, config: &Config, name: &str) -> std::io::Result<bool> {
        let persist = config.policy.bundles.get(name).and_then(|source| source.remote()).is_some_and(|remote| remote.persist);
        let copy = self.stocks().get(name).filter(|_| persist).and_then(|stock| {
            let Archive { bytes, etag } = stock.in_force.clone()?;
            let confirmed = stock.confirmed.map(|confirmed| seconds_now().saturating_sub(confirmed.age().as_secs()));
            Some(bundles::Kept { archive: bytes.to_vec(), etag, held: stock.held.clone(), confirmed })
        });
        let Some(copy) = copy else { return Ok(false) };
        let kept = bundles::write(&self.state, name, &copy);
        if let Err(error) = &kept {
            let folder = bundles::folder(&self.state, name);
            tracing::error!(bundle = %name, folder = %folder.display(), %error, "the bundle is in force and could not be kept");
        }
        kept.map(|()| true)
    }

    /// Since when a version of a bundle is held back, in seconds since 1970.
    pub(super) fn held_since(&self, bundle: &str) -> Option<u64> {
        Some(self.stocks().get(bundle)?.held.as_ref()?.since)
    }

    /// The service of a bundle says that what is in force is the newest. True where that is to be noted on the disk: seldom enough to cost
    /// nothing, and often enough that a restart makes it older by a tenth of what it may be.
    pub(super) fn confirmed(&self, bundle: &str, max_staleness: Option<Span>) -> bool {
        let now = Instant::now();
        let mut stocks = self.stocks();
        let Some(stock) = stocks.get_mut(bundle) else { return false };
        stock.confirmed = Some(Confirmed { at: now, age: Duration::ZERO });
        let Some(limit) = max_staleness else { return false };
        let due = stock.noted.is_none_or(|noted| now.saturating_duration_since(noted) >= limit.0 / 10);
        if due {
            stock.noted = Some(now);
        }
        due
    }

    /// Notes on the disk that a bundle was confirmed now.
    pub(super) fn note_confirmed(&self, bundle: &str) {
        if let Err(error) = bundles::confirm(&self.state, bundle, seconds_now()) {
            tracing::warn!(bundle, %error, "that the bundle was confirmed could not be kept; after a restart it counts as older");
        }
    }

    /// The bundles in force that their services have not confirmed for longer than they may go without.
    pub(super) fn stale(&self, config: &Config) -> Vec<String> {
        let stocks = self.stocks();
        let is_stale = |(name, source): &(&String, &BundleSource)| {
            let limit = source.remote().and_then(|remote| remote.max_staleness);
            let stock = stocks.get(*name).filter(|stock| stock.in_force.is_some());
            // Nobody knows when it was confirmed: unclear is stale.
            limit.zip(stock).is_some_and(|(limit, stock)| stock.confirmed.is_none_or(|confirmed| confirmed.age() > limit.0))
        };
        config.policy.bundles.iter().filter(is_stale).map(|(name, _)| name.clone()).collect()
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stocks(&self) -> MutexGuard<'_, BTreeMap<String, Stock>> {
        self.stocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Confirmed {
    fn age(&self) -> Duration {
        self.age + self.at.elapsed()
    }

    /// As it was noted before a start; nothing where the clock was set back since, for then nobody knows.
    fn noted(at: u64) -> Option<Self> {
        let age = seconds_now().checked_sub(at)?;
        Some(Self { at: Instant::now(), age: Duration::from_secs(age) })
    }
}

fn seconds_now() -> u64 {
    since_epoch(SystemTime::now()).as_secs()
}

/// The archives of a set, as a policy is loaded from them.
pub(super) fn archives(set: &Set) -> Archives {
    set.iter().map(|(name, archive)| (name.clone(), archive.bytes.clone())).collect()
}

/// The bundles that come from services.
pub(super) fn fetched(config: &Config) -> impl Iterator<Item = &str> {
    config.policy.bundles.iter().filter(|(_, source)| source.remote().is_some()).map(|(name, _)| name.as_str())
}

/// The copy that is kept of a bundle, if it is to be kept and can be read.
fn kept(config: &Config, name: &str) -> Option<Stock> {
    let source = config.policy.bundles.get(name)?;
    let remote = source.remote().filter(|remote| remote.persist)?;
    let folder = bundles::folder(&config.state.directory, name);
    let ignored = |error: &dyn std::fmt::Display| {
        tracing::error!(bundle = name, folder = %folder.display(), %error, "the copy kept of the bundle was ignored; it is fetched anew");
    };
    let copy = match bundles::read(&config.state.directory, name, remote.size_limit) {
        Ok(copy) => copy?,
        Err(error) => {
            ignored(&error);
            return None;
        }
    };
    let (held, confirmed) = (copy.held, copy.confirmed.and_then(Confirmed::noted));
    let archive = Archive { bytes: Bytes::from(copy.archive), etag: copy.etag };
    match source.read(name, &Archives::from([(name.to_owned(), archive.bytes.clone())])) {
        Ok(_) => Some(Stock { in_force: Some(archive), held, confirmed, ..Stock::default() }),
        Err(findings) => {
            ignored(&Report::sorted(findings));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(text: &'static str) -> Archive {
        Archive { bytes: Bytes::from_static(text.as_bytes()), etag: None }
    }

    #[test]
    fn a_set_is_whole_and_the_newest_are_tried_together_first() {
        let stocks = ["a", "b"].map(|name| (name.to_owned(), Stock::default()));
        let supply =
            Supply { state: PathBuf::new(), services: BTreeMap::new(), stocks: Mutex::new(stocks.into()), steps: Mutex::default() };
        let set = |a, b| Set::from([("a".to_owned(), archive(a)), ("b".to_owned(), archive(b))]);
        let sets = |sets: &[Set]| Offer::Sets(sets.to_vec());
        assert_eq!(supply.offer("a", archive("a1")), sets(&[]), "b is missing");
        assert_eq!(supply.offer("b", archive("b1")), sets(&[set("a1", "b1")]));
        for (name, stock) in supply.stocks().iter_mut() {
            let first = if name == "a" { "a1" } else { "b1" };
            *stock = Stock { in_force: Some(archive(first)), ..Stock::default() };
        }
        assert_eq!(supply.offer("a", archive("a2")), sets(&[set("a2", "b1")]));
        assert_eq!(supply.offer("b", archive("b2")), sets(&[set("a2", "b2"), set("a1", "b2")]), "a2 was refused alone");
        assert_eq!(supply.standing(), Some(set("a1", "b1")));
        // Held, it waits for an order while others go on.
        if let Some(stock) = supply.stocks().get_mut("a") {
            stock.held = Some(Held { sha256: bundles::digest(b"a2"), since: 1 });
        }
        assert_eq!(supply.offer("a", archive("a2")), Offer::Held);
        assert_eq!(supply.offer("b", archive("b3")), sets(&[set("a1", "b3")]));
        assert_eq!(supply.ordered(&[]), Some(set("a2", "b1")));
        assert_eq!(supply.ordered(&["b".to_owned()]), Some(set("a2", "b3")));
        assert_eq!(supply.offer("a", archive("a3")), sets(&[set("a3", "b3"), set("a3", "b1")]), "another one is tried");
    }
}
