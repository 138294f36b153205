//! Address lists: which named networks an address lies in.
//!
//! In: `address_lists`. Out: the names of the lists an address is on.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
