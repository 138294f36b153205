//! Lines into chunks that a service takes: a JSON array of them, gzipped, of a size that holds after compression.
//!
//! How well lines compress is known only afterwards, so how many go into a chunk is learned: twice as many after one that came out
//! small, in proportion fewer after one that came out too large, which is packed again. OPA does the same (`v1/plugins/logs/encoder.go`).

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// The most that goes into a chunk before compression: what one costs in memory while it is packed.
const LARGEST: usize = 16 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Packer {
    /// Bytes of a chunk, compressed.
    limit: usize,
    largest: usize,
    target: usize,
}

/// What is sent at once.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) body: Bytes,
    pub(super) lines: u64,
}

/// What became of the lines.
#[derive(Debug)]
pub(super) struct Packed {
    /// None where the first line is larger than any chunk; it is the caller's to give up.
    pub(super) chunk: Option<Chunk>,
    /// Those behind it.
    pub(super) rest: Vec<Box<[u8]>>,
}

impl Packer {
    /// A chunk is at most `limit` bytes of what at most `largest` bytes of lines are compressed to.
    pub(super) fn new(limit: usize, largest: usize) -> Self {
        let largest = largest.min(LARGEST);
        Self { limit, largest, target: limit.min(largest) }
    }

    /// How many bytes of lines make a chunk, as far as is known.
    pub(super) const fn target(&self) -> usize {
        self.target
    }

    /// Packs the first of `lines`, at least one.
    pub(super) fn pack(&mut self, mut lines: Vec<Box<[u8]>>) -> io::Result<Packed> {
        let mut count = lines.len();
        loop {
            let (body, size) = encode(lines.iter().take(count))?;
            if body.len() <= self.limit {
                let was_full = size.saturating_mul(2) > self.target && count == lines.len();
                if was_full && body.len() < self.limit / 10 * 9 {
                    self.target = self.target.saturating_mul(2).min(self.largest);
                }
                let rest = lines.split_off(count);
                return Ok(Packed { chunk: Some(Chunk { body: body.into(), lines: count as u64 }), rest });
            }
            if count <= 1 {
                let rest = lines.split_off(count);
                return Ok(Packed { chunk: None, rest });
            }
            // A little less than in proportion: what is left out might be what compressed best.
            let share = |whole: usize| (whole as u128 * self.limit as u128 / body.len() as u128 * 9 / 10) as usize;
            self.target = share(size).max(1);
            count = share(count).clamp(1, count - 1);
        }
    }
}

/// A JSON array of the lines, gzipped, and its size before that.
fn encode<'l>(lines: impl Iterator<Item = &'l Box<[u8]>>) -> io::Result<(Vec<u8>, usize)> {
    // The fastest level: a gate's cores are for requests, and lines that repeat each other compress well at any.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut size = 0;
    for line in lines {
        encoder.write_all(if size == 0 { b"[" } else { b"," })?;
        encoder.write_all(line)?;
        size += line.len() + 1;
    }
    encoder.write_all(b"]")?;
    Ok((encoder.finish()?, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    /// A line whose bytes no compressor guesses.
    fn noise(seed: u64, length: usize) -> Box<[u8]> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut text = String::from("\"");
        while text.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(&format!("{state:x}"));
        }
        text.push('"');
        text.into_bytes().into()
    }

    fn unpacked(chunk: &Chunk) -> Vec<serde_json::Value> {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*chunk.body).read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn every_line_is_in_one_chunk_and_no_chunk_is_larger_than_its_limit() {
        let lines: Vec<Box<[u8]>> = (0..300).map(|seed| noise(seed, 20 + usize::try_from(seed).unwrap() % 700)).collect();
        let (mut packer, mut rest, mut met) = (Packer::new(4096, LARGEST), lines.clone(), Vec::new());
        let mut chunks = 0;
        while !rest.is_empty() {
            let packed = packer.pack(rest).unwrap();
            let chunk = packed.chunk.unwrap();
            assert!(chunk.body.len() <= 4096, "{}", chunk.body.len());
            let unpacked = unpacked(&chunk);
            assert_eq!(unpacked.len() as u64, chunk.lines);
            met.extend(unpacked.iter().map(|line| line.to_string().into_bytes().into_boxed_slice()));
            rest = packed.rest;
            chunks += 1;
        }
        assert_eq!(met, lines);
        assert!((10..60).contains(&chunks), "{chunks} chunks");
    }

    #[test]
    fn a_chunk_that_came_out_small_makes_the_next_larger() {
        let alike = |count: usize| -> Vec<Box<[u8]>> { (0..count).map(|_| vec![b'1'; 100].into()).collect() };
        let mut packer = Packer::new(4096, LARGEST);
        packer.pack(alike(41)).unwrap();
        assert_eq!(packer.target(), 8192);
        packer.pack(alike(3)).unwrap();
        assert_eq!(packer.target(), 8192, "there was no more to send");
        for _ in 0..20 {
            let count = packer.target() / 100;
            packer.pack(alike(count)).unwrap();
        }
        assert!(packer.target() > 100_000 && packer.target() <= LARGEST, "{}", packer.target());
        let packed = packer.pack((0..200).map(|seed| noise(seed, 500)).collect()).unwrap();
        assert!(packed.chunk.unwrap().body.len() <= 4096 && packer.target() < 20_000, "{}", packer.target());
    }

    #[test]
    fn a_line_that_fits_no_chunk_is_left_out_alone() {
        let mut packer = Packer::new(1024, LARGEST);
        let packed = packer.pack(vec![noise(1, 9000), noise(2, 100)]).unwrap();
        assert!(packed.chunk.is_none() && packed.rest.len() == 1);
        assert_eq!(packer.pack(packed.rest).unwrap().chunk.unwrap().lines, 1);
    }
}
