//! From open to closed: start the threads, serve, drain, write the last line of the record.
//!
//! SIGTERM (or SIGINT) drains: readiness goes first, nothing more is accepted, idle connections close, HTTP/2 gets GOAWAY, and what
//! is open may go on until `limits.drain`; then it is cut. A second signal cuts at once. SIGHUP reads everything again.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::accept::{Accepting, Porter};
use super::change::{Ordered, exchanges};
use super::deliver::Delivering;
use super::fetch;
use super::identity::why_not_ready;
use super::worker::{self, Command, Handle};
use super::{Addresses, App, AppError, Shared};
use crate::admin::{self, Probes};
use crate::config::Config;
use crate::control::{self, Control, Order};
use crate::decision::Cause;
use crate::exchange::{Kind, Registry};
use crate::intake::agent::{self, News};
use crate::intake::bundles::Fetched;
use crate::intake::{Token, Watch};
use crate::policy::{BundleSource, bundle};
use crate::tls::Source;

/// How often bundles and certificates are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const DRAIN_TICK: Duration = Duration::from_millis(20);
/// What is cut at the end of a drain has this long to say so.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// A gate on threads of its own.
pub struct Running {
    addresses: Addresses,
    registry: Arc<Registry>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<(), AppError>>,
}

impl Running {
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What is open and what is killed, as a test or an embedding program may look at it.
    pub const fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Drains, and waits until everything is written.
    ///
    /// # Errors
    /// What went wrong while it ran or ended.
    pub fn stop(self) -> Result<(), AppError> {
        let _ = self.stop.send(true);
        self.thread.join().map_err(|_| AppError::Panicked)?
    }
}

impl App {
    /// Serves on this thread until SIGTERM or SIGINT, then drains.
    ///
    /// # Errors
    /// When a thread cannot be started, or the record could not be written to its end.
    pub fn run(self) -> Result<(), AppError> {
        let (_stop, stopped) = watch::channel(false);
        self.serve(stopped, true)
    }

    /// Serves on threads of its own, without looking at signals.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(self) -> Result<Running, AppError> {
        let (stop, stopped) = watch::channel(false);
        let (addresses, registry) = (self.addresses.clone(), Arc::clone(&self.parts.services.registry));
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || self.serve(stopped, false));
        Ok(Running { addresses, registry, stop, thread: thread.map_err(AppError::Thread)? })
    }

    fn serve(self, stop: watch::Receiver<bool>, signals: bool) -> Result<(), AppError> {
        let Self { config, file, read, addresses, listeners, admin, control, writer, outbox, retired, house, parts } = self;
        spawn("record", move || writer.run())?;
        spawn("reaper", move || retired.into_iter().for_each(drop))?;
        let delivering = Delivering::start(&parts, &config, outbox)?;
        let mut workers = Vec::new();
        for (index, seat) in parts.bench.seats().iter().enumerate() {
            let services = Arc::clone(&parts.services);
            workers.push(worker::start(services, index, Arc::clone(seat), config.limits.clone()).map_err(AppError::Thread)?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Thread)?;
        let shadows = Watch::new(shadows_of(&config));
        let gate = Gate { config, file, read, house, parts, workers: Arc::new(workers), addresses, shadows, delivering };
        runtime.block_on(gate.stand(listeners, admin, control, stop, signals))
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), AppError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop).map_err(AppError::Thread)
}

/// A gate that stands, on its control thread.
struct Gate {
    config: Config,
    file: Option<PathBuf>,
    /// What bundles on this machine were when they were read for the start.
    read: Bundles,
    house: Arc<crate::listener::House>,
    parts: Shared,
    workers: Arc<Vec<Handle>>,
    addresses: Addresses,
    /// The bundles of the shadow policy.
    shadows: Watch<Bundles>,
    /// The record's lines on their way to a service.
    delivering: Option<Delivering>,
}

/// What ends the time of standing.
enum Event {
    Stop,
    Reload,
    Order(Order),
    Look,
    Sweep,
    Heard(News),
    Fetched(Fetched),
}

/// What is heard from outside.
struct Ears {
    agent: mpsc::Receiver<News>,
    bundles: mpsc::Receiver<Fetched>,
}

impl Ears {
    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            Some(news) = self.agent.recv() => Event::Heard(news),
            Some(fetched) = self.bundles.recv() => Event::Fetched(fetched),
            else => std::future::pending().await,
        }
    }
}

impl Gate {
    async fn stand(
        mut self,
        listeners: Vec<(std::net::TcpListener, Arc<crate::listener::Entrance>)>,
        admin: std::net::TcpListener,
        control: std::os::unix::net::UnixListener,
        stop: watch::Receiver<bool>,
        signals: bool,
    ) -> Result<(), AppError> {
        let (closing, closed) = watch::channel(false);
        self.accept(listeners);
        let mut serving = JoinSet::new();
        let (orders, mut ordered) = mpsc::channel(64);
        serving.spawn(control::serve(control, self.control(orders), closed.clone()));
        serving.spawn(admin::serve(admin, self.probes(), closed));
        let mut following = JoinSet::new();
        let agent = self.listen_to_the_agent(&mut following);
        let mut ears = Ears { agent, bundles: fetch::start(&self.parts, &self.config, &mut following) };
        let mut signals = Signals::listen(signals).map_err(AppError::Thread)?;
        let mut stop = stop;
        let mut bundles = Watch::new(std::mem::take(&mut self.read));
        let mut certificates = Watch::new(self.certificates());
        let (mut look, mut sweep) = (tokio::time::interval(LOOK_EVERY), tokio::time::interval(SWEEP_EVERY));
        self.parts.status.update(|status| status.started_up = true);
        self.parts.look_at_identity();
        for (name, address) in &self.addresses.listeners {
            tracing::info!(listener = %name, %address, "listening");
        }
        loop {
            let event = tokio::select! {
                biased;
                signal = signals.next() => signal,
                () = stopped(&mut stop) => Event::Stop,
                event = ears.next() => event,
                Some(order) = ordered.recv() => Event::Order(order),
                _ = sweep.tick() => Event::Sweep,
                _ = look.tick() => Event::Look,
            };
            match event {
                Event::Stop => break,
                Event::Reload => self.reload(&mut bundles, &mut certificates).await,
                Event::Order(order) => self.obey(order, &mut bundles).await,
                Event::Look => self.look(&mut bundles, &mut certificates).await,
                Event::Sweep => self.sweep(),
                Event::Heard(news) => self.hear(news),
                Event::Fetched(fetched) => self.parts.take_in(&self.config, &self.workers, fetched).await,
            }
        }
        self.drain(&mut signals, &mut ordered, &mut ears, &mut bundles, &mut certificates).await;
        self.end(closing, serving).await
    }

    /// Each listener is one worker's to accept on; whoever has the least to carry carries.
    fn accept(&self, listeners: Vec<(std::net::TcpListener, Arc<crate::listener::Entrance>)>) {
        let porters: Arc<[Porter]> = self.workers.iter().map(|worker| worker.porter.clone()).collect();
        for (place, (listener, entrance)) in listeners.into_iter().enumerate() {
            let here = place % porters.len().max(1);
            let accepting = Accepting { listener, entrance, porters: Arc::clone(&porters), here };
            if let Some(porter) = porters.get(here) {
                let _ = porter.commands.send(Command::Accept(Box::new(accepting)));
            }
        }
    }

    /// What is heard of the SPIFFE agent; nothing, ever, where the identity comes from files.
    fn listen_to_the_agent(&self, tasks: &mut JoinSet<()>) -> mpsc::Receiver<News> {
        let (news, heard) = mpsc::channel(8);
        if let Some(agent) = &self.parts.agent {
            tasks.spawn(agent::follow(agent.socket.clone(), news));
        }
        heard
    }

    fn hear(&self, news: News) {
        if let Some(agent) = &self.parts.agent {
            self.parts.hear(news, agent, &self.workers);
        }
    }

    fn control(&self, orders: mpsc::Sender<Order>) -> Control {
        Control {
            door: Arc::clone(&self.parts.services.door),
            sessions: Arc::clone(&self.parts.services.sessions),
            audit: self.parts.services.audit.clone(),
            status: Arc::clone(&self.parts.status),
            shadow: Arc::clone(&self.parts.services.shadow),
            orders,
            config: self.config.control.clone(),
        }
    }

    fn probes(&self) -> Probes {
        let (status, services) = (Arc::clone(&self.parts.status), Arc::clone(&self.parts.services));
        Probes {
            ready: Arc::new(move || {
                let status = status.read();
                match (status.draining, status.ready) {
                    (true, _) => Err("draining".to_owned()),
                    (false, false) => Err(why_not_ready(&status)),
                    (false, true) => Ok(()),
                }
            }),
            metrics: Arc::new(move || {
                services.audit.lag();
                (services.metrics.encode(), services.metrics.content_type())
            }),
        }
    }

    async fn obey(&mut self, order: Order, bundles: &mut Watch<Bundles>) {
        match order {
            Order::Activate { dry_run, allow_rollback, reply } => {
                let taken = self.bundles();
                let answer = self.parts.activate(&self.config, &self.workers, dry_run, Ordered::ByOperator(allow_rollback)).await;
                if !dry_run {
                    bundles.take(taken);
                    self.look_at_shadow(true);
                }
                let _ = reply.send(answer);
            }
            Order::Rollback { dry_run, reply } => {
                let _ = reply.send(self.parts.roll_back(&self.config, &self.workers, dry_run).await);
            }
            Order::Exchanges { reply } => {
                let _ = reply.send(exchanges(&self.workers).await);
            }
        }
    }

    async fn look(&mut self, bundles: &mut Watch<Bundles>, certificates: &mut Watch<Token>) {
        // Where a bundle is yet to be fetched, these are read when it comes.
        if bundles.changed(self.bundles()) && self.parts.supply.standing().is_some() {
            // What is wrong with it is in the log, the metrics and the status; nobody waits here for an answer.
            let _ = self.parts.activate(&self.config, &self.workers, false, Ordered::ByItself).await;
        }
        self.look_at_shadow(false);
        if certificates.changed(self.certificates()) {
            self.parts.reload_identity(&self.config, &self.workers);
        }
    }

    /// Takes up a shadow whose bundles changed; an order waits for nobody who may still be writing.
    fn look_at_shadow(&mut self, ordered: bool) {
        let now = shadows_of(&self.config);
        if self.shadows.changed(now.clone()) || (ordered && self.shadows.changed(now)) {
            self.parts.follow_shadow(&self.config.policy);
        }
    }

    async fn reload(&mut self, bundles: &mut Watch<Bundles>, certificates: &mut Watch<Token>) {
        let Some(file) = self.file.clone() else { return };
        tracing::info!(file = %file.display(), "reading the configuration again");
        if let Some(new) = self.parts.reload(&file, &self.config, &self.workers).await {
            self.config = new;
            bundles.take(self.bundles());
            self.shadows.take(shadows_of(&self.config));
            self.parts.follow_shadow(&self.config.policy);
            certificates.take(self.certificates());
        }
    }

    fn sweep(&self) {
        let (now, services) = (Instant::now(), &self.parts.services);
        services.door.sweep(now);
        services.sessions.sweep(now);
        services.metrics.sessions_open.set(i64::try_from(services.sessions.len()).unwrap_or(i64::MAX));
        self.parts.look_at_staleness(&self.config, &self.workers);
        self.parts.look_at_identity();
    }

    fn bundles(&self) -> Bundles {
        fingerprints(&self.config)
    }

    fn certificates(&self) -> Token {
        let Source::Files(files) = &self.config.identity.source else { return Token::of([]) };
        let paths = [&files.certificate, &files.private_key].into_iter().chain(files.bundles.values());
        Token::of(paths.map(PathBuf::as_path))
    }

    /// Waits for what is open. Until the last of it is over operators, policies and the SPIFFE agent still have their say.
    async fn drain(
        &mut self,
        signals: &mut Signals,
        ordered: &mut mpsc::Receiver<Order>,
        ears: &mut Ears,
        bundles: &mut Watch<Bundles>,
        certificates: &mut Watch<Token>,
    ) {
        tracing::info!("draining");
        self.parts.status.update(|status| status.draining = true);
        self.parts.look_at_identity();
        self.tell(|| Command::Drain);
        let deadline = Instant::now() + self.config.limits.drain.0;
        let mut look = tokio::time::interval(LOOK_EVERY);
        while self.house.connections() > 0 && Instant::now() < deadline {
            let event = tokio::select! {
                biased;
                signal = signals.next() => signal,
                event = ears.next() => event,
                Some(order) = ordered.recv() => Event::Order(order),
                _ = look.tick() => Event::Look,
                () = tokio::time::sleep(DRAIN_TICK) => Event::Sweep,
            };
            match event {
                Event::Stop => break,
                // A configuration read now would be in force for nobody.
                Event::Reload => {}
                Event::Order(order) => self.obey(order, bundles).await,
                Event::Look => self.look(bundles, certificates).await,
                Event::Sweep => self.sweep(),
                Event::Heard(news) => self.hear(news),
                Event::Fetched(fetched) => self.parts.take_in(&self.config, &self.workers, fetched).await,
            }
        }
        let door = &self.parts.services.door;
        let open = door.registry().collect(|exchange| exchange.kind != Kind::Connection);
        let cut = open.iter().filter(|exchange| door.cut(exchange, Cause::Shutdown)).count();
        if cut > 0 {
            tracing::warn!(cut, "the drain is over; what was open has been cut");
            let over = async {
                for exchange in &open {
                    std::future::poll_fn(|cx| exchange.cut.poll_over(cx)).await;
                }
                // A WebSocket is over for a kill when nothing crosses it any more; its Close is said after that.
                while self.house.connections() > 0 {
                    tokio::time::sleep(DRAIN_TICK).await;
                }
            };
            let _ = tokio::time::timeout(CUT_WITHIN, over).await;
        }
    }

    async fn end(self, closing: watch::Sender<bool>, mut serving: JoinSet<()>) -> Result<(), AppError> {
        self.tell(|| Command::Stop);
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            let Ok(workers) = Arc::try_unwrap(workers).map_err(|_| AppError::Panicked) else { return Ok(()) };
            workers
                .into_iter()
                .filter_map(|worker| worker.thread)
                .try_for_each(|thread| thread.join().map_err(|_| AppError::Panicked))
        });
        let joined = joined.await.map_err(|_| AppError::Panicked)?;
        let _ = closing.send(true);
        let _ = tokio::time::timeout(CUT_WITHIN, async { while serving.join_next().await.is_some() {} }).await;
        if let Some(delivering) = &self.delivering {
            delivering.tell_losses(&self.parts);
        }
        let closed = self.parts.services.audit.close().await;
        if let Some(delivering) = self.delivering {
            delivering.end().await;
        }
        closed?;
        tracing::info!("closed");
        joined
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in self.workers.iter() {
            let _ = worker.porter.commands.send(command());
        }
    }
}

pub(super) type Bundles = Vec<Option<bundle::Fingerprint>>;

/// The change tokens of the bundles on this machine.
pub(super) fn fingerprints(config: &Config) -> Bundles {
    of_these(config.policy.bundles.values())
}

fn of_these<'s>(sources: impl Iterator<Item = &'s BundleSource>) -> Bundles {
    sources.filter_map(BundleSource::path).map(|path| bundle::fingerprint(path).ok()).collect()
}

fn shadows_of(config: &Config) -> Bundles {
    of_these(config.policy.shadow.iter().flat_map(|shadow| shadow.bundles.values()))
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone is nobody's order to stop.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The signals a gate obeys; none where it runs inside another program.
struct Signals(Option<Listening>);

struct Listening {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen(wanted: bool) -> std::io::Result<Self> {
        if !wanted {
            return Ok(Self(None));
        }
        let on = |kind| signal(kind);
        let (terminate, interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        Ok(Self(Some(Listening { terminate, interrupt, hang_up: on(SignalKind::hangup())? })))
    }

    async fn next(&mut self) -> Event {
        let Some(Listening { terminate, interrupt, hang_up }) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => Event::Stop,
            _ = interrupt.recv() => Event::Stop,
            _ = hang_up.recv() => Event::Reload,
        }
    }
}
