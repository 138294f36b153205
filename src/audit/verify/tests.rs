use super::super::chain::Chain;
use super::super::checkpoint::Signer;
use super::*;

/// A record of eight lines, the sixth (number 5) a checkpoint.
fn record(signer: &Signer) -> Vec<String> {
    let mut chain = Chain::after(None);
    let mut lines = Vec::new();
    for number in 0..8 {
        let line = if number == 5 {
            format!(
                "{{\"portcullis\":{{\"kind\":\"checkpoint\",\"seq\":4,\"hash\":\"{}\",\"signature\":\"{}\"}}}}\n",
                chain.head(),
                signer.sign(4, chain.head())
            )
        } else {
            format!("{{\"decision_id\":\"id-{number}\",\"portcullis\":{{\"kind\":\"decision\"}}}}\n")
        };
        let mut out = Vec::new();
        chain.seal(line.as_bytes(), &mut out);
        lines.push(String::from_utf8(out).unwrap());
    }
    lines
}

struct House {
    folder: tempfile::TempDir,
    signer: Signer,
    key: PublicKey,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::open(None, folder.path()).unwrap();
        let key = PublicKey::read(&folder.path().join("audit-checkpoint.pub.pem")).unwrap();
        Self { folder, signer, key }
    }

    fn file(&self, name: &str, lines: &[String]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, lines.concat()).unwrap();
        path
    }

    fn broken(&self, lines: &[String], expected: &[Expected]) -> Broken {
        match verify(&[self.file("broken", lines)], Some(&self.key), expected) {
            Err(Unverified::Broken(broken)) => *broken,
            other => panic!("{other:?}"),
        }
    }
}

/// `lines` with all from `place` hashed anew, as somebody would who may write the file.
fn rehashed(mut lines: Vec<String>, place: usize) -> Vec<String> {
    let before = place.checked_sub(1).map(|before| lines[before].trim_end().as_bytes().to_vec());
    let mut chain = Chain::after(before.as_deref());
    for line in &mut lines[place..] {
        let body = line.split(",\"chain\":").next().unwrap().to_owned() + "}\n";
        let mut out = Vec::new();
        chain.seal(body.as_bytes(), &mut out);
        *line = String::from_utf8(out).unwrap();
    }
    lines
}

#[test]
fn a_record_as_it_was_written_holds_in_one_file_and_in_several_in_any_order() {
    let house = House::new();
    let lines = record(&house.signer);
    let whole = verify(&[house.file("whole", &lines)], Some(&house.key), &[]).unwrap();
    assert_eq!((whole.records, whole.first, whole.last, whole.checkpointed, whole.signed), (8, Some(0), Some(7), Some(4), true));
    let (new, old) = (house.file("new", &lines[3..]), house.file("old", &lines[..3]));
    assert_eq!(verify(&[new.clone(), old], Some(&house.key), &[]).unwrap().records, 8);
    let later = verify(&[new], None, &[]).unwrap();
    assert_eq!((later.first, later.signed), (Some(3), false), "what is missing before is said");
    let mut torn = lines.clone();
    torn.push("{\"decision".to_owned());
    assert_eq!(verify(&[house.file("torn", &torn)], None, &[]).unwrap().torn_bytes, 10);
    let legacy = ["{\"old\":1}\n".to_owned()];
    let mut chain = Chain::after(Some(b"{\"old\":1}"));
    let mut out = Vec::new();
    chain.seal(b"{\"a\":1}\n", &mut out);
    let begun = [legacy[0].clone(), String::from_utf8(out).unwrap()];
    assert_eq!(verify(&[house.file("begun", &begun)], None, &[]).unwrap().unchained, 1);
    assert_eq!(
        house.broken(&["{\"new\":1}\n".to_owned(), begun[1].clone()], &[]).line,
        2,
        "the line a chain begins behind is held by it"
    );
}

#[test]
fn each_change_is_found_and_named() {
    let house = House::new();
    let lines = record(&house.signer);
    let at = |broken: &Broken| (broken.line, broken.seq, broken.decision_id.clone());
    let changed = |place: usize| {
        let mut lines = lines.clone();
        lines[place] = lines[place].replace("id-", "xx-");
        lines
    };
    for place in [0, 3, 7] {
        let broken = house.broken(&changed(place), &[]);
        assert_eq!(at(&broken), (place as u64 + 1, Some(place as u64), Some(format!("xx-{place}"))), "{broken:?}");
        assert!(broken.why.contains("changed"), "{broken:?}");
    }
    let mut cut = lines.clone();
    cut.remove(2);
    let broken = house.broken(&cut, &[]);
    assert_eq!((at(&broken), &*broken.why), ((3, Some(3), Some("id-3".to_owned())), "record 2 is missing before it"));
    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    assert_eq!(house.broken(&swapped, &[]).line, 3);
    let mut repeated = lines.clone();
    repeated.insert(3, lines[1].clone());
    let broken = house.broken(&repeated, &[]);
    assert!(broken.line == 4 && broken.why.contains("record 3 should"), "{broken:?}");
    let mut inserted = lines.clone();
    inserted.insert(4, "{\"decision_id\":\"mine\"}\n".to_owned());
    let broken = house.broken(&inserted, &[]);
    assert!(broken.line == 5 && broken.decision_id.as_deref() == Some("mine") && broken.why.contains("inserted"), "{broken:?}");
    // Hashed anew from the change on: the checkpoint behind it does not fit, and another cannot be signed.
    let mut one = changed(3);
    one[3] = rehashed(one.clone(), 3)[3].clone();
    assert_eq!(house.broken(&one, &[]).line, 5);
    let broken = house.broken(&rehashed(changed(3), 3), &[]);
    assert!(broken.line == 6 && broken.why.contains("checkpoint of another"), "{broken:?}");
    let stranger = House::new();
    let broken = house.broken(&record(&stranger.signer), &[]);
    assert!(broken.line == 6 && broken.why.contains("not signed"), "{broken:?}");
    assert!(house.broken(&lines[..5], &[]).why.contains("no checkpoint"));
}

#[test]
fn what_is_written_anew_behind_the_last_checkpoint_shows_only_against_one_kept_elsewhere() {
    let house = House::new();
    let lines = record(&house.signer);
    let kept = Expected::of(&lines[5]).unwrap();
    verify(&[house.file("whole", &lines)], Some(&house.key), std::slice::from_ref(&kept)).unwrap();
    // The tail behind the checkpoint, and all behind record 3.
    verify(&[house.file("tail", &lines[..6])], Some(&house.key), std::slice::from_ref(&kept)).unwrap();
    let broken = house.broken(&lines[..4], std::slice::from_ref(&kept));
    assert!(broken.why.contains("tail was cut"), "{broken:?}");
    let mut without = lines.clone();
    without.remove(5);
    let again = rehashed(without, 2);
    verify(&[house.file("again", &again)], None, std::slice::from_ref(&kept)).unwrap();
    let mut forged = lines.clone();
    forged[1] = forged[1].replace("id-", "xx-");
    forged.remove(5);
    let forged = rehashed(forged, 0);
    verify(&[house.file("forged", &forged)], None, &[]).unwrap();
    let broken = match verify(&[house.file("forged", &forged)], None, &[kept]) {
        Err(Unverified::Broken(broken)) => broken,
        other => panic!("{other:?}"),
    };
    assert_eq!(broken.seq, Some(4), "{broken:?}");
}
