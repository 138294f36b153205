//! The closed sets that labels are drawn from, and one handle for each word of a set.
//!
//! In: a word. Out: its handle, found by position. The sets of `decision` serve as they are; those here are words only metrics use.
//! A map from label to handle would hash a string for each event, and would let an unknown word in.

use crate::decision::{Basis, Cause, Enforcement, Opinion, Phase, Protocol, Reason, Refusal, Reuse, Unjudged};

/// A word of a closed set that metrics use as a label.
pub trait Word: Copy + 'static {
    /// Every word, in the order of [`Word::index`].
    const WORDS: &'static [Self];

    /// The label value.
    fn code(self) -> &'static str;

    /// Its place in [`Word::WORDS`].
    fn index(self) -> usize;
}

/// One `H` for each word of a set.
#[derive(Clone, Debug)]
pub struct Words<W, H> {
    handles: Box<[H]>,
    set: std::marker::PhantomData<fn(W)>,
}

impl<W: Word, H> Words<W, H> {
    /// Makes the handle of every word, so that its series is there before the first event.
    pub fn new(handle: impl FnMut(W) -> H) -> Self {
        Self { handles: W::WORDS.iter().copied().map(handle).collect(), set: std::marker::PhantomData }
    }

    /// The handle of `word`.
    pub fn of(&self, word: W) -> &H {
        #[expect(clippy::indexing_slicing, reason = "`new` made a handle for each word, in the order of their places")]
        &self.handles[word.index()]
    }
}

macro_rules! decision_words {
    ($($name:ident),+) => {$(
        impl Word for $name {
            const WORDS: &'static [Self] = Self::ALL;

            fn code(self) -> &'static str {
                Self::code(self)
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    )+};
}

decision_words!(Basis, Cause, Enforcement, Opinion, Phase, Protocol, Reason, Refusal, Reuse, Unjudged);

macro_rules! label_words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl Word for $name {
            const WORDS: &'static [Self] = &[$(Self::$variant),+];

            fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label_words! {
    /// What evaluated a policy.
    Engine {
        Interpreter = "interpreter",
        /// The bytecode VM.
        Vm = "vm",
    }
}

label_words! {
    /// What became of a line of the record.
    AuditOutcome {
        Written = "written",
        /// Gone: the queue was full and the configuration says to go on, or the gate ended before it could be written.
        Lost = "lost",
        /// Never made: the exchange was refused because the record had no room for it.
        Refused = "refused",
        /// Never made: the policy keeps the decision out, and the configuration lets it.
        Dropped = "dropped",
    }
}

label_words! {
    /// What became of a line of the record that a service was to get.
    DeliveryOutcome {
        /// The service took it.
        Delivered = "delivered",
        /// The service never got it: it was away for longer than the buffer lasts, or the line fits no chunk.
        Dropped = "dropped",
    }
}

label_words! {
    /// Why a TLS handshake failed.
    HandshakeError {
        // Limits, told by the listener.
        TooMany = "too_many",
        Connections = "connections",
        PerIdentity = "per_identity",
        /// A killed identity that came back too often.
        Killed = "killed",
        Timeout = "timeout",
        // What the peer's certificate lacks; as `tls` says it.
        NoCertificate = "no_certificate",
        NotX509Svid = "not_x509_svid",
        TrustDomain = "trust_domain",
        NoBundle = "no_bundle",
        NotYetValid = "not_yet_valid",
        Expired = "expired",
        Lifetime = "lifetime",
        NameConstraints = "name_constraints",
        Chain = "chain",
        Unexpected = "unexpected",
        /// The peer does not hold the certificate's key.
        Proof = "proof",
        // What the connection speaks.
        NotTls = "not_tls",
        TlsVersion = "tls_version",
        Incompatible = "incompatible",
        Alpn = "alpn",
        Protocol = "protocol",
        Alert = "alert",
        RefusedByPeer = "refused_by_peer",
        /// Our own certificate has ended.
        OwnCertificate = "own_certificate",
        Disconnected = "disconnected",
        Other = "other",
    }
}

impl HandshakeError {
    /// The word of a code; a code nobody knows is `other`.
    pub fn of_code(code: &str) -> Self {
        Self::WORDS.iter().copied().find(|word| word.code() == code).unwrap_or(Self::Other)
    }
}

label_words! {
    /// How an upstream failed an exchange.
    UpstreamError {
        Connect = "connect",
        /// Somebody else answered, or somebody who cannot prove to be who was expected.
        Identity = "identity",
        /// No response head in time.
        Timeout = "timeout",
        /// The connection broke.
        Reset = "reset",
        /// A response that is not HTTP, or breaks its framing.
        Invalid = "invalid",
        /// No byte either way for too long.
        Idle = "idle",
    }
}

label_words! {
    /// Why a version of a bundle was not activated.
    BundleFailure {
        /// Not there, not readable, or changing while it was read.
        Unreadable = "unreadable",
        /// Its service did not give it: away, slow, an error, too large.
        Download = "download",
        /// Not a bundle: archive, manifest or data cannot be parsed, or its roots overlap another's.
        Malformed = "malformed",
        /// Rego that does not compile.
        Compile = "compile",
        /// It calls what the gate does not run: an unknown builtin, `http.send`, recursion.
        Refused = "refused",
        /// It compiles, and failed when it was tried before its turn.
        Preflight = "preflight",
        /// Nobody vouches for it who was to: not signed, by another key, altered, dated ahead.
        Signature = "signature",
        /// Signed, and older than what was in force.
        Rollback = "rollback",
        Other = "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places_and_codes<W: Word + std::fmt::Debug>() {
        for (place, word) in W::WORDS.iter().enumerate() {
            assert_eq!(word.index(), place, "{word:?}");
        }
        let codes: std::collections::BTreeSet<_> = W::WORDS.iter().map(|word| word.code()).collect();
        assert_eq!(codes.len(), W::WORDS.len());
        assert_eq!(Words::<W, _>::new(Word::code).handles.len(), W::WORDS.len());
    }

    #[test]
    fn every_word_stands_at_its_place_and_has_a_code_of_its_own() {
        places_and_codes::<Basis>();
        places_and_codes::<Cause>();
        places_and_codes::<Enforcement>();
        places_and_codes::<Opinion>();
        places_and_codes::<Unjudged>();
        places_and_codes::<Phase>();
        places_and_codes::<Protocol>();
        places_and_codes::<Reason>();
        places_and_codes::<Refusal>();
        places_and_codes::<Engine>();
        places_and_codes::<AuditOutcome>();
        places_and_codes::<HandshakeError>();
        places_and_codes::<UpstreamError>();
        places_and_codes::<BundleFailure>();
    }
}
