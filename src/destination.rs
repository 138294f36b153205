//! Where a request of an agent goes: the addresses of a name, which of them may be reached, and what a tunnel there begins with.
//!
//! In: a host of a normalised request, what an entry of `destinations` permits, the first bytes of a tunnel. Out: addresses, or why
//! not; the server name. What must stay true: a name is looked up once, before anything is judged, and the connection goes to an
//! address that was judged. Whoever resolves a second time at connect time lets the name's owner answer twice (DNS rebinding).

mod addresses;
mod hello;
mod resolver;

use std::net::SocketAddr;

pub use addresses::{Permit, is_public};
pub use hello::{Hello, Seen};
pub use resolver::{Resolver, system};

/// Whether a socket here listens on this address: `bound` are the gate's own, and one bound to every address is on each of this
/// host's.
pub fn is_our_own(address: SocketAddr, bound: &[SocketAddr]) -> bool {
    let mut at_this_port = bound.iter().filter(|own| own.port() == address.port()).peekable();
    if at_this_port.peek().is_none() {
        return false;
    }
    let ip = address.ip().to_canonical();
    // Linux connects to itself when asked for no address at all; and only an address of this host can be bound to.
    let is_local = || ip.is_unspecified() || std::net::UdpSocket::bind((ip, 0)).is_ok();
    at_this_port.any(|own| own.ip() == ip || (own.ip().is_unspecified() && is_local()) || (ip.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_our_own_is_known_by_every_address_that_reaches_it() {
        let bound = ["127.0.0.1:3128".parse().unwrap(), "0.0.0.0:8443".parse().unwrap()];
        let own = |text: &str| is_our_own(text.parse().unwrap(), &bound);
        for text in ["127.0.0.1:3128", "0.0.0.0:3128", "127.0.0.1:8443", "127.9.9.9:8443", "[::ffff:127.0.0.1]:8443", "[::]:8443"] {
            assert!(own(text), "{text}");
        }
        for text in ["127.0.0.1:3129", "192.0.2.7:8443", "192.0.2.7:3128"] {
            assert!(!own(text), "{text}");
        }
    }
}
