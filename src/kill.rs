//! The one door of cuts.
