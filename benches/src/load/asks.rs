//! A few requests on one connection, one after the other: what an agent does that makes a rule fire.

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::{Answers, Target, ask, now_us, say};
use crate::tls::HOST;

/// All but the last must be answered with 200; the moment before the last is told, since that is the one that fires.
pub async fn run(target: Target, agent: usize, paths: &[String]) -> Result<()> {
    let config = target.config(agent, false)?;
    let mut tls = target.connect(&config).await?;
    let mut answers = Answers::default();
    ask(&mut tls, &mut answers).await?;
    let Some((last, before)) = paths.split_last() else { return Ok(()) };
    for path in before {
        tls.write_all(format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await?;
        ensure!(answers.plain(&mut tls).await?, "the connection was closed after {path}");
    }
    let sent = now_us();
    tls.write_all(format!("GET {last} HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await?;
    let refused = answers.plain(&mut tls).await.err().map(|error| error.to_string());
    say(&json!({"event": "end", "sent_us": sent, "refused": refused}));
    Ok(())
}
