//! Where a request of an agent goes: the addresses of a name, which of them may be reached, and a connection to one of those.
//!
//! In: a host of a normalised request, and what an entry of `destinations` permits. Out: addresses, or why not; a socket to one of
//! them. What must stay true: a name is looked up once, before anything is judged, and the connection goes to an address that was
//! judged. Whoever resolves a second time at connect time lets the name's owner answer twice (DNS rebinding).

mod addresses;
mod hello;
mod resolver;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

pub use addresses::{Permit, is_public};
pub use hello::{Hello, Seen};
pub use resolver::{Resolver, system};

/// Why there is no connection to a destination.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("connecting to the destination: {0}")]
    Refused(#[source] io::Error),
    #[error("the destination did not accept a connection in time")]
    Timeout,
}

/// Connects to the first of the addresses that takes a connection, in their order.
///
/// # Errors
/// What the last of them answered, or that none answered in time.
pub async fn dial(addresses: &[SocketAddr], within: Duration) -> Result<TcpStream, DialError> {
    let trying = async {
        let mut last = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(DialError::Refused(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())))
    };
    timeout(within, trying).await.map_err(|_| DialError::Timeout)?
}

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

    #[tokio::test]
    async fn the_first_address_that_takes_a_connection_gets_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
        let stream = dial(&[closed, open], Duration::from_secs(20)).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert!(matches!(dial(&[closed], Duration::from_secs(20)).await, Err(DialError::Refused(_))));
    }
}
