//! `portcullis exchanges`: what is open right now.

use clap::Args;

use super::client::Remote;
use super::failure::Failure;
use super::table::{ago, or_dash, table};
use crate::control::answers::ExchangesAnswer;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let answer = arguments.remote.get("/v1/exchanges")?;
    arguments.remote.show(&answer, words)
}

fn words(answer: ExchangesAnswer) -> String {
    let rows = answer.exchanges.into_iter().map(|row| {
        let request = format!("{} {}{}", row.method, row.host, row.path);
        let bytes = format!("{}/{}", row.bytes_in, row.bytes_out);
        [row.id, row.spiffe_id, row.protocol, request, or_dash(row.upstream), or_dash(row.status), ago(row.age_seconds), bytes]
    });
    table(["EXCHANGE", "SPIFFE ID", "PROTOCOL", "REQUEST", "UPSTREAM", "STATUS", "AGE", "IN/OUT"], rows)
}
