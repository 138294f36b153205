//! Prometheus metrics; no path, id or SPIFFE ID is ever a label.
