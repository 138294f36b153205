use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::exchange::ExchangeId;
use crate::spiffe::SpiffeId;

/// A request for tests.
pub(super) struct Request<'a> {
    pub(super) id: ExchangeId,
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) resource: &'a str,
    pub(super) effect: Effect,
    pub(super) sensitivity: Sensitivity,
    pub(super) enforced: bool,
    pub(super) route: &'a str,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            id: ExchangeId(uuid::Uuid::new_v4()),
            method: "GET",
            host: "host.test",
            path: "/",
            resource: "thing",
            effect: Effect::Read,
            sensitivity: Sensitivity::Low,
            enforced: true,
            route: "all",
        }
    }
}

impl Request<'_> {
    pub(super) fn place(&self) -> Where<'_> {
        Where { listener: "front", route: self.route, enforced: self.enforced }
    }

    pub(super) fn asked<T>(&self, ask: impl FnOnce(&Asked<'_>) -> T) -> T {
        let segments: Vec<String> = self.path.split('/').skip(1).map(str::to_owned).collect();
        ask(&Asked {
            peer: &peer(),
            exchange: self.id,
            at: self.place(),
            method: self.method,
            host: self.host,
            path: self.path,
            segments: &segments,
            resource: self.resource,
            sensitivity: self.sensitivity,
            effect: self.effect,
        })
    }
}

fn peer() -> SpiffeId {
    SpiffeId::new("spiffe://example.org/agents/research").unwrap()
}

/// One rule of YAML.
fn rule(name: &str, kind: &str, rest: &str) -> String {
    format!("- {{name: {name}, {kind}, {rest}}}\n")
}

pub(super) fn compiled(yaml: &str) -> Arc<Rules> {
    let config: Config = serde_yaml::from_str(yaml).unwrap();
    Arc::new(Rules::new(&config).unwrap())
}

pub(super) fn rules(kind: &str, rest: &str) -> Arc<Rules> {
    compiled(&format!("rules:\n{}", rule("r", kind, rest)))
}

pub(super) fn watched(rules: &Arc<Rules>, start: Instant) -> Watch {
    Watch::new(rules, &peer(), start, std::hash::RandomState::new())
}

/// Asks at so many milliseconds, and says which fired.
fn fired_at(rules: &Arc<Rules>, times: &[u64]) -> Vec<u64> {
    let start = Instant::now();
    let watch = watched(rules, start);
    let fires = |at: &&u64| {
        let now = start + Duration::from_millis(**at);
        !Request::default().asked(|asked| watch.asked(rules, asked, now)).fired.is_empty()
    };
    times.iter().filter(fires).copied().collect()
}

/// Asks one after the other, a second apart, and says which fired.
fn fired_of(rules: &Arc<Rules>, requests: &[Request<'_>]) -> Vec<usize> {
    let start = Instant::now();
    let watch = watched(rules, start);
    let fires = |(place, request): (usize, &Request<'_>)| {
        let now = start + Duration::from_secs(place as u64);
        let fired = !request.asked(|asked| watch.asked(rules, asked, now)).fired.is_empty();
        fired.then_some(place)
    };
    requests.iter().enumerate().filter_map(fires).collect()
}

#[test]
fn more_requests_than_a_window_may_hold_fire_from_the_first_too_many_on() {
    let rules = rules("rate: {requests: 3, within: 8s}", "action: deny");
    assert_eq!(fired_at(&rules, &[0, 1, 2, 3, 4]), [3, 4]);
    assert_eq!(fired_at(&rules, &[0, 3000, 6000, 9000, 12_000]), [0_u64; 0], "spread out");
}

#[test]
fn a_burst_fires_where_the_bucket_is_empty_and_not_where_it_has_filled_again() {
    let rules = rules("burst: {requests: 2, every: 1s}", "action: deny");
    assert_eq!(fired_at(&rules, &[0, 1, 2, 1002, 1003, 9000, 9001, 9002]), [2, 1003, 9002]);
}

#[test]
fn a_host_method_or_resource_never_seen_before_fires_once_what_was_learned_is_known() {
    let host = |host| Request { host, ..Request::default() };
    let rules = rules("first_seen: {of: host, learning: 3s}", "action: deny");
    assert_eq!(fired_of(&rules, &[host("a"), host("b"), host("a"), host("a"), host("b"), host("c"), host("c")]), [5]);
    let methods = self::rules("first_seen: {of: method, learning: 1s}", "action: deny");
    let method = |method| Request { method, ..Request::default() };
    assert_eq!(fired_of(&methods, &[method("GET"), method("GET"), method("DELETE"), method("DELETE")]), [2]);
    let resources = self::rules("first_seen: {of: resource, learning: 1s}", "action: deny");
    let resource = |resource| Request { resource, ..Request::default() };
    assert_eq!(fired_of(&resources, &[resource("user"), resource("user"), resource("secret")]), [2]);
}

#[test]
fn the_policy_can_read_that_a_session_is_still_learned_from() {
    let rules = compiled("{learning: 10s, rules: [{name: r, first_seen: {of: host}, action: score, score: 0.5}]}");
    let start = Instant::now();
    let watch = watched(&rules, start);
    let learning = |seconds| watch.reading(start + Duration::from_secs(seconds)).learning;
    assert!(learning(9) && !learning(11));
    let other = compiled("rules: [{name: r, rate: {requests: 1, within: 1s}, action: deny}]");
    assert!(!watched(&other, start).reading(start).learning, "nothing to learn");
}

#[test]
fn more_different_paths_hosts_or_resources_than_that_fire() {
    let path = |path| Request { path, ..Request::default() };
    let rules = rules("fan_out: {of: path, distinct: 2, within: 60s}", "action: deny");
    assert_eq!(fired_of(&rules, &[path("/1"), path("/2"), path("/1"), path("/3"), path("/1"), path("/4")]), [3, 4, 5]);
    let host = |host| Request { host, ..Request::default() };
    let hosts = self::rules("fan_out: {of: host, distinct: 2, within: 2s}", "action: deny");
    assert_eq!(
        fired_of(&hosts, &[host("a"), host("b"), host("c"), host("d")]),
        [0_usize; 0],
        "never more than two within two seconds"
    );
    let resource = |resource| Request { resource, ..Request::default() };
    let resources = self::rules("fan_out: {of: resource, distinct: 1, within: 9s}", "action: deny");
    assert_eq!(fired_of(&resources, &[resource("a"), resource("b")]), [1]);
}

#[test]
fn an_effect_or_a_sensitivity_above_the_highest_so_far_fires_once() {
    let effect = |effect| Request { effect, ..Request::default() };
    let rules = rules("escalation: {of: effect}", "action: deny");
    let walk = [Effect::Write, Effect::Read, Effect::Write, Effect::Destroy, Effect::Destroy].map(effect);
    assert_eq!(fired_of(&rules, &walk), [3], "the first is where it starts from");
    let sensitivity = |sensitivity| Request { sensitivity, ..Request::default() };
    let sensitivities = self::rules("escalation: {of: sensitivity}", "action: deny");
    let walk = [Sensitivity::Low, Sensitivity::Medium, Sensitivity::Low, Sensitivity::High].map(sensitivity);
    assert_eq!(fired_of(&sensitivities, &walk), [1, 3]);
}

#[test]
fn denials_are_counted_as_they_happen_and_deny_refuses_while_they_last() {
    let start = Instant::now();
    let request = Request::default();
    for (action, refused) in [("deny", true), ("kill_session", false)] {
        let rules = rules("denied_burst: {denials: 3, within: 8s}", &format!("action: {action}"));
        let watch = watched(&rules, start);
        let denied = || watch.denied(request.place(), request.id, start).fired.len();
        assert_eq!([denied(), denied(), denied()], [0, 0, 1]);
        let asked = |seconds| request.asked(|asked| watch.asked(&rules, asked, start + Duration::from_secs(seconds)).fired.len());
        assert_eq!((asked(1), asked(9)), (usize::from(refused), 0), "{action}");
    }
}

#[test]
fn bytes_are_counted_while_they_flow_and_only_their_own_way() {
    let rules = rules("volume: {of: bytes_out, window: 1s, least: 1KiB, warm_up: 1}", "action: kill_exchange");
    let start = Instant::now();
    let (watch, request) = (watched(&rules, start), Request::default());
    let moved = |way, bytes, millis| {
        watch.moved(request.place(), request.id, way, bytes, start + Duration::from_millis(millis)).fired.len()
    };
    assert_eq!(moved(Direction::BytesOut, 500, 0), 0);
    assert_eq!(moved(Direction::BytesIn, 1 << 30, 1001), 0, "the other way");
    assert_eq!([moved(Direction::BytesOut, 1501, 1002), moved(Direction::BytesOut, 1, 1003)], [1, 0]);
    assert!(rules.meter() && !self::rules("rate: {requests: 1, within: 1s}", "action: deny").meter());
}

#[test]
fn a_score_holds_then_halves_and_scores_combine() {
    let rules = compiled(&format!(
        "{{holds: 10s, half_life: 5s, rules: [{}, {}]}}",
        "{name: a, rate: {requests: 1, within: 1s}, action: score, score: 0.5}",
        "{name: b, rate: {requests: 2, within: 1s}, action: score, score: 0.4}"
    ));
    let start = Instant::now();
    let watch = watched(&rules, start);
    let ask = || Request::default().asked(|asked| watch.asked(&rules, asked, start));
    assert!(!ask().changed && ask().changed, "one rule fired");
    assert_eq!(watch.reading(start), Reading { score: 0.5, rules: vec!["a".to_owned()], learning: false });
    assert!(ask().changed, "another one");
    assert!(!ask().changed, "both hold already");
    let score = |seconds| watch.reading(start + Duration::from_secs(seconds)).score;
    assert_eq!([score(0), score(10), score(15), score(20)], [0.7, 0.7, 0.4, 0.21]);
    assert_eq!(watch.reading(start + Duration::from_secs(41)), Reading::default(), "faded");
}

#[test]
fn what_is_only_observed_is_remembered_and_counts_for_nothing() {
    let observing = rules("rate: {requests: 1, within: 1s}", "action: score, score: 1.0, observe: true");
    let scoring = rules("rate: {requests: 1, within: 1s}", "action: score, score: 1.0");
    for (rules, enforced) in [(observing, true), (scoring, false)] {
        let start = Instant::now();
        let watch = watched(&rules, start);
        let ask = || Request { enforced, ..Request::default() }.asked(|asked| watch.asked(&rules, asked, start));
        ask();
        let found = ask();
        assert_eq!((found.fired[0].action, found.changed), (None, false));
        assert_eq!(watch.reading(start), Reading::default());
        let told = watch.explain(start);
        assert_eq!((told.fired[0].action.as_str(), told.fired[0].times, told.rules[0].fired), ("observe", 1, 1));
    }
}

#[test]
fn a_rule_is_about_whom_and_what_passes_where_it_names() {
    let count = |rest: &str, request: Request<'_>| {
        let rules = rules("rate: {requests: 1, within: 1s}", &format!("action: deny, {rest}"));
        let start = Instant::now();
        let watch = watched(&rules, start);
        (0..3).map(|_| request.asked(|asked| watch.asked(&rules, asked, start)).fired.len()).sum::<usize>()
    };
    assert_eq!(count("spiffe_ids: [\"spiffe://example.org/agents/*\"]", Request::default()), 2);
    assert_eq!(count("spiffe_ids: [\"spiffe://example.org/ops/*\"]", Request::default()), 0);
    assert_eq!(count("routes: [all]", Request::default()), 2);
    assert_eq!(count("routes: [reports]", Request::default()), 0);
    assert_eq!(count("listeners: [back]", Request::default()), 0);
}

#[test]
fn after_a_kill_the_session_starts_anew_so_that_lifting_it_readmits() {
    for kind in
        ["rate: {requests: 2, within: 60s}", "burst: {requests: 2, every: 60s}", "fan_out: {of: host, distinct: 2, within: 60s}"]
    {
        let rules = rules(kind, "action: kill_session");
        let hosts = ["a", "b", "c", "d"].map(|host| Request { host, ..Request::default() });
        assert_eq!(fired_of(&rules, &hosts), [2], "{kind}");
    }
}

#[test]
fn a_reload_keeps_what_rules_that_stay_remember() {
    let both = compiled(&format!(
        "rules:\n{}{}",
        rule("a", "rate: {requests: 1, within: 60s}", "action: deny"),
        rule("b", "rate: {requests: 9, within: 60s}", "action: deny")
    ));
    let changed = compiled(&format!(
        "rules:\n{}{}",
        rule("b", "rate: {requests: 1, within: 60s}", "action: deny"),
        rule("a", "rate: {requests: 1, within: 60s}", "action: deny")
    ));
    let start = Instant::now();
    let watch = watched(&both, start);
    let ask = |rules| {
        let found = Request::default().asked(|asked| watch.asked(rules, asked, start));
        found.fired.into_iter().map(|fired| fired.rule).collect::<Vec<_>>()
    };
    assert!(ask(&both).is_empty());
    assert_eq!(ask(&changed), ["a"], "b is another rule now and begins anew");
    assert_eq!(ask(&changed), ["b", "a"]);
}

#[test]
fn a_storm_of_one_rule_is_one_firing_and_their_number_is_bounded() {
    let one = rules("rate: {requests: 1, within: 60s}", "action: deny");
    let start = Instant::now();
    let watch = watched(&one, start);
    for _ in 0..100 {
        Request::default().asked(|asked| watch.asked(&one, asked, start));
    }
    let told = watch.explain(start);
    assert_eq!((told.fired.len(), told.fired[0].times), (1, 99));
    // Two that take turns push the oldest out.
    let two = compiled(
        "rules: [{name: a, rate: {requests: 1, within: 60s}, action: deny}, {name: b, rate: {requests: 1, within: 60s}, action: deny}]",
    );
    let watch = watched(&two, start);
    for _ in 0..100 {
        Request::default().asked(|asked| watch.asked(&two, asked, start));
    }
    assert_eq!(watch.explain(start).fired.len(), 8);
}

#[test]
fn a_rule_without_a_kind_or_with_two_is_none() {
    let wrong = |yaml: &str| Rules::new(&serde_yaml::from_str(yaml).unwrap()).unwrap_err().join("\n");
    assert!(wrong("rules: [{name: r, action: deny}]").contains("anomaly rule `r`: it has no kind"));
    let two = "rules: [{name: r, rate: {requests: 1, within: 1s}, burst: {requests: 1, every: 1s}, action: deny}]";
    assert!(wrong(two).contains("more than one kind"));
}

/// All kinds on, filled to their bounds by a session that does its worst.
fn everything() -> Arc<Rules> {
    compiled(
        "rules:\n\
         - {name: rate, rate: {requests: 10, within: 1m}, action: score, score: 0.1}\n\
         - {name: burst, burst: {requests: 10, every: 100ms}, action: score, score: 0.1}\n\
         - {name: host, first_seen: {of: host}, action: score, score: 0.1}\n\
         - {name: method, first_seen: {of: method, known: 16}, action: score, score: 0.1}\n\
         - {name: resource, first_seen: {of: resource}, action: score, score: 0.1}\n\
         - {name: in, volume: {of: bytes_in, window: 1m, least: 1MiB}, action: score, score: 0.1}\n\
         - {name: out, volume: {of: bytes_out, window: 1m, least: 1MiB}, action: score, score: 0.1}\n\
         - {name: denied, denied_burst: {denials: 10, within: 1m}, action: score, score: 0.1}\n\
         - {name: fan, fan_out: {of: path, distinct: 50, within: 1m}, action: score, score: 0.1}\n\
         - {name: effect, escalation: {of: effect}, action: score, score: 0.1}\n\
         - name: theft\n  action: score\n  score: 0.1\n  sequence:\n    within: 60s\n    steps:\n\
         \x20   - {match: {path: /1}}\n    - {match: {path: /2}}\n    - {match: {path: /3}}\n",
    )
}

fn worst(rules: &Arc<Rules>, requests: usize) -> Watch {
    let start = Instant::now();
    let watch = watched(rules, start);
    for number in 0..requests {
        let (name, path) = (format!("h{number}.example.org"), format!("/{}", number % 200));
        let request = Request { host: &name, path: &path, method: &name, resource: &name, ..Request::default() };
        request.asked(|asked| watch.asked(rules, asked, start));
        watch.denied(request.place(), request.id, start);
        watch.moved(request.place(), request.id, Direction::BytesOut, 1 << 30, start);
    }
    watch
}

#[test]
fn a_session_that_does_its_worst_stays_within_its_bounds() {
    let rules = everything();
    let (some, many) = (worst(&rules, 1000).size(), worst(&rules, 3000).size());
    assert!(many <= some + 1024, "{some} bytes after 1,000 requests, {many} after 3,000");
    assert!(many < 16 * 1024, "{many} bytes");
    let calm = worst(&rules, 10).size();
    assert!(calm < 6 * 1024, "{calm} bytes");
}

/// Prints what 100,000 sessions weigh: `cargo test --release --lib weighed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, of a gibibyte or more"]
#[expect(clippy::print_stderr, reason = "a measurement is printed")]
fn a_hundred_thousand_sessions_are_weighed() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let rules = everything();
    for (what, requests) in [("10 requests each", 10), ("their worst", 300)] {
        let before = resident();
        let watches: Vec<Watch> = (0..100_000).map(|_| worst(&rules, requests)).collect();
        let sum: usize = watches.iter().map(Watch::size).sum();
        eprintln!(
            "{what}: {:.2} KiB resident a session, {:.2} KiB computed",
            (resident() - before) as f64 / 100_000.0,
            sum as f64 / 1024.0 / 100_000.0
        );
    }
    let start = Instant::now();
    let watch = watched(&rules, start);
    let request = Request { path: "/v1/users/7", ..Request::default() };
    let began = Instant::now();
    for _ in 0..100_000 {
        request.asked(|asked| watch.asked(&rules, asked, start + Duration::from_millis(1)));
    }
    eprintln!("{} ns a request with {} rules, most of them firing", began.elapsed().as_nanos() / 100_000, rules.iter().count());
}
