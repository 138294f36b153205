//! Files that change under us: bundles and certificates.
