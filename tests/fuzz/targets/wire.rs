//! Any bytes as HTTP/1.1: what the wire reader lets through is what came in, up to where it refuses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::wire::{Limits, Wire};
use tokio::io::AsyncReadExt;

fuzz_target!(|bytes: &[u8]| {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read = runtime.block_on(async {
        // In pieces, because a head may arrive in any.
        let (theirs, ours) = tokio::io::simplex(usize::from(*step) + 1);
        let io = tokio::io::join(theirs, tokio::io::sink());
        let (mut wire, _monitor) = Wire::http1(io, Limits::default());
        let feed = async move {
            let mut ours = ours;
            drop(tokio::io::AsyncWriteExt::write_all(&mut ours, bytes).await);
            drop(tokio::io::AsyncWriteExt::shutdown(&mut ours).await);
        };
        let drain = async move {
            let mut out = Vec::new();
            drop(wire.read_to_end(&mut out).await);
            out
        };
        let local = tokio::task::LocalSet::new();
        let feed = async move {
            tokio::select! { biased; () = async { feed.await; std::future::pending::<()>().await } => unreachable!(), out = drain => out }
        };
        local.run_until(feed).await
    });
    assert!(bytes.starts_with(&read), "what was released is not what came in");
});
