//! `net.cidr_*`: networks as Go's `net` package reads them.
//!
//! In: addresses and networks as text. Out: what OPA says. What must stay true: an IPv4 address written as IPv6
//! (`::ffff:10.0.0.7`) is that IPv4 address, so that a list of networks means the same whichever way a peer is written; regorus'
//! own `net.cidr_contains` says it lies in no IPv4 network, and its `net.cidr_expand` gives an array where OPA gives a set.
//! OPA gives a bare address in `net.cidr_merge` the mask of its old class, and so does this.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regorus::Value;

use super::{TooLong, text};

/// Pairs `net.cidr_contains_matches` compares, and matches it lists, before the evaluation ends as one that took too long.
const PAIRS: usize = 1 << 20;
const MATCHES: usize = 1 << 14;
/// Addresses `net.cidr_expand` lists.
const ADDRESSES: u32 = 16;
/// Where IPv4 begins in IPv6.
const MAPPED: u128 = 0xffff_0000_0000;

/// An address; IPv4 in its own form even where it was written as IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Address {
    V4(u32),
    V6(u128),
}

/// A network whose address has no bits beyond its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Network {
    start: Address,
    prefix: u32,
}

impl Address {
    /// An address without a zone.
    pub(in crate::policy) fn read(text: &str) -> Option<Self> {
        Some(Self::from(text.parse::<IpAddr>().ok()?))
    }

    /// Both families on one line of numbers.
    fn number(self) -> u128 {
        match self {
            Self::V4(bits) => MAPPED | u128::from(bits),
            Self::V6(bits) => bits,
        }
    }

    fn numbered(number: u128) -> Self {
        Self::from(IpAddr::V6(Ipv6Addr::from_bits(number)))
    }

    fn written(self) -> String {
        match self {
            Self::V4(bits) => Ipv4Addr::from_bits(bits).to_string(),
            Self::V6(bits) => Ipv6Addr::from_bits(bits).to_string(),
        }
    }

    fn width(self) -> u32 {
        match self {
            Self::V4(_) => 32,
            Self::V6(_) => 128,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6(address.to_bits()),
        }
    }
}

/// The bits beyond a prefix.
fn host_bits(width: u32, prefix: u32) -> u128 {
    1_u128.checked_shl(width.saturating_sub(prefix)).map_or(u128::MAX, |size| size - 1)
}

impl Network {
    /// `address/prefix`
    pub(in crate::policy) fn read(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (prefix, address) = (prefix.parse::<u32>().ok()?, address.parse::<IpAddr>().ok()?);
        match address {
            IpAddr::V4(address) if prefix <= 32 => Some(Self::of(Address::V4(address.to_bits()), prefix)),
            IpAddr::V6(address) if prefix <= 128 => {
                let start = Address::numbered(address.to_bits() & !host_bits(128, prefix));
                let inner = if start.width() == 32 { prefix.saturating_sub(96) } else { prefix };
                Some(Self { start, prefix: inner })
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    fn of(address: Address, prefix: u32) -> Self {
        let start = Address::numbered(address.number() & !host_bits(address.width(), prefix));
        Self { start, prefix }
    }

    fn end(self) -> u128 {
        self.start.number() | host_bits(self.start.width(), self.prefix)
    }

    pub(in crate::policy) fn has(self, address: Address) -> bool {
        address.width() == self.start.width() && self.start.number() <= address.number() && address.number() <= self.end()
    }

    pub(in crate::policy) fn covers(self, other: Self) -> bool {
        self.has(other.start) && other.end() <= self.end()
    }

    fn written(self) -> String {
        format!("{}/{}", self.start.written(), self.prefix)
    }
}

/// What may lie in a network.
enum Asked {
    One(Address),
    All(Network),
}

impl Asked {
    fn read(text: &str) -> Option<Self> {
        Address::read(text).map(Self::One).or_else(|| Network::read(text).map(Self::All))
    }

    fn within(&self, network: Network) -> bool {
        match self {
            Self::One(address) => network.has(*address),
            Self::All(other) => network.covers(*other),
        }
    }
}

/// `net.cidr_contains(network, network or address)`
pub(super) fn contains(arguments: &[Value]) -> Option<Value> {
    let [network, asked] = arguments else { return None };
    let (network, asked) = (Network::read(text(network)?)?, Asked::read(text(asked)?)?);
    Some(asked.within(network).into())
}

/// `net.cidr_is_valid(network)`
pub(super) fn is_valid(arguments: &[Value]) -> Option<Value> {
    let [network] = arguments else { return None };
    Some(text(network).and_then(Network::read).is_some().into())
}

/// `net.cidr_intersects(network, network)`
pub(super) fn intersects(arguments: &[Value]) -> Option<Value> {
    let [one, other] = arguments else { return None };
    let (one, other) = (Network::read(text(one)?)?, Network::read(text(other)?)?);
    Some((one.has(other.start) || other.has(one.start)).into())
}

/// `net.cidr_expand(network)`: the set of its addresses. What is larger than a load-time check lets through is undefined.
pub(super) fn expand(arguments: &[Value]) -> Option<Value> {
    let [network] = arguments else { return None };
    let network = Network::read(text(network)?)?;
    if network.start.width().saturating_sub(network.prefix) > ADDRESSES {
        return None;
    }
    let addresses = network.start.number()..=network.end();
    Some(addresses.map(|number| Value::from(Address::numbered(number).written())).collect::<BTreeSet<_>>().into())
}

/// The texts in an operand of `net.cidr_contains_matches`, each with what stands for it in the answer.
fn indexed(operand: &Value) -> Option<Vec<(&Value, Value)>> {
    fn term(item: &Value) -> Option<&Value> {
        match item {
            Value::String(_) => Some(item),
            Value::Array(items) => items.first(),
            _ => None,
        }
    }
    match operand {
        Value::String(_) => Some(vec![(operand, operand.clone())]),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| Some((term(item)?, Value::from(at)))).collect(),
        Value::Set(items) => items.iter().map(|item| Some((term(item)?, item.clone()))).collect(),
        Value::Object(items) => items.iter().map(|(key, item)| Some((term(item)?, key.clone()))).collect(),
        _ => None,
    }
}

/// `net.cidr_contains_matches(networks, networks or addresses)`: every pair of which the first contains the second.
pub(super) fn contains_matches(arguments: &[Value]) -> Result<Option<Value>, TooLong> {
    let [networks, asked] = arguments else { return Ok(None) };
    let (Some(networks), Some(asked)) = (indexed(networks), indexed(asked)) else { return Ok(None) };
    if networks.len().saturating_mul(asked.len()) > PAIRS {
        return Err(TooLong);
    }
    if networks.is_empty() || asked.is_empty() {
        return Ok(Some(Value::new_set()));
    }
    let ranges: Option<Vec<Network>> = networks.iter().map(|(network, _)| Network::read(text(network)?)).collect();
    let wanted: Option<Vec<Asked>> = asked.iter().map(|(asked, _)| Asked::read(text(asked)?)).collect();
    let (Some(ranges), Some(wanted)) = (ranges, wanted) else { return Ok(None) };
    let mut matches = BTreeSet::new();
    for (range, (_, one)) in ranges.iter().zip(&networks) {
        for (_, (_, other)) in wanted.iter().zip(&asked).filter(|(wanted, _)| wanted.within(*range)) {
            matches.insert(Value::from(vec![one.clone(), other.clone()]));
            if matches.len() > MATCHES {
                return Err(TooLong);
            }
        }
    }
    Ok(Some(matches.into()))
}

/// A run of addresses, and how it is written while it is one network of the request.
struct Run {
    first: u128,
    last: u128,
    written: Option<String>,
}

/// An element of `net.cidr_merge`.
fn run(element: &Value) -> Option<Run> {
    let element = text(element)?;
    let (network, written) = match Address::read(element) {
        Some(address @ Address::V4(bits)) => {
            let prefix = match bits >> 24 {
                0..128 => 8,
                128..192 => 16,
                _ => 24,
            };
            (Network::of(address, prefix), format!("{}/{prefix}", address.written()))
        }
        Some(Address::V6(_)) => return None,
        None => {
            let network = Network::read(element)?;
            (network, network.written())
        }
    };
    Some(Run { first: network.start.number(), last: network.end(), written: Some(written) })
}

/// `net.cidr_merge(addresses)`: the fewest networks that hold the same addresses.
pub(super) fn merge(arguments: &[Value]) -> Option<Value> {
    let mut runs: Vec<Run> = match arguments {
        [Value::Array(items)] => items.iter().map(run).collect::<Option<_>>()?,
        [Value::Set(items)] => items.iter().map(run).collect::<Option<_>>()?,
        _ => return None,
    };
    runs.sort_by_key(|run| (run.last, run.first));
    let mut merged: Vec<Run> = Vec::new();
    // From the last to the first, each swallowed by the one before where they touch.
    let mut after: Option<Run> = None;
    for before in runs.into_iter().rev() {
        after = Some(match after {
            None => before,
            Some(after) if previous(after.first) <= before.last => {
                Run { first: before.first.min(after.first), last: after.last, written: None }
            }
            Some(after) => {
                merged.push(after);
                before
            }
        });
    }
    merged.extend(after);
    let mut networks = BTreeSet::new();
    for run in merged {
        match run.written {
            Some(written) => drop(networks.insert(Value::from(written))),
            None => networks.extend(cover(run.first, run.last).into_iter().map(|network| Value::from(network.written()))),
        }
    }
    Some(networks.into())
}

/// The address before, in the same family.
fn previous(number: u128) -> u128 {
    if number == MAPPED { number } else { number.saturating_sub(1) }
}

/// The fewest networks that hold exactly these addresses.
fn cover(first: u128, last: u128) -> Vec<Network> {
    let mut networks = Vec::new();
    let mut at = first;
    let width = Address::numbered(first).width();
    loop {
        let aligned = at.trailing_zeros().min(width);
        let room = last - at;
        let fits = room.checked_add(1).map_or(128, |size| 127 - size.leading_zeros());
        let bits = aligned.min(fits).min(width);
        networks.push(Network { start: Address::numbered(at), prefix: width - bits });
        let Some(next) = host_bits(bits, 0).checked_add(1).and_then(|size| at.checked_add(size)) else { return networks };
        if next > last {
            return networks;
        }
        at = next;
    }
}
