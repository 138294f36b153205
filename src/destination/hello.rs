//! The first bytes of a tunnel: is it TLS, and for whom?
//!
//! In: the client's bytes as they come, held by whoever feeds them. Out: not known yet, not TLS, or TLS with the server name it asks
//! for. rustls reads the ClientHello, over however many records and packets it comes: a reading of our own would be one more that
//! could differ from the server's. Nothing of it is changed; what was held is forwarded byte for byte.

use rustls::server::Acceptor;

/// A ClientHello that is longer than this is none; post-quantum key shares take about 2 KiB.
const LONGEST: usize = 16 * 1024;
/// The content type of a handshake record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// Reads the beginning of a tunnel.
#[derive(Default)]
pub struct Hello {
    acceptor: Acceptor,
    read: usize,
}

/// What a tunnel begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// More must come before anybody can say.
    Partial,
    /// Something else than TLS.
    Other,
    /// What begins like TLS and cannot be read as such; a server might all the same.
    Unreadable,
    /// A TLS handshake; the name is in lower case and absent where the client names none.
    Tls(Option<String>),
}

impl Hello {
    /// Takes the next bytes into account.
    pub fn read(&mut self, mut bytes: &[u8]) -> Seen {
        if self.read == 0 && bytes.first().is_some_and(|first| *first != HANDSHAKE) {
            return Seen::Other;
        }
        self.read += bytes.len();
        while !bytes.is_empty() {
            // Reading from a slice fails only when rustls will hold no more of it.
            if self.acceptor.read_tls(&mut bytes).is_err() {
                return Seen::Unreadable;
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Seen::Tls(accepted.client_hello().server_name().map(str::to_ascii_lowercase)),
                Err(_) => return Seen::Unreadable,
            }
        }
        if self.read > LONGEST { Seen::Unreadable } else { Seen::Partial }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;

    use super::*;

    /// What a real client sends first.
    fn client_hello(name: ServerName<'static>) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same handshake message in records of at most `size` bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let message = &hello[5..];
        let record = |part: &[u8]| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
        message.chunks(size).flat_map(record).collect()
    }

    fn read_in(bytes: &[u8], step: usize) -> Seen {
        let mut hello = Hello::default();
        bytes.chunks(step).map(|part| hello.read(part)).find(|seen| *seen != Seen::Partial).unwrap_or(Seen::Partial)
    }

    #[test]
    fn the_server_name_is_read_however_its_bytes_are_cut() {
        let whole = client_hello("API.Example.com".try_into().unwrap());
        for cut in [whole.clone(), in_records(&whole, 1000), in_records(&whole, 40), in_records(&whole, 1)] {
            for step in [1, 7, 100, cut.len()] {
                assert_eq!(read_in(&cut, step), Seen::Tls(Some("api.example.com".to_owned())), "{step} of {}", cut.len());
            }
        }
        assert_eq!(read_in(&client_hello(std::net::Ipv4Addr::LOCALHOST.into()), 9000), Seen::Tls(None));
        assert_eq!(read_in(&whole[..whole.len() - 1], 1), Seen::Partial);
    }

    #[test]
    fn what_is_not_tls_is_told_as_soon_as_it_is_known() {
        assert_eq!(Hello::default().read(b"SSH-2.0-x\r\n"), Seen::Other);
        assert_eq!(Hello::default().read(b"GET / HTTP/1.1\r\n"), Seen::Other);
        assert_eq!(Hello::default().read(b""), Seen::Partial);
        assert_eq!(read_in(&[22, 3, 1, 0, 4, 99, 0, 0, 0], 9), Seen::Unreadable, "another handshake message");
        assert_eq!(read_in(&[22, 3, 1, 0, 0], 5), Seen::Unreadable, "an empty record");
        // A hello that never ends.
        let endless = [&[22, 3, 1, 0x3f, 0xff, 1, 0xff, 0xff, 0xff][..], &[0; 40_000]].concat();
        assert_eq!(read_in(&endless, 1000), Seen::Unreadable);
    }
}
