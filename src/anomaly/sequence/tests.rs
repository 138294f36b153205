use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::anomaly::tests::{Request, rules, watched};
use crate::units::Span;

const NONE: [usize; 0] = [];

fn matching(methods: &[&str], hosts: &[&str], path: Option<&str>) -> MatchConfig {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    MatchConfig { methods: texts(methods), hosts: texts(hosts), path: path.map(str::to_owned), ..MatchConfig::default() }
}

fn step(r#match: MatchConfig) -> StepConfig {
    StepConfig { r#match, ..StepConfig::default() }
}

/// List secrets, read one, post to a foreign host.
fn theft() -> SequenceConfig {
    SequenceConfig {
        within: Span::seconds(60),
        steps: vec![
            step(matching(&["GET"], &[], Some("/v1/secrets"))),
            step(matching(&["GET"], &[], Some("/v1/secrets/*"))),
            StepConfig {
                not: Some(matching(&[], &["*.example.org"], None)),
                without: Some(matching(&["POST"], &[], Some("/v1/approvals/**"))),
                ..step(matching(&["POST"], &[], None))
            },
        ],
    }
}

fn walked(events: &[(u64, &str, &str, &str)]) -> Vec<usize> {
    let sequence = Sequence::new(&theft()).unwrap();
    let mut progress = Progress::default();
    let mut whole = Vec::new();
    for (place, (at, method, host, path)) in events.iter().enumerate() {
        let request = Request { method, host, path, ..Request::default() };
        if let Some(marks) = request.asked(|asked| progress.take(&sequence, asked, at * 1000, || "x".into())) {
            assert_eq!(marks.len(), 3);
            assert!(marks.is_sorted_by_key(|mark| mark.at));
            whole.push(place);
        }
    }
    whole
}

#[test]
fn the_steps_in_their_order_within_their_time_and_with_others_between_them_are_the_sequence() {
    let (list, read) = ("/v1/secrets", "/v1/secrets/7");
    let own = "api.example.org";
    assert_eq!(
        walked(&[(0, "GET", own, list), (1, "GET", own, "/v1/users"), (20, "GET", own, read), (60, "POST", "evil.net", "/x")]),
        [3]
    );
    assert_eq!(walked(&[(0, "GET", own, list), (20, "GET", own, read), (61, "POST", "evil.net", "/x")]), NONE, "too late");
    assert_eq!(walked(&[(0, "GET", own, read), (1, "GET", own, list), (2, "POST", "evil.net", "/x")]), NONE, "another order");
    assert_eq!(walked(&[(0, "GET", own, list), (1, "GET", own, read), (2, "POST", own, "/x")]), NONE, "a host of ours");
    // The later list gives the longer time.
    let twice = [(0, "GET", own, list), (30, "GET", own, list), (31, "GET", own, read), (80, "POST", "evil.net", "/x")];
    assert_eq!(walked(&twice), [3]);
    // The read belongs to the first list only, and that is too old.
    let old = [(0, "GET", own, list), (10, "GET", own, read), (30, "GET", own, list), (80, "POST", "evil.net", "/x")];
    assert_eq!(walked(&old), NONE);
}

#[test]
fn what_may_not_stand_in_between_ends_what_had_begun() {
    let (own, list, read) = ("api.example.org", "/v1/secrets", "/v1/secrets/7");
    let approved = (2, "POST", own, "/v1/approvals/7");
    assert_eq!(walked(&[(0, "GET", own, list), (1, "GET", own, read), approved, (3, "POST", "evil.net", "/x")]), NONE);
    // Before the second step it is between other steps.
    let early = [(0, "GET", own, list), approved, (3, "GET", own, read), (4, "POST", "evil.net", "/x")];
    assert_eq!(walked(&early), [3]);
    // Read once more, without another approval.
    let again = [(0, "GET", own, list), (1, "GET", own, read), approved, (3, "GET", own, read), (4, "POST", "evil.net", "/x")];
    assert_eq!(walked(&again), [4]);
}

/// Every way to choose events in order: slow, and nothing to get wrong.
fn naive(steps: &[(u8, Option<u8>)], within: u64, events: &[(u64, u8)]) -> Vec<usize> {
    fn reaches(steps: &[(u8, Option<u8>)], within: u64, events: &[(u64, u8)], start: u64, from: usize, last: usize) -> bool {
        let Some(((wanted, without), rest)) = steps.split_first() else { return from == last + 1 };
        (from..=last).any(|place| {
            let between = &events[from..place];
            takes(*wanted, events[place].1)
                && !without.is_some_and(|without| between.iter().any(|(_, event)| takes(without, *event)))
                && events[place].0 - start <= within
                && reaches(rest, within, events, start, place + 1, last)
        })
    }
    let (first, rest) = steps.split_first().unwrap();
    (0..events.len())
        .filter(|last| {
            (0..*last)
                .any(|place| takes(first.0, events[place].1) && reaches(rest, within, events, events[place].0, place + 1, *last))
        })
        .collect()
}

/// Letter 0 stands for any.
fn takes(wanted: u8, event: u8) -> bool {
    wanted == 0 || wanted == event
}

fn letter(letter: u8) -> MatchConfig {
    let methods = if letter == 0 { Vec::new() } else { vec![format!("M{letter}")] };
    MatchConfig { methods, ..MatchConfig::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_finds_a_sequence_exactly_where_trying_all_finds_one(
        steps in proptest::collection::vec((0_u8..4, proptest::option::weighted(0.3, 0_u8..4)), 2..5),
        events in proptest::collection::vec((0_u64..30, 1_u8..4), 0..14),
    ) {
        let within = 60;
        let config = SequenceConfig {
            within: Span::millis(within),
            steps: steps.iter().map(|(wanted, without)| StepConfig {
                r#match: letter(*wanted), not: None, without: without.map(letter)
            }).collect(),
        };
        let sequence = Sequence::new(&config).unwrap();
        let (mut progress, mut found, mut now, mut at) = (Progress::default(), Vec::new(), 0, Vec::new());
        for (place, (gap, event)) in events.into_iter().enumerate() {
            now += gap;
            at.push((now, event));
            let method = format!("M{event}");
            let request = Request { method: &method, ..Request::default() };
            let whole = request.asked(|asked| progress.take(&sequence, asked, now, || "x".into()));
            if let Some(marks) = whole {
                prop_assert_eq!(marks.len(), steps.len());
                prop_assert!(marks.iter().zip(&steps).all(|(mark, (wanted, _))| {
                    at.iter().any(|(time, event)| *time == mark.at && takes(*wanted, *event))
                }), "the evidence is what matched");
                found.push(place);
            }
            prop_assert!(progress.partial.len() < steps.len() && progress.partial.iter().all(|p| p.len() < steps.len()), "bounded");
        }
        // Of the first step nothing stands before it, so its `without` says nothing.
        let mut naive_steps = steps.clone();
        naive_steps[0].1 = None;
        prop_assert_eq!(found, naive(&naive_steps, within, &at));
    }
}

#[test]
fn a_sequence_says_which_requests_it_was() {
    let rules = rules("sequence: {within: 60s, steps: [{match: {path: /a}}, {match: {path: /b}}]}", "action: deny");
    let start = Instant::now();
    let watch = watched(&rules, start);
    let mut ids = Vec::new();
    for path in ["/a", "/x", "/b"] {
        let request = Request { path, ..Request::default() };
        ids.push(request.id.to_string());
        let found = request.asked(|asked| watch.asked(&rules, asked, start));
        assert_eq!(found.fired.len(), usize::from(path == "/b"));
    }
    let told = watch.explain(start);
    let evidence: Vec<_> = told.fired[0].evidence.iter().map(|mark| (mark.exchange.as_str(), mark.action.as_str())).collect();
    assert_eq!(evidence, [(ids[0].as_str(), "GET host.test/a"), (ids[2].as_str(), "GET host.test/b")]);
    assert_eq!(told.rules[0].state, "1 of 2 steps", "the first step still stands");
}
