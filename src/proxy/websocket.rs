//! WebSockets: see [`frame`] for what is followed of them once they are open.

pub mod frame;
