//! A gate that is killed while it writes: what it acknowledged is in the record, and the record's chain is whole.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::*;
use crate::life::{Process, prepared};

/// How often it is killed; `PORTCULLIS_KILLS=1000` for a night.
fn kills() -> u64 {
    std::env::var("PORTCULLIS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(20)
}

/// The files of the record.
fn files(gate: &Gate) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(gate.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("decisions.jsonl")).collect()
}

fn verify(files: &[PathBuf], more: &[&str], gate: &Gate) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .args(["audit", "verify", "--complete", "--key"])
        .arg(gate.path("state/audit-checkpoint.pub.pem"))
        .args(more)
        .args(files);
    let output = command.output().unwrap();
    (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_killed_loses_no_acknowledged_decision_and_its_chain_holds() {
    let audit = "  file: decisions.jsonl\n  durability: synced\n  checkpoint: {every: 1s}\n  rotate: {size: 256KiB, keep: 1000}\n";
    let backend = Backend::start();
    let mut gate = prepared(&backend, Setup { audit: audit.to_owned(), ..Setup::default() });
    let mut acknowledged = BTreeSet::new();
    // Wherever in its writing it is: behind so many answers, while three other clients wait for theirs.
    let mut after = 1;
    for round in 0..kills() {
        let process = Process::start(&gate);
        gate.address = process.address;
        let (sender, mut answered) = tokio::sync::mpsc::unbounded_channel();
        for client in 0..4 {
            let (sender, mut asking) = (sender.clone(), gate.any(Speaks::Http2, "agents/research").await);
            tokio::spawn(async move {
                for number in 0.. {
                    let path = format!("/{round}/{client}/{number}");
                    match asking.send(request("GET", &path, empty())).await {
                        Ok(response) if response.status() == 200 => sender.send(path).unwrap(),
                        _ => return,
                    }
                }
            });
        }
        drop(sender);
        for _ in 0..after {
            acknowledged.insert(within("an answer", answered.recv()).await.unwrap());
        }
        process.signal("KILL");
        within("the clients to see it", async {
            while let Some(path) = answered.recv().await {
                acknowledged.insert(path);
            }
        })
        .await;
        process.end();
        // A walk through 1 to 40 that comes by all of them.
        after = after * 7 % 41;
    }
    let process = Process::start(&gate);
    gate.address = process.address;
    assert_eq!(gate.any(Speaks::Http2, "agents/research").await.get("/last").await.status, 200);
    process.signal("TERM");
    assert_eq!(process.end(), 0);
    let files = files(&gate);
    let (whole, said) = verify(&files, &[], &gate);
    assert!(whole, "{said}");
    let mut recorded = BTreeSet::new();
    for file in &files {
        for line in spoken(std::fs::read_to_string(file).unwrap().lines()) {
            if line["portcullis"]["kind"] == "decision" && line["portcullis"]["verdict"] == "allow" {
                recorded.insert(line["portcullis"]["path"].as_str().unwrap().to_owned());
            }
        }
    }
    let lost: Vec<&String> = acknowledged.difference(&recorded).collect();
    assert!(lost.is_empty() && acknowledged.len() as u64 >= kills(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_somebody_changed_is_named_by_file_line_and_decision() {
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for number in 0..4 {
        assert_eq!(client.get(&format!("/{number}")).await.status, 200);
    }
    drop(client);
    let told = tokio::task::block_in_place(|| gate.record());
    let (whole, said) = verify(&files(&gate), &[], &gate);
    assert!(
        whole && said.contains("whole: records 0 to 5") && said.contains("signed: 1 checkpoints, the last of record 4"),
        "{said}"
    );
    let text = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
    let kept = gate.path("kept.jsonl");
    std::fs::write(&kept, text.lines().last().unwrap()).unwrap();
    let expect = ["--expect", kept.to_str().unwrap()];
    assert!(verify(&files(&gate), &expect, &gate).0);
    // The line of number 2: a start line is number 0.
    let (path, id) = (told[1]["portcullis"]["path"].as_str().unwrap(), told[1]["decision_id"].as_str().unwrap());
    std::fs::write(gate.path("decisions.jsonl"), text.replace(&format!("\"path\":\"{path}\""), "\"path\":\"/x\"")).unwrap();
    let (whole, said) = verify(&files(&gate), &[], &gate);
    assert!(!whole && said.contains("decisions.jsonl:3\n  record    2\n") && said.contains(id), "{said}");
    // What was cut off the end shows against what was kept elsewhere.
    let cut: Vec<&str> = text.split_inclusive('\n').take(3).collect();
    std::fs::write(gate.path("decisions.jsonl"), cut.concat()).unwrap();
    let (whole, said) = verify(&files(&gate), &expect, &gate);
    assert!(!whole && said.contains("its tail was cut"), "{said}");
}
