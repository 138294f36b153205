use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::*;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn caller(name: &str) -> Arc<Caller> {
    Arc::new(Caller {
        spiffe_id: format!("spiffe://example.org/{name}"),
        trust_domain: "example.org".to_owned(),
        certificate: format!("cert-{name}"),
        address: IpAddr::from([127, 0, 0, 1]),
        session: format!("session-{name}"),
    })
}

fn exchange(name: &str) -> Arc<Exchange> {
    Arc::new(Exchange::new(ExchangeId(uuid::Uuid::new_v4()), Kind::Exchange(Protocol::Http1), caller(name)))
}

fn kill(selector: Selector, expires: Option<Instant>) -> StandingKill {
    StandingKill { id: KillId(uuid::Uuid::new_v4()), selector, reason: String::new(), by: String::new(), created: 0, expires }
}

fn of(name: &str) -> Selector {
    Selector { spiffe_id: Some(format!("spiffe://example.org/{name}")), ..Selector::default() }
}

#[test]
fn a_kill_reaches_what_matches_and_wakes_nothing_else() {
    let registry = Arc::new(Registry::new(2));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let open: Vec<_> = (0..20).map(|i| registry.register(i, exchange(if i < 5 { "bad" } else { "good" }))).collect();
    for registered in &open {
        assert_eq!(registered.exchange().cut.poll(Side::Downstream, &mut Context::from_waker(&waker)), Poll::Pending);
    }
    let reached = registry.cut_matching(&of("bad"), Cause::Kill, None);
    assert_eq!((reached.cut.len(), registry.wakes(), woken.0.load(Ordering::SeqCst)), (5, 5, 5));
    let again = registry.cut_matching(&of("bad"), Cause::Kill, None);
    assert_eq!((again.cut.len(), again.falling.len()), (0, 5), "a second kill cuts nothing twice, and waits like the first");
    reached.cut.iter().for_each(|exchange| exchange.cut.acknowledge());
    assert_eq!(registry.cut_matching(&of("bad"), Cause::Kill, None).falling.len(), 0, "what is over needs no waiting");
    assert!(open.iter().skip(5).all(|registered| registered.exchange().cut.cause().is_none()));
}

#[test]
fn the_second_look_sees_a_kill_published_after_registration() {
    let registry = Arc::new(Registry::new(1));
    registry.activate(7);
    let open = registry.register(0, exchange("bad"));
    let standing = kill(of("bad"), None);
    registry.publish(standing.clone());
    assert_eq!(registry.look_again(open.exchange(), 7, Instant::now()), SecondLook::Killed(standing.id));
    assert_eq!(open.exchange().cut.cause(), Some(Cause::Kill));
    assert_eq!(registry.look_again(open.exchange(), 7, Instant::now()), SecondLook::Cut(Cause::Kill), "a cut is terminal");
}

#[test]
fn other_kills_do_not_matter_and_a_moved_generation_does() {
    let registry = Arc::new(Registry::new(1));
    registry.activate(1);
    let open = registry.register(0, exchange("good"));
    registry.publish(kill(of("bad"), None));
    assert_eq!(registry.look_again(open.exchange(), 1, Instant::now()), SecondLook::Pass);
    registry.activate(2);
    assert_eq!(registry.look_again(open.exchange(), 1, Instant::now()), SecondLook::Moved);
    assert_eq!(registry.look_again(open.exchange(), 2, Instant::now()), SecondLook::Pass);
}

#[test]
fn a_kill_ends_with_its_time_and_when_lifted() {
    let registry = Arc::new(Registry::new(1));
    let now = Instant::now();
    let brief = kill(of("a"), Some(now + Duration::from_secs(10)));
    let lasting = kill(of("a"), None);
    registry.publish(brief.clone());
    let open = exchange("a");
    assert_eq!(registry.standing().matching(&open, now), Some(brief.id));
    assert_eq!(registry.standing().matching(&open, now + Duration::from_secs(10)), None);
    assert_eq!(registry.standing().expire(now + Duration::from_secs(10)).len(), 1);
    registry.publish(lasting.clone());
    assert_eq!(registry.standing().matching(&open, now), Some(lasting.id));
    assert!(registry.standing().lift(lasting.id).is_some());
    assert!(registry.standing().lift(lasting.id).is_none());
    assert_eq!((registry.standing().matching(&open, now), registry.standing().len()), (None, 0));
}

#[test]
fn fields_of_a_selector_are_anded_and_an_empty_one_matches_nobody() {
    let open = exchange("a");
    assert!(!Selector::default().matches(&open));
    let both = |upstream: &str| Selector { upstream: Some(upstream.to_owned()), ..of("a") };
    assert!(!both("payroll").matches(&open), "the upstream is not known yet");
    open.set_upstream("payroll".into());
    assert!(both("payroll").matches(&open));
    assert!(!both("other").matches(&open));
    assert!(!Selector { upstream: Some("payroll".to_owned()), ..of("b") }.matches(&open));
    let one = Selector { exchange: Some(open.id.0), ..Selector::default() };
    assert!(one.matches(&open) && !one.names_connections());
    let connection = Exchange::new(open.id, Kind::Connection, caller("a"));
    assert!(of("a").matches(&connection));
    assert!(!one.matches(&connection) && !both("payroll").matches(&connection));
}

#[test]
fn an_end_is_over_and_a_cut_is_over_once_acknowledged() {
    let registry = Arc::new(Registry::new(1));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let ended = registry.register(0, exchange("a"));
    let ended_exchange = Arc::clone(ended.exchange());
    assert_eq!(ended_exchange.cut.poll_over(&mut cx), Poll::Pending);
    drop(ended);
    assert_eq!(ended_exchange.cut.poll_over(&mut cx), Poll::Ready(()));
    assert!(!registry.cut(&ended_exchange, Cause::Kill, None), "what has ended cannot be cut");
    let cut = registry.register(0, exchange("b"));
    assert!(registry.cut(cut.exchange(), Cause::LeaseAge, None));
    assert_eq!(cut.exchange().cut.poll_over(&mut cx), Poll::Pending);
    cut.exchange().cut.acknowledge();
    assert_eq!(cut.exchange().cut.poll_over(&mut cx), Poll::Ready(()));
    assert_eq!(cut.exchange().cut.cause(), Some(Cause::LeaseAge), "the cause survives the acknowledgement");
    assert_eq!(registry.collect(|_| true).len(), 1);
}
