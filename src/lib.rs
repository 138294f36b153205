//! Portcullis: an HTTP enforcement point for machine identities. It learns from mTLS who is calling, asks a Rego policy about
//! every request, and blocks it, rewrites it, or cuts it while it is running when the answer changes.
//!
//! **An allow is a lease, not a ticket.** It holds only while what it was decided from still holds.
//!
//! # The house
//!
//! A module imports only from floors strictly below its own; modules on one floor do not know each other; what goes up is a
//! returned value. `tests/floors.rs` reads this table and fails on an import that runs up or sideways.
//!
//! | floor | rooms | what happens there |
//! |---|---|---|
//! | 10 | main | the door: arguments → command → exit code (0 ok, 1 failed, 64 usage or config) |
//! | 9 | cli | one file a command; each is a page |
//! | 8 | demo | the CA, the upstream and the client of `dev` |
//! | 7 | app | the only builder: binds every socket first, one runtime per core, drains; returns real addresses |
//! | 6 | config | composes each room's own part; reports every mistake at once |
//! | 5 | listener control admin reassess intake delivery | accept → TLS → peer → wire → hyper; operators; probes; change → who it touches; files, the SPIFFE agent and bundle services watched; the record's lines sent on |
//! | 4 | proxy | one exchange, top to bottom |
//! | 3 | judge | facts, input, verdict: the only room that reads policy and state together |
//! | 2 | policy session anomaly upstream service destination kill | what verdicts read, where requests go, the one door of cuts |
//! | 1 | verdict action exchange tls wire socket audit metrics store | registry and cut; certificates; bytes; written to, never asked upward |
//! | 0 | spiffe decision units | words; import nothing from the crate |
//!
//! # How a request falls
//!
//! ```text
//! listener   accept → TLS → peer → wire → hyper            before we know you: TLS alert, or 400/414/431 by wire, recorded
//!    │
//! proxy      open exchange → normalise → anomaly rules → route → standing kills → JUDGE → edit
//!    │                                                      after we know you: deny is problem+json or gRPC status
//! upstream   connect, send, both bodies through flow        after the response head: only a cut is left
//!            or both ways through tunnel (WebSocket, CONNECT)
//!    │
//! audit      one decision record, written by somebody else → delivery, where a service collects records
//! ```
//!
//! # How a kill rises
//!
//! Policy activation, lease, timer, certificate expiry, anomaly rule, a policy's own `kill` and the operator all meet at one door, [`kill`]:
//! publish, scan, store, return. Judges and state never call it; `proxy`, `reassess` and `control` do. Each exchange owns one
//! [`exchange::Cut`]; whoever carries its bytes selects on that first.
//!
//! # What it never does
//!
//! Fail open. Trust an identity header from outside. Forward a byte that was not judged. Buffer a body no policy reads.
//! Retry a request that the upstream may have looked at.

pub mod action;
pub mod admin;
pub mod anomaly;
pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod control;
pub mod decision;
pub mod delivery;
pub mod demo;
pub mod destination;
pub mod exchange;
pub mod intake;
pub mod judge;
pub mod kill;
pub mod listener;
pub mod metrics;
pub mod policy;
pub mod proxy;
pub mod reassess;
pub mod service;
pub mod session;
pub mod socket;
pub mod spiffe;
pub mod store;
pub mod tls;
pub mod units;
pub mod upstream;
pub mod verdict;
pub mod wire;
