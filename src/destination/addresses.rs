//! Which addresses may be reached: everything public, and of the rest what an entry of `destinations` names.
//!
//! In: an address. Out: whether an agent may be connected to it. What must stay true: an address that is public by its form and
//! private by what stands behind it counts as private. So an IPv4 address inside an IPv6 one (mapped, compatible, NAT64, 6to4,
//! Teredo) is judged as both. `IpAddr::is_global` would say most of this and is not stable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What an entry permits besides public addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// RFC 1918, RFC 6598 and RFC 4193. Loopback, link-local and the rest must be named as networks: whoever opens the private
    /// network does not mean the cloud's metadata service.
    pub private: bool,
    pub networks: Vec<IpNet>,
}

impl Permit {
    /// Whether an address may be reached.
    pub fn allows(&self, address: IpAddr) -> bool {
        let named = self.networks.iter().any(|network| network.contains(&address));
        let itself = match class(address) {
            Class::Public => true,
            Class::Private => self.private || named,
            Class::Special => named,
        };
        itself && embedded(address).is_none_or(|inner| self.allows(IpAddr::V4(inner)))
    }
}

/// Whether an address is anybody's to reach.
pub fn is_public(address: IpAddr) -> bool {
    class(address) == Class::Public
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Public,
    /// Networks of one's own.
    Private,
    /// This host, this link, many hosts, no host, or another address in disguise.
    Special,
}

fn class(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(address) => class_of_four(address),
        IpAddr::V6(address) => class_of_six(address),
    }
}

/// The special-purpose registry of IPv4 (RFC 6890).
fn class_of_four(address: Ipv4Addr) -> Class {
    match address.octets() {
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Class::Private,
        [0 | 127 | 224..=255, ..] | [169, 254, ..] | [198, 18 | 19, ..] => Class::Special,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => Class::Special,
        _ => Class::Public,
    }
}

/// Of IPv6 only the global unicast space is public (RFC 4291), without the parts of it that are not.
fn class_of_six(address: Ipv6Addr) -> Class {
    match address.segments() {
        [0xfc00..=0xfdff, ..] => Class::Private,
        // 2001::/23 is protocol assignments (Teredo, ORCHID, benchmarking), 2001:db8::/32 and 3fff::/20 documentation, 2002::/16 6to4.
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x2002, ..] | [0x3fff, 0..=0x0fff, ..] => Class::Special,
        [0x2000..=0x3fff, ..] => Class::Public,
        _ => Class::Special,
    }
}

/// The IPv4 address a packet to an IPv6 address may end at.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let four = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        // `::1` and `::` are themselves.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Compatible and mapped (RFC 4291 section 2.5.5), translated (RFC 2765), NAT64 (RFC 6052 and RFC 8215 with /96).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => four(high, low),
        [0x64, 0xff9b, _, _, _, _, high, low] => four(high, low),
        // 6to4 (RFC 3056), and Teredo's client, which stands inverted (RFC 4380).
        [0x2002, high, low, ..] => four(high, low),
        [0x2001, 0, _, _, _, _, high, low] => four(!high, !low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: [&str; 9] = [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "fc00::1",
        "fd00:ec2::254",
        "fdff::1",
    ];

    const SPECIAL: [&str; 34] = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "169.254.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.19.255.1",
        "198.51.100.1",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::ffff:0:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001::1",
        "2001:db8::1",
        "3fff::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "100::1",
        "5f00::1",
    ];

    const PUBLIC: [&str; 10] = [
        "8.8.8.8",
        "1.1.1.1",
        "11.0.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "192.167.0.1",
        "2606:4700::1111",
        "2a00:1450:4001::200e",
    ];

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_public_is_refused_unless_the_entry_says_otherwise() {
        let (nothing, private) = (Permit::default(), Permit { private: true, networks: Vec::new() });
        for text in PUBLIC {
            assert!(nothing.allows(address(text)) && is_public(address(text)), "{text}");
        }
        for text in PRIVATE {
            assert!(!nothing.allows(address(text)) && private.allows(address(text)) && !is_public(address(text)), "{text}");
        }
        for text in SPECIAL {
            assert!(!nothing.allows(address(text)) && !private.allows(address(text)) && !is_public(address(text)), "{text}");
            let length = if address(text).is_ipv4() { 32 } else { 128 };
            let named = Permit { private: false, networks: vec![format!("{text}/{length}").parse().unwrap()] };
            let inner = embedded(address(text)).is_none_or(|inner| is_public(IpAddr::V4(inner)));
            assert_eq!(named.allows(address(text)), inner, "{text}");
        }
    }

    #[test]
    fn a_named_network_of_translated_addresses_opens_only_what_may_be_reached_behind_it() {
        let nat64 = Permit { private: false, networks: vec!["64:ff9b::/96".parse().unwrap()] };
        assert!(nat64.allows(address("64:ff9b::8.8.8.8")));
        for inside in ["64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1"] {
            assert!(!nat64.allows(address(inside)), "{inside}");
        }
        let both = Permit { private: true, networks: nat64.networks };
        assert!(both.allows(address("64:ff9b::10.0.0.1")) && !both.allows(address("64:ff9b::169.254.169.254")));
    }
}
