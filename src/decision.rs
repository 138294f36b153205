//! The words a decision is told in: why a request was refused or denied, why an exchange was cut, what it spoke.
//!
//! Each is one closed set with one code a word. The codes are metric labels, record fields and `code` of a problem+json at once, so
//! a word added here appears everywhere, and nothing a client sends can ever become a label.

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every word of the set, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word as it stands in labels, records and answers.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.code())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.code())
            }
        }
    };
}

words! {
    /// Why a request was refused before any policy was asked: it is ambiguous, malformed or too large, or we cannot serve it.
    Refusal {
        /// A line that ends in a bare LF, or a bare CR (RFC 9112 section 2.2).
        BareLineEnd = "bare_line_end",
        /// Empty lines before the request line.
        LeadingCrlf = "leading_crlf",
        RequestLine = "request_line",
        Method = "method",
        /// CONNECT, TRACE, or a method no listener of this mode serves.
        MethodRefused = "method_refused",
        Version = "version",
        TargetForm = "target_form",
        /// A path alone, to a listener beside an agent: a proxy's request names its host in the target (RFC 9112 section 3.2.2).
        OriginForm = "origin_form",
        /// `https` in an absolute-form target: its TLS would end here. A tunnel (CONNECT) is asked for instead.
        AbsoluteHttps = "absolute_https",
        TargetTooLong = "target_too_long",
        Fragment = "fragment",
        HeaderName = "header_name",
        HeaderValue = "header_value",
        /// `_` in a field name: back ends that turn `-` into `_` would read it as another field.
        HeaderUnderscore = "header_underscore",
        ObsFold = "obs_fold",
        HeaderSpace = "header_space_before_colon",
        HeadersTooLarge = "headers_too_large",
        HeadersTooMany = "headers_too_many",
        HeaderRepeated = "header_repeated",
        ContentLength = "content_length",
        ContentLengthRepeated = "content_length_repeated",
        ContentLengthAndTransferEncoding = "content_length_and_transfer_encoding",
        TransferEncoding = "transfer_encoding",
        Chunk = "chunk",
        Trailer = "trailer",
        Expect = "expect",
        Upgrade = "upgrade",
        ConnectionOption = "connection_option",
        HostMissing = "host_missing",
        HostRepeated = "host_repeated",
        Host = "host",
        HostMismatch = "host_mismatch",
        PathEscape = "path_escape",
        PathSlash = "path_encoded_slash",
        PathControl = "path_control_byte",
        PathUtf8 = "path_utf8",
        PathDoubleEncoding = "path_double_encoding",
        PathAboveRoot = "path_above_root",
        PathParameter = "path_parameter",
        Query = "query",
        ConnectionSpecific = "connection_specific_header",
        /// An HTTP/2 head that h2 refused by itself: malformed (RFC 9113 section 8.1.1), one stream too many, or after GOAWAY.
        Http2Head = "http2_head",
        HeaderTimeout = "header_timeout",
        FloodControlFrames = "flood_control_frames",
        FloodResets = "flood_resets",
        /// The request's authority is not one that the TLS server name may speak to.
        Misdirected = "misdirected",
        NoRoute = "no_route",
        /// The destination's name has no address, or nobody said one in time.
        DestinationUnresolved = "destination_unresolved",
        /// One of the destination's addresses is not public, and its entry does not name it.
        DestinationPrivate = "destination_private",
        /// The request would come back to this gate, or has passed too many like it.
        Loop = "loop",
        /// Nobody was proven, and this listener answers strangers about its health only.
        NoIdentity = "no_identity",
        /// A limit of connections, streams or exchanges a peer may hold.
        TooMany = "too_many",
        /// The record cannot take this exchange's lines, and the configuration says to refuse rather than to lose them.
        RecordFull = "record_full",
    }
}

words! {
    /// Why the gate denied a request it understood.
    Reason {
        /// The policy said no.
        Policy = "policy",
        /// A standing kill matches.
        Killed = "killed",
        /// An anomaly rule fired on it.
        Anomaly = "anomaly",
        NoPolicy = "no_policy",
        /// A bundle in force was not confirmed by its service for longer than it may go without.
        PolicyStale = "policy_stale",
        Undefined = "undefined",
        PolicyError = "policy_error",
        PolicyTimeout = "policy_timeout",
        PolicyPanic = "policy_panic",
        /// The policy's answer is of the wrong type, or has a key nobody knows.
        VerdictType = "verdict_type",
        /// Generations or kills moved faster than this request could be judged.
        Unsettled = "unsettled",
        RewriteUnstable = "rewrite_unstable",
        /// An edit names a header that is the gate's own, or is malformed.
        EditRefused = "edit_refused",
        BodyTooLarge = "body_too_large",
        BodyIncomplete = "body_incomplete",
        BodyTimeout = "body_timeout",
        /// The policy reads the parsed body, and its encoding or syntax cannot be read without doubt.
        BodyUnreadable = "body_unreadable",
        /// The peer's certificate ended between the handshake and this request.
        Expired = "expired",
        /// The gate has no SVID of its own, or the one it has expired.
        OwnCertificate = "own_certificate",
        /// A fault of the gate itself.
        Internal = "internal",
    }
}

words! {
    /// What ended an open exchange, or why it ended.
    Cause {
        Kill = "kill",
        Policy = "policy",
        /// A bundle in force was not confirmed by its service for longer than it may go without.
        PolicyStale = "policy_stale",
        /// An anomaly rule fired on it; what a rule kills otherwise is cut by a kill.
        Anomaly = "anomaly",
        NoRoute = "no_route",
        BodyGone = "body_gone",
        LeaseAge = "lease_max_age",
        LeaseBytesIn = "lease_max_bytes_in",
        LeaseBytesOut = "lease_max_bytes_out",
        CertificateExpired = "certificate_expired",
        /// The tunnel's first bytes do not ask for the host it was opened for, or asked for nothing in time.
        ServerName = "server_name",
        /// The roots or rules the peer was admitted under are gone.
        IdentityWithdrawn = "identity_withdrawn",
        Shutdown = "shutdown",
    }
}

words! {
    /// How an exchange ended when nobody cut it.
    Ending {
        Complete = "complete",
        ClientGone = "client_gone",
        ClientError = "client_error",
        UpstreamConnect = "upstream_connect",
        /// Somebody else answered than who was expected there.
        UpstreamIdentity = "upstream_identity",
        UpstreamTimeout = "upstream_timeout",
        UpstreamReset = "upstream_reset",
        UpstreamInvalid = "upstream_invalid",
        IdleTimeout = "idle_timeout",
        Denied = "denied",
        Refused = "refused",
        Cut = "cut",
        Panic = "panic",
    }
}

words! {
    /// Whether a verdict was one that had been given before.
    Reuse {
        /// The policy had answered an equal question.
        Reused = "reused",
        Judged = "judged",
        /// Verdicts of this policy are never reused, or none are.
        Unfit = "unfit",
    }
}

words! {
    /// What a verdict comes to where two policies are compared.
    Opinion {
        Allow = "allow",
        Deny = "deny",
        Undefined = "undefined",
        /// An error, the time limit, a panic, or an answer that is no verdict.
        Error = "error",
    }
}

words! {
    /// Why a shadow policy did not judge a request it was to judge.
    Unjudged {
        /// Others had the worker's time, or too many waited.
        Busy = "busy",
        /// It reads the body, and nobody else does.
        Body = "body",
        /// None is loaded that has the rule the request falls under.
        NotLoaded = "not_loaded",
    }
}

words! {
    /// Why a policy is asked.
    Phase { Request = "request", Reassess = "reassess" }
}

/// What carries an exchange downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Http1,
    Http2,
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Http1 => Self::Http1,
            Transport::Http2 => Self::Http2,
        }
    }
}

words! {
    /// What an exchange speaks downstream, as it matters to a cut: its transport, or what is spoken inside of it.
    Protocol { Http1 = "http/1.1", Http2 = "h2", Grpc = "grpc", WebSocket = "websocket", Tunnel = "tunnel" }
}

words! {
    /// Whether a denial by policy blocks, or is only recorded.
    Enforcement { Enforce = "enforce", Observe = "observe" }
}

words! {
    /// What an allow rests on. Grants for tasks, exceptions and break-glass join when they can be given.
    Basis { Standing = "standing" }
}

words! {
    /// How a scope a policy names in `kill` is called.
    Scope { Exchange = "exchange", Session = "session", Identity = "identity" }
}

impl Refusal {
    /// The HTTP status a client gets (RFC 9110 section 15).
    pub const fn status(self) -> u16 {
        match self {
            Self::HeaderTimeout => 408,
            Self::TargetTooLong => 414,
            Self::Expect => 417,
            Self::NoIdentity | Self::DestinationPrivate => 403,
            Self::DestinationUnresolved => 502,
            Self::Loop => 508,
            Self::Misdirected => 421,
            Self::HeadersTooLarge | Self::HeadersTooMany => 431,
            Self::NoRoute => 404,
            Self::MethodRefused => 405,
            Self::TransferEncoding => 501,
            Self::Version => 505,
            Self::TooMany => 429,
            Self::RecordFull => 503,
            _ => 400,
        }
    }

    /// Whether somebody could have read the head otherwise than we did; then where it ends is not certain either, and what follows
    /// on its connection must not be read as a request.
    pub const fn has_two_readings(self) -> bool {
        matches!(self.status(), 400 | 414 | 417 | 431 | 501 | 505)
    }
}

impl Reason {
    /// The HTTP status a client gets when the policy names none.
    pub const fn status(self) -> u16 {
        match self {
            Self::BodyTooLarge => 413,
            Self::BodyIncomplete | Self::BodyUnreadable => 400,
            Self::BodyTimeout => 408,
            Self::NoPolicy | Self::PolicyStale | Self::Unsettled | Self::OwnCertificate | Self::Internal => 503,
            _ => 403,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_safe_as_labels() {
        fn check(codes: Vec<&str>) {
            let unique: std::collections::BTreeSet<_> = codes.iter().collect();
            assert_eq!(unique.len(), codes.len(), "{codes:?}");
            assert!(codes.iter().all(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_/.".contains(&b))));
        }
        check(Refusal::ALL.iter().map(|w| w.code()).collect());
        check(Reason::ALL.iter().map(|w| w.code()).collect());
        check(Cause::ALL.iter().map(|w| w.code()).collect());
        check(Ending::ALL.iter().map(|w| w.code()).collect());
    }
}
