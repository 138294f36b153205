//! What one rule remembers of one session, and what it makes of the next request.
//!
//! In: an event and its time in milliseconds since the session began. Out: why the rule fires, where it does. A rule and its memory
//! are always of one kind; a pair that is not does nothing.

use std::hash::{BuildHasher, RandomState};

use super::known::{Known, Lately};
use super::rules::{Kind, Rule};
use super::sequence::Progress;
use super::volume::Volume;
use super::watch::{Asked, Mark};
use super::window::{Bucket, Window};
use super::{Action, FirstSeenConfig, RiseOf, SeenOf, SpreadOf, VolumeOf};
use crate::action::{Effect, Sensitivity};
use crate::units::{Size, Span};

/// See the module.
#[derive(Clone, Debug)]
pub(super) enum Memory {
    /// The rule is not about this identity.
    Elsewhere,
    Rate(Window),
    Burst(Bucket),
    FirstSeen(Known),
    Volume(Box<Volume>),
    Denied(Window),
    FanOut(Lately),
    Effect(Option<Effect>),
    Sensitivity(Option<Sensitivity>),
    Sequence(Progress),
}

/// Why a rule fires.
#[derive(Clone, Debug, Default)]
pub(super) struct Why {
    pub(super) text: String,
    /// The requests of a sequence, oldest first.
    pub(super) marks: Vec<Mark>,
}

impl From<String> for Why {
    fn from(text: String) -> Self {
        Self { text, marks: Vec::new() }
    }
}

/// Now, in milliseconds and in nanoseconds since the session began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) millis: u64,
    pub(super) nanos: u64,
}

impl Memory {
    /// Nothing remembered yet.
    pub(super) fn new(rule: &Rule) -> Self {
        match &rule.kind {
            Kind::Rate(_) => Self::Rate(Window::default()),
            Kind::Burst(_) => Self::Burst(Bucket::default()),
            Kind::FirstSeen(_) => Self::FirstSeen(Known::default()),
            Kind::Volume(_) => Self::Volume(Box::default()),
            Kind::DeniedBurst(_) => Self::Denied(Window::default()),
            Kind::FanOut(_) => Self::FanOut(Lately::default()),
            Kind::Escalation(escalation) => match escalation.of {
                RiseOf::Effect => Self::Effect(None),
                RiseOf::Sensitivity => Self::Sensitivity(None),
            },
            Kind::Sequence(_) => Self::Sequence(Progress::default()),
        }
    }

    /// Forgets what led to a kill, and keeps what was learned: once the kill is lifted the session starts anew.
    pub(super) fn start_anew(&mut self) {
        match self {
            Self::Rate(window) | Self::Denied(window) => *window = Window::default(),
            Self::Burst(bucket) => *bucket = Bucket::default(),
            Self::FanOut(lately) => *lately = Lately::default(),
            Self::Sequence(progress) => *progress = Progress::default(),
            // What is known now is known; a window that was beyond its limit fires no second time.
            Self::FirstSeen(_) | Self::Volume(_) | Self::Effect(_) | Self::Sensitivity(_) | Self::Elsewhere => {}
        }
    }

    /// Takes a request.
    pub(super) fn asked(&mut self, rule: &Rule, asked: &Asked<'_>, now: Now, learning: bool, keys: &RandomState) -> Option<Why> {
        match (self, &rule.kind) {
            (Self::Rate(window), Kind::Rate(rate)) => {
                let count = window.count(now.millis, rate.within);
                (count > rate.requests)
                    .then(|| format!("{count} requests within {}, more than {}", rate.within, rate.requests).into())
            }
            (Self::Burst(bucket), Kind::Burst(burst)) => {
                let (size, every) = (burst.requests, burst.every);
                (!bucket.take(now.nanos, size, every))
                    .then(|| format!("more than {size} requests at once, with one more every {every}").into())
            }
            (Self::FirstSeen(known), Kind::FirstSeen(first)) => first_seen(known, first, asked, now, learning, keys),
            (Self::FanOut(lately), Kind::FanOut(spread)) => {
                let hash = match spread.of {
                    SpreadOf::Path => keys.hash_one((asked.host, asked.path)),
                    SpreadOf::Host => keys.hash_one(asked.host),
                    SpreadOf::Resource => keys.hash_one(asked.resource),
                };
                let count = lately.see(hash, now.millis, millis(spread.within), spread.distinct);
                (count > spread.distinct).then(|| {
                    let what = spread_noun(spread.of);
                    format!("more than {} different {what} within {}", spread.distinct, spread.within).into()
                })
            }
            (Self::Effect(highest), Kind::Escalation(_)) => rise(highest, asked.effect, Effect::code),
            (Self::Sensitivity(highest), Kind::Escalation(_)) => rise(highest, asked.sensitivity, Sensitivity::code),
            (Self::Sequence(progress), Kind::Sequence(sequence)) => {
                let marks = progress.take(sequence, asked, now.millis, || asked.told().into())?;
                let first = marks.first().map_or(now.millis, |first| first.at);
                let took = Span::millis(now.millis.saturating_sub(first));
                Some(Why { text: format!("all {} steps within {took}", sequence.steps()), marks })
            }
            // They fire at a denial and at a byte; while that lasts `deny` refuses what is asked.
            (Self::Denied(window), Kind::DeniedBurst(burst)) if rule.action == Action::Deny => {
                let count = window.peek(now.millis, burst.within);
                (count >= burst.denials).then(|| format!("{count} denials within {}", burst.within).into())
            }
            (Self::Volume(volume), Kind::Volume(config)) if rule.action == Action::Deny => {
                volume.is_beyond(now.millis, config).then(|| beyond(volume, config.of, config.window).into())
            }
            _ => None,
        }
    }

    /// Takes a denial.
    pub(super) fn denied(&mut self, rule: &Rule, now: Now) -> Option<Why> {
        match (self, &rule.kind) {
            (Self::Denied(window), Kind::DeniedBurst(burst)) => {
                let count = window.count(now.millis, burst.within);
                (count >= burst.denials).then(|| format!("{count} denials within {}", burst.within).into())
            }
            _ => None,
        }
    }

    /// Takes bytes.
    pub(super) fn moved(&mut self, rule: &Rule, bytes: u64, now: Now) -> Option<Why> {
        match (self, &rule.kind) {
            (Self::Volume(volume), Kind::Volume(config)) => {
                volume.count(bytes, now.millis, config).then(|| beyond(volume, config.of, config.window).into())
            }
            _ => None,
        }
    }

    /// How it stands, in a sentence.
    pub(super) fn told(&self, rule: &Rule, now: Now) -> String {
        match (self, &rule.kind) {
            (Self::Rate(window), Kind::Rate(rate)) => {
                format!("{} of {} requests within {}", window.peek(now.millis, rate.within), rate.requests, rate.within)
            }
            (Self::Burst(bucket), Kind::Burst(burst)) => {
                format!("{} of {} tokens left", bucket.left(now.nanos, burst.requests, burst.every), burst.requests)
            }
            (Self::FirstSeen(known), Kind::FirstSeen(first)) => {
                format!("{} {} known, room for {}", known.len(), seen_noun(first.of), first.known)
            }
            (Self::Volume(volume), Kind::Volume(config)) => {
                let now = Size(volume.bytes(now.millis, config));
                let (average, deviation) = volume.baseline();
                let limit = match volume.limit(config) {
                    Some(limit) => format!("limit {}", amount(limit)),
                    None => format!("learning, {} of {} windows", volume.learned(), config.warm_up),
                };
                let (average, deviation) = (amount(average), amount(deviation));
                format!("{} in this {}; baseline {average} +/- {deviation}, {limit}", amount(now.0), config.window)
            }
            (Self::Denied(window), Kind::DeniedBurst(burst)) => {
                format!("{} of {} denials within {}", window.peek(now.millis, burst.within), burst.denials, burst.within)
            }
            (Self::FanOut(lately), Kind::FanOut(spread)) => {
                let count = lately.count(now.millis, millis(spread.within));
                format!("{count} of {} different {} within {}", spread.distinct, spread_noun(spread.of), spread.within)
            }
            (Self::Effect(highest), _) => format!("highest effect so far: {}", highest.map_or("none", Effect::code)),
            (Self::Sensitivity(highest), _) => {
                format!("highest sensitivity so far: {}", highest.map_or("none", Sensitivity::code))
            }
            (Self::Sequence(progress), Kind::Sequence(sequence)) => {
                format!("{} of {} steps", progress.furthest(now.millis, sequence).len(), sequence.steps())
            }
            _ => "not about this identity".to_owned(),
        }
    }

    /// The requests that matched the first steps of a sequence.
    pub(super) fn progress(&self, rule: &Rule, now: Now) -> &[Mark] {
        match (self, &rule.kind) {
            (Self::Sequence(progress), Kind::Sequence(sequence)) => progress.furthest(now.millis, sequence),
            _ => &[],
        }
    }

    /// Bytes it holds beside itself.
    pub(super) fn heap(&self) -> usize {
        match self {
            Self::FirstSeen(known) => known.heap(),
            Self::FanOut(lately) => lately.heap(),
            Self::Sequence(progress) => progress.heap(),
            Self::Volume(_) => size_of::<Volume>(),
            Self::Elsewhere | Self::Rate(_) | Self::Burst(_) | Self::Denied(_) | Self::Effect(_) | Self::Sensitivity(_) => 0,
        }
    }
}

fn first_seen(
    known: &mut Known,
    first: &FirstSeenConfig,
    asked: &Asked<'_>,
    now: Now,
    learning: bool,
    keys: &RandomState,
) -> Option<Why> {
    let name = match first.of {
        SeenOf::Host => asked.host,
        SeenOf::Method => asked.method,
        SeenOf::Resource => asked.resource,
    };
    let new = known.see(keys.hash_one(name), now.millis, first.known);
    (new && !learning).then(|| format!("the first time of {} {}", seen_noun(first.of), super::watch::short(name)).into())
}

/// Something above the highest so far; the first is where it starts from.
fn rise<T: Copy + Ord>(highest: &mut Option<T>, now: T, code: impl Fn(T) -> &'static str) -> Option<Why> {
    let before = highest.replace(highest.map_or(now, |highest| highest.max(now)))?;
    (now > before).then(|| format!("{}, and never above {} before", code(now), code(before)).into())
}

fn beyond(volume: &Volume, of: VolumeOf, window: Span) -> String {
    let (average, deviation) = volume.baseline();
    let of = match of {
        VolumeOf::BytesIn => "bytes in",
        VolumeOf::BytesOut => "bytes out",
    };
    format!("{of} in {window} beyond the baseline of {} +/- {}", amount(average), amount(deviation))
}

/// Bytes in the largest unit of which there is one, with a decimal.
fn amount(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

fn millis(span: Span) -> u64 {
    u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)
}

const fn seen_noun(of: SeenOf) -> &'static str {
    match of {
        SeenOf::Host => "host",
        SeenOf::Method => "method",
        SeenOf::Resource => "resource",
    }
}

const fn spread_noun(of: SpreadOf) -> &'static str {
    match of {
        SpreadOf::Path => "paths",
        SpreadOf::Host => "hosts",
        SpreadOf::Resource => "resources",
    }
}
