//! The strict reader between TLS and hyper.
