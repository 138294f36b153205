//! HTTP/2: frames are counted, and what is written is gathered.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(length: usize, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let size = (length as u32).to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), &vec![0; length]].concat()
}

/// Counts `frames`, each at its millisecond.
fn counted(frames: &[(u64, Vec<u8>)], bought: u64) -> Result<u64, Refusal> {
    let start = Instant::now();
    let mut counter = Frames::new(&LIMITS, start);
    counter.wrote(bought);
    counter.follow(start, PREFACE)?;
    for (millis, frame) in frames {
        counter.follow(start + Duration::from_millis(*millis), frame)?;
    }
    Ok(counter.heads())
}

#[test]
fn each_flood_is_refused_just_above_its_limit_and_not_at_it() {
    use Refusal::*;
    let headers = |stream| frame(3, 1, 4, stream);
    for (name, most, word, make) in [
        ("settings", 20, FloodControlFrames, frame(6, 4, 0, 0)),
        ("ping", 20, FloodControlFrames, frame(8, 6, 0, 0)),
        ("priority", 20, FloodControlFrames, frame(5, 2, 0, 1)),
        ("empty data", 20, FloodControlFrames, frame(0, 0, 0, 1)),
        ("unknown", 20, FloodControlFrames, frame(0, 0x42, 0, 1)),
        ("window update", 160, FloodControlFrames, frame(4, 8, 0, 0)),
        ("reset", 5, FloodResets, frame(4, 3, 0, 1)),
    ] {
        let flood = |count: u64, gap: u64| (0..count).map(|n| (n * gap, make.clone())).collect::<Vec<_>>();
        assert_eq!(counted(&flood(most, 0), 0), Ok(0), "{name}");
        assert_eq!(counted(&flood(most + 1, 0), 0), Err(word), "{name}");
        assert_eq!(counted(&flood(most * 10, 1000 / most + 1), 0), Ok(0), "{name} at its rate");
        assert_eq!(counted(&flood(most * 10, 1000 / most / 2), 0), Err(word), "{name} at twice its rate");
    }
    let data = vec![(0, frame(1, 0, 0, 1)); 500];
    assert_eq!(counted(&data, 0), Ok(0));
    let ends = vec![(0, frame(0, 0, 1, 1)); 500];
    assert_eq!(counted(&ends, 0), Ok(0));
    assert_eq!(counted(&(0..500).map(|n| (0, headers(2 * n + 1))).collect::<Vec<_>>(), 0), Ok(500));
}

#[test]
fn bytes_written_buy_window_updates() {
    let updates = vec![(0, frame(4, 8, 0, 0)); 400];
    assert_eq!(counted(&updates, 0), Err(Refusal::FloodControlFrames));
    assert_eq!(counted(&updates, 300 * 2048), Ok(0));
}

#[test]
fn a_header_block_is_bounded_in_bytes_and_in_frames() {
    let block = |count: usize, length: usize| [vec![(0, frame(1, 1, 0, 1))], vec![(0, frame(length, 9, 0, 1)); count]].concat();
    assert_eq!(counted(&block(32, 0), 0), Ok(1));
    assert_eq!(counted(&block(33, 0), 0), Err(Refusal::FloodControlFrames));
    assert_eq!(counted(&block(3, 199), 0), Ok(1));
    assert_eq!(counted(&block(3, 200), 0), Err(Refusal::HeadersTooLarge));
}

#[test]
fn http2_passes_unchanged_until_the_flood_however_it_is_cut() {
    let good = [PREFACE, &frame(0, 4, 0, 0), &frame(30, 1, 0, 1), &frame(10, 9, 4, 1), &frame(100, 0, 1, 1)].concat();
    let bad = frame(4, 3, 0, 1).repeat(6);
    let all = [good.as_slice(), &bad].concat();
    for size in 1..all.len() {
        let (mut wire, monitor) = Wire::http2(scripted(&all.chunks(size).collect::<Vec<_>>()), LIMITS);
        let mut passed = Vec::new();
        while let Some(part) = read(&mut wire, 1000) {
            passed.extend(part.unwrap());
        }
        assert!(all.starts_with(&passed));
        assert_eq!(rejected(&monitor).unwrap().refusal, Refusal::FloodResets);
    }
}

#[test]
fn a_header_block_that_does_not_end_is_a_head_begun() {
    let (mut wire, monitor) =
        Wire::http2(scripted(&[&PREFACE[..5], &PREFACE[5..], &frame(3, 1, 0, 1), &frame(1, 9, 4, 1)[..9], &[0]]), LIMITS);
    for begun in [true, false, true, true, false] {
        read(&mut wire, 100).unwrap().unwrap();
        assert_eq!(monitor.head_begun().is_some(), begun);
    }
}

#[test]
fn a_flush_that_was_put_off_happens_at_the_next_flush_or_read() {
    let script = Script::default();
    let written = Rc::clone(&script.written);
    let (mut wire, _) = Wire::http2(script, LIMITS);
    let write = |wire: &mut Wire<Script>, text: &str| {
        let outcome = Pin::new(wire).poll_write(&mut Context::from_waker(Waker::noop()), text.as_bytes());
        assert!(matches!(outcome, Poll::Ready(Ok(length)) if length == text.len()));
    };
    for text in ["a", "b", "c"] {
        write(&mut wire, text);
        flush(&mut wire);
    }
    assert!(written.borrow().is_empty());
    flush(&mut wire);
    assert_eq!(*written.borrow(), [b"abc"]);
    write(&mut wire, "d");
    flush(&mut wire);
    read(&mut wire, 10).unwrap().unwrap();
    assert_eq!(written.borrow().concat(), b"abcd");
}

proptest! {
    #[test]
    fn writes_leave_whole_and_in_order_in_fewer_pieces(
        writes in proptest::collection::vec((0_usize..20_000, any::<bool>()), 1..20),
        narrow in prop::option::of(1_usize..5000),
    ) {
        let script = Script { narrow, ..Script::default() };
        let written = Rc::clone(&script.written);
        let (mut wire, monitor) = Wire::http2(script, LIMITS);
        let mut expected = Vec::new();
        run(async {
            for (index, (length, flush)) in writes.iter().enumerate() {
                let bytes = vec![index as u8; *length];
                wire.write_all(&bytes).await.unwrap();
                expected.extend(bytes);
                if *flush {
                    wire.flush().await.unwrap();
                }
            }
            wire.shutdown().await.unwrap();
        });
        prop_assert!(written.borrow().concat() == expected);
        prop_assert_eq!(monitor.bytes_out(), expected.len() as u64);
    }
}
