//! From a host to addresses, asked anew for each connection.
//!
//! In: a host and a port. Out: addresses in the order of the resolver. The last answer for each name is kept and stands in when the
//! name server fails: that must not take a running service down. It never stands in for a name server that answers.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    known: RefCell<Vec<(String, Vec<IpAddr>)>>,
}

impl Resolver {
    pub(super) async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        match tokio::net::lookup_host((host, port)).await {
            Ok(found) => {
                let found: Vec<SocketAddr> = found.collect();
                let mut known = self.known.borrow_mut();
                known.retain(|(name, _)| name != host);
                known.push((host.to_owned(), found.iter().map(SocketAddr::ip).collect()));
                Ok(found)
            }
            Err(error) => {
                let known = self.known.borrow();
                let last = known.iter().find(|(name, _)| name == host);
                last.map(|(_, ips)| ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()).ok_or(error)
            }
        }
    }
}
