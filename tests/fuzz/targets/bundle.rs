//! Any bytes as a bundle's archive: read or refused, within its bounds.
#![no_main]

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use portcullis::policy::bundle::{Bounds, read};

mod loading;

fuzz_target!(|bytes: &[u8]| {
    let Some((how, content)) = bytes.split_first() else { return };
    let path = loading::home().join("bundle.tar.gz");
    // Mostly a tar that is packed here: few mutations of packed bytes would unpack to anything.
    let written = if how % 8 == 0 {
        content.to_vec()
    } else {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(content).unwrap();
        gzip.finish().unwrap()
    };
    std::fs::write(&path, written).unwrap();
    drop(read("b", &path, &Bounds::default()));
});
