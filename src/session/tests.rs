//! Sessions: who shares one, who is forgotten, and what is kept longer.

use super::*;

fn sessions(max: usize) -> Sessions<u32> {
    Sessions::new(Config { max, history: 2, ..Config::default() })
}

fn enter(sessions: &Sessions<u32>, name: &str, now: Instant) -> View {
    sessions.enter(&id(name, None), &Arc::from(name), now, (1000, true), || 7).unwrap().0
}

fn leave(sessions: &Sessions<u32>, name: &str, now: Instant) {
    sessions.leave(&id(name, None), None, false, now);
}

#[test]
fn a_task_makes_another_session_of_the_same_workload() {
    assert_eq!(id("spiffe://a/b", None), id("spiffe://a/b", None));
    assert_ne!(id("spiffe://a/b", None), id("spiffe://a/b", Some("")));
    assert_ne!(id("spiffe://a/b", Some("1")), id("spiffe://a/b", Some("2")));
    assert_eq!(id("spiffe://a/b", None).len(), 32);
}

#[test]
fn a_view_shows_the_session_as_it_stood_before() {
    let (sessions, start) = (sessions(100), Instant::now());
    assert_eq!(enter(&sessions, "a", start), View::default());
    let past = |action: &str, at| Past { action: action.to_owned(), host: String::new(), verdict: "deny", at };
    for action in ["1", "2", "3"] {
        sessions.leave(&id("a", None), Some(past(action, start)), false, start);
    }
    let view = enter(&sessions, "a", start + Duration::from_secs(5));
    assert_eq!((view.age_seconds, view.requests, view.denied), (5, 1, 3));
    let recent: Vec<_> = view.recent.iter().map(|(past, ago)| (past.action.as_str(), *ago)).collect();
    assert_eq!(recent, [("3", 5), ("2", 5)], "newest first, bounded by the history");
}

#[test]
fn a_session_with_an_open_exchange_never_idles_out() {
    let (sessions, start) = (sessions(100), Instant::now());
    enter(&sessions, "open", start);
    enter(&sessions, "idle", start);
    leave(&sessions, "idle", start);
    sessions.sweep(start + Duration::from_secs(899));
    assert_eq!(sessions.len(), 2);
    sessions.sweep(start + Duration::from_secs(900));
    let left = sessions.summaries(start);
    assert_eq!(left.iter().map(|row| row.spiffe_id.as_str()).collect::<Vec<_>>(), ["open"]);
    assert_eq!(sessions.forgotten(), 0, "idling out is not being forgotten for room");
}

#[test]
fn beyond_the_maximum_the_longest_idle_goes_first_and_is_counted() {
    let (sessions, start) = (sessions(SHARDS), Instant::now());
    for number in 0..200u64 {
        let name = format!("w{number}");
        enter(&sessions, &name, start + Duration::from_secs(number));
        leave(&sessions, &name, start + Duration::from_secs(number));
    }
    assert!(sessions.len() <= SHARDS, "{}", sessions.len());
    assert_eq!(sessions.forgotten() as usize, 200 - sessions.len());
}

#[test]
fn an_identity_has_a_limit_of_open_exchanges() {
    let (sessions, now) = (sessions(100), Instant::now());
    let (name, key) = (Arc::from("a"), id("a", None));
    let enter = || sessions.enter(&key, &name, now, (1, false), || 7);
    assert!(enter().is_ok());
    assert_eq!(enter(), Err(TooMany));
    leave(&sessions, "a", now);
    assert!(enter().is_ok());
}
/// Names whose sessions share a shard.
fn neighbours() -> Vec<String> {
    let shard = |name: &str| u8::from_str_radix(&id(name, None)[1..2], 16).unwrap();
    (0..200).map(|number| format!("n{number}")).filter(|name| shard(name) == shard("n0")).take(4).collect()
}

#[test]
fn the_session_that_enters_is_not_the_one_to_make_room_for_itself() {
    // Room for two in each shard; both are taken, and the one that comes back has idled longest.
    let (sessions, start, names) = (sessions(2 * SHARDS), Instant::now(), neighbours());
    for name in &names[..2] {
        enter(&sessions, name, start);
        leave(&sessions, name, start);
    }
    assert_eq!(enter(&sessions, &names[0], start).requests, 1, "its history is there");
    assert_eq!((sessions.len(), sessions.forgotten()), (2, 0));
    enter(&sessions, &names[2], start);
    assert_eq!((sessions.forgotten(), enter(&sessions, &names[0], start).requests), (1, 2), "the idle one went");
}

#[test]
fn what_is_kept_with_a_session_outlives_it_for_a_while_and_makes_room_first() {
    let (sessions, start, names) = (sessions(2 * SHARDS), Instant::now(), neighbours());
    sessions.keep_for(Duration::from_secs(1000));
    let at = |seconds| start + Duration::from_secs(seconds);
    let kept = |name: &str| sessions.kept(&id(name, None)).is_some();
    let comes_back = |seconds| sessions.enter(&id(&names[0], None), &Arc::from("n"), at(seconds), (9, false), || 8).unwrap();
    enter(&sessions, &names[0], start);
    leave(&sessions, &names[0], start);
    sessions.sweep(at(900));
    assert!(sessions.is_empty() && sessions.detail(&id(&names[0], None), at(900)).is_none() && kept(&names[0]));
    assert_eq!(comes_back(1000), (View::default(), 7), "a session anew, and what was kept of the one before");
    leave(&sessions, &names[0], at(1000));
    assert_eq!(comes_back(1900).1, 7, "idled out, and nobody swept");
    leave(&sessions, &names[0], at(1900));
    sessions.sweep(at(1900 + 1899));
    assert!(kept(&names[0]));
    sessions.sweep(at(1900 + 1900));
    assert!(!kept(&names[0]), "not for ever");
    for name in &names[..2] {
        enter(&sessions, name, at(4000));
        leave(&sessions, name, at(4000));
        sessions.sweep(at(4900));
    }
    enter(&sessions, &names[2], at(4900));
    let slept = names[..2].iter().filter(|name| kept(name)).count();
    assert_eq!((slept, sessions.forgotten()), (1, 0), "what sleeps goes first, and is no loss of a session");
}
