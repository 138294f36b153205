//! The only builder.
