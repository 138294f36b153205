//! Names to addresses, once a request, with a short memory.
//!
//! In: a host of a normalised request. Out: all its addresses. An agent that calls one API a hundred times a second must not ask the
//! name server as often, so an answer is kept for a few seconds, a failure never. How long the name server would have it kept is not
//! known here (getaddrinfo does not say), which is why the memory is short.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(5);
/// Names that are remembered; beyond, everything is forgotten: an agent that asks for this many is not helped by a memory.
const MOST: usize = 1024;

/// One worker's memory of names.
#[derive(Debug, Default)]
pub struct Resolver {
    known: RefCell<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    since: Instant,
    addresses: Rc<[IpAddr]>,
}

/// Asks the system's resolver. It applies the search list of `resolv.conf`, so what comes is judged by its addresses.
///
/// # Errors
/// What the resolver says.
pub async fn system(host: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
}

impl Resolver {
    /// All addresses of a host: the literal's own, or what `lookup` says, each once and in its order.
    ///
    /// # Errors
    /// What `lookup` says, that it took too long, or that the name has no address.
    pub async fn resolve<F>(
        &self,
        host: &str,
        now: Instant,
        within: Duration,
        lookup: impl FnOnce(String) -> F,
    ) -> io::Result<Rc<[IpAddr]>>
    where
        F: Future<Output = io::Result<Vec<IpAddr>>>,
    {
        if let Ok(literal) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Rc::new([literal]));
        }
        if let Some(known) = self.remembered(host, now) {
            return Ok(known);
        }
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let mut addresses = tokio::time::timeout(within, lookup(host.to_owned())).await.map_err(late)??;
        let mut seen = std::collections::HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        let addresses: Rc<[IpAddr]> = addresses.into();
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(host.to_owned(), Known { since: now, addresses: Rc::clone(&addresses) });
        Ok(addresses)
    }

    fn remembered(&self, host: &str, now: Instant) -> Option<Rc<[IpAddr]>> {
        let known = self.known.borrow();
        let fresh = known.get(host).filter(|known| now.saturating_duration_since(known.since) < FRESH);
        fresh.map(|known| Rc::clone(&known.addresses))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_and_anew_when_its_answer_is_old() {
        let (resolver, asked, now) = (Resolver::default(), Cell::new(0), Instant::now());
        // A name server that answers otherwise each time: first a public address, then the metadata service.
        let lookup = |_: String| {
            asked.set(asked.get() + 1);
            let answer = if asked.get() == 1 { ["192.0.2.1"; 2] } else { ["169.254.169.254"; 2] };
            async move { Ok(addresses(&answer)) }
        };
        let first = resolver.resolve("rebind.example", now, WITHIN, lookup).await.unwrap();
        assert_eq!(*first, *addresses(&["192.0.2.1"]), "and each address once");
        assert_eq!(resolver.resolve("rebind.example", now + FRESH / 2, WITHIN, lookup).await.unwrap(), first);
        assert_eq!(asked.get(), 1);
        let later = resolver.resolve("rebind.example", now + FRESH, WITHIN, lookup).await.unwrap();
        assert_eq!(*later, *addresses(&["169.254.169.254"]));
    }

    #[tokio::test]
    async fn literals_are_not_looked_up_and_failures_not_remembered() {
        let (resolver, now) = (Resolver::default(), Instant::now());
        let nobody = |_: String| async { Err(io::Error::from(io::ErrorKind::NotFound)) };
        assert_eq!(*resolver.resolve("127.0.0.1", now, WITHIN, nobody).await.unwrap(), *addresses(&["127.0.0.1"]));
        assert_eq!(*resolver.resolve("[::1]", now, WITHIN, nobody).await.unwrap(), *addresses(&["::1"]));
        assert!(resolver.resolve("a.example", now, WITHIN, nobody).await.is_err());
        assert!(resolver.resolve("a.example", now, WITHIN, |_| async { Ok(Vec::new()) }).await.is_err());
        assert!(resolver.resolve("a.example", now, WITHIN, |_| async { Ok(addresses(&["192.0.2.1"])) }).await.is_ok());
        let never = |_: String| std::future::pending();
        let late = resolver.resolve("b.example", now, Duration::from_millis(1), never).await;
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let (resolver, now) = (Resolver::default(), Instant::now());
        for name in 0..2 * MOST {
            let some = |_: String| async { Ok(addresses(&["192.0.2.1"])) };
            resolver.resolve(&format!("{name}.example"), now, WITHIN, some).await.unwrap();
        }
        assert!(resolver.known.borrow().len() <= MOST);
    }
}
