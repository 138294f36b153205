//! Everything on one machine: the CA, the upstream and the client of `dev`.

pub mod authority;
