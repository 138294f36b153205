//! The service behind every proxy, as cheap as it can be: bytes in, canned bytes out.
//!
//! A path that ends in `/big` is a long download, in `/ticks` an event stream, in `/ws` a WebSocket that ticks, a request with a body is read whole
//! and answered; everything else gets 1 KiB. No HTTP library: what serves must not be what is measured.

use std::time::Duration;

use anyhow::Result;
use aws_lc_rs::digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of the plain answer's body.
pub const ANSWER: usize = 1024;
const BIG: usize = 256 * 1024 * 1024;

/// Serves until it is killed. `tick` is the pause between two events of a stream.
pub async fn serve(listener: TcpListener, tick: Duration) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(async move {
            // A peer that leaves is no news here; whoever measures counts.
            let _ = carry(stream, tick).await;
        });
    }
}

async fn carry(mut stream: TcpStream, tick: Duration) -> Result<()> {
    let plain = plain();
    let mut buffer = vec![0; 4096];
    let mut held = 0;
    loop {
        let read = stream.read(&mut buffer[held..]).await?;
        if read == 0 {
            return Ok(());
        }
        held += read;
        let Some(end) = buffer[..held].windows(4).position(|four| four == b"\r\n\r\n") else {
            anyhow::ensure!(held < buffer.len(), "a head of more than {held} bytes");
            continue;
        };
        let head = &buffer[..end + 4];
        let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        if target.ends_with(b"/ticks") {
            return ticks(stream, tick).await;
        } else if target.ends_with(b"/ws") {
            return websocket(stream, tick, &String::from_utf8_lossy(head)).await;
        } else if target.ends_with(b"/big") {
            return big(stream).await;
        }
        let mut body = body_length(head);
        let rest = held - end - 4;
        body = body.saturating_sub(rest);
        while body > 0 {
            let read = stream.read(&mut buffer).await?;
            anyhow::ensure!(read > 0, "a body that ended early");
            body = body.saturating_sub(read);
        }
        held = 0;
        stream.write_all(&plain).await?;
    }
}

fn body_length(head: &[u8]) -> usize {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn plain() -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nserver: upstream\r\ndate: Tue, 24 Nov 2026 12:00:00 GMT\r\ncontent-type: application/json\r\n\
         cache-control: no-store\r\ncontent-length: {ANSWER}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + ANSWER, b'x');
    answer
}

/// Waits for the next tick, and meanwhile notices that the peer has left.
async fn pause(stream: &mut TcpStream, ticks: &mut tokio::time::Interval) -> Result<()> {
    let mut thrown = [0; 1024];
    loop {
        tokio::select! {
            _ = ticks.tick() => return Ok(()),
            read = stream.read(&mut thrown) => anyhow::ensure!(read? > 0, "the peer has left"),
        }
    }
}

fn interval(tick: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(tick);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

async fn ticks(mut stream: TcpStream, tick: Duration) -> Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    let mut interval = interval(tick);
    loop {
        pause(&mut stream, &mut interval).await?;
        stream.write_all(b"d\r\ndata: tick!\n\n\r\n").await?;
    }
}

async fn websocket(mut stream: TcpStream, tick: Duration, head: &str) -> Result<()> {
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    });
    let accept = accept(&key.unwrap_or_default());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let mut interval = interval(tick);
    loop {
        pause(&mut stream, &mut interval).await?;
        stream.write_all(b"\x81\x05tick!").await?;
    }
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2).
pub fn accept(key: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let mut hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref().to_vec();
    hash.push(0);
    let mut text = String::new();
    for three in hash.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        text.extend((0..4).rev().map(|place| ALPHABET[(bits >> (6 * place) & 63) as usize] as char));
    }
    text.pop();
    text.push('=');
    text
}

async fn big(mut stream: TcpStream) -> Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {BIG}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let block = vec![b'x'; 64 * 1024];
    for _ in 0..BIG / block.len() {
        stream.write_all(&block).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_key_of_rfc_6455_gets_its_answer() {
        assert_eq!(super::accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
