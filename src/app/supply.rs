//! What services gave for bundles: the archives in force, the newest ones, and the copies kept for a start without the service.
//!
//! In: archives as they come. Out: the sets of them a policy may be loaded from. What must stay true: a set is whole or there is none;
//! an archive counts as in force only after a policy made of it is, and only then is it kept on the disk. A newest one that was refused
//! is remembered: two bundles that changed together (a rule moved from one to the other) come one after the other, and only both fit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::config::Config;
use crate::policy::{Archives, Entry, Policy, Report};
use crate::service::Service;
use crate::store::bundles;
use crate::tls::Holder;

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
    /// Newer than that, and not in force: it waits for others, or was refused.
    newest: Option<Archive>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Supply {
    state: PathBuf,
    pub(super) services: BTreeMap<String, Arc<Service>>,
    stocks: Mutex<BTreeMap<String, Stock>>,
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
        let stocks = fetched(config).map(|name| (name.to_owned(), Stock { in_force: kept(config, name), newest: None }));
        Ok(Self { state, services, stocks: Mutex::new(stocks.collect()) })
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
            Ok(policy) => Ok(Some(policy)),
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

    /// What stands, with the newest archive of these bundles although it was refused: an operator allows it.
    pub(super) fn standing_with(&self, allowed: &[String]) -> Option<Set> {
        let mut set = self.standing()?;
        let stocks = self.stocks();
        for name in allowed {
            if let Some(newest) = stocks.get(name).and_then(|stock| stock.newest.clone()) {
                set.insert(name.clone(), newest);
            }
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

    /// Takes a new archive, and gives the sets to try with it: the newest of all, then with the others as they are in force. No set
    /// where another bundle is missing.
    pub(super) fn offer(&self, bundle: &str, archive: Archive) -> Vec<Set> {
        let mut stocks = self.stocks();
        if let Some(stock) = stocks.get_mut(bundle) {
            stock.newest = Some(archive);
        }
        let chosen = |choose: &dyn Fn(&str, &Stock) -> Option<Archive>| -> Option<Set> {
            stocks.iter().map(|(name, stock)| Some((name.clone(), choose(name, stock)?))).collect()
        };
        let newest = chosen(&|_, stock| stock.newest.clone().or_else(|| stock.in_force.clone()));
        let others_stay = chosen(&|name, stock| if name == bundle { stock.newest.clone() } else { stock.in_force.clone() });
        let mut sets: Vec<Set> = newest.into_iter().chain(others_stay).collect();
        sets.dedup();
        sets
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
                new.push(name.clone());
            }
        }
        for name in &new {
            let persist = config.policy.bundles.get(name).and_then(|source| source.remote()).is_some_and(|remote| remote.persist);
            let Some(archive) = set.get(name).filter(|_| persist) else { continue };
            if let Err(error) = bundles::write(&self.state, name, &archive.bytes, archive.etag.as_deref()) {
                let folder = bundles::folder(&self.state, name);
                tracing::error!(bundle = %name, folder = %folder.display(), %error, "the bundle is in force and could not be kept");
            }
        }
        new
    }

    fn stocks(&self) -> MutexGuard<'_, BTreeMap<String, Stock>> {
        self.stocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
fn kept(config: &Config, name: &str) -> Option<Archive> {
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
    let archive = Archive { bytes: Bytes::from(copy.archive), etag: copy.etag };
    match source.read(name, &Archives::from([(name.to_owned(), archive.bytes.clone())])) {
        Ok(_) => Some(archive),
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
        let supply = Supply { state: PathBuf::new(), services: BTreeMap::new(), stocks: Mutex::new(stocks.into()) };
        let set = |a, b| Set::from([("a".to_owned(), archive(a)), ("b".to_owned(), archive(b))]);
        assert_eq!(supply.offer("a", archive("a1")), vec![], "b is missing");
        assert_eq!(supply.offer("b", archive("b1")), vec![set("a1", "b1")]);
        for (name, stock) in supply.stocks().iter_mut() {
            let first = if name == "a" { "a1" } else { "b1" };
            *stock = Stock { in_force: Some(archive(first)), newest: None };
        }
        assert_eq!(supply.offer("a", archive("a2")), vec![set("a2", "b1")]);
        assert_eq!(supply.offer("b", archive("b2")), vec![set("a2", "b2"), set("a1", "b2")], "a2 was refused alone");
        assert_eq!(supply.standing(), Some(set("a1", "b1")));
    }
}
