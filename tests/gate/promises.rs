//! Promises 8 and 9.
