//! CONNECT: from an admitted request to a tunnel, and what its first bytes must be.
//!
//! In: an admitted CONNECT with the addresses it was judged by. Out: a connection to one of them, and 200; or why there is none. What
//! must stay true: nothing is connected before the allow, no byte of the client's goes up before its TLS names the host the tunnel
//! was opened for, and then exactly the bytes that came. A policy that allowed one host has not allowed the others that live at its
//! address; what stands inside of the TLS nobody sees here.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Response;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::admit::Admitted;
use super::again::Again;
use super::download::Reply;
use super::open::Open;
use super::outbound::{Rule, SniConfig};
use super::respond::Stop;
use super::tunnel::{Far, Framing, Tunnel, Words};
use crate::decision::{Cause, Ending, Reason};
use crate::destination::{Hello, Seen};

/// How long a client may take to say what its tunnel is for.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);

/// Connects, and lets a tunnel follow the answer.
///
/// # Errors
/// Why there is no connection.
pub(super) async fn connect(open: &Rc<Open>, admitted: Admitted) -> Result<Response<Reply>, Stop> {
    let unclear = || Stop::denied(Reason::Internal);
    let pinned = admitted.pinned().ok_or_else(unclear)?;
    let Admitted { request, settings, upstream, .. } = admitted;
    let target = settings.upstreams.get(upstream).ok_or_else(unclear)?;
    let (_, route, _) = settings.route(open.downstream.listener, &request).ok_or_else(unclear)?;
    let rule = route.outbound.as_ref().ok_or_else(unclear)?;
    let (began, words) = (Instant::now(), Words::default());
    let io = open.worker.pool.connect_raw(&pinned, words.gate(&open.flow)).await.map_err(Stop::Upstream)?;
    target.metrics.seconds.observe(began.elapsed().as_secs_f64());
    let mut tunnel = Tunnel::new(Rc::clone(open), Far { io, early: Bytes::new(), words }, Framing::Opaque);
    if rule.sni(request.port) != SniConfig::Ignore {
        tunnel = tunnel.expecting(Expected { rule: rule.clone(), host: request.host.clone(), port: request.port });
    }
    open.story(|story| story.status = Some(200));
    Ok(Response::new(Reply::Tunnel(Some(Box::new(tunnel)))))
}

/// What the first bytes of a tunnel must be.
#[derive(Debug)]
pub(super) struct Expected {
    rule: Rule,
    host: String,
    port: u16,
}

impl Expected {
    /// Holds the client's first bytes until they may go on, and returns them as they came; `None` where nothing may follow: then the
    /// exchange is cut, or its client has gone.
    pub(super) async fn hold<D: AsyncRead + Unpin>(&self, open: &Open, client: &mut D, early: Bytes) -> Option<Bytes> {
        let Ok(first) = timeout(FIRST_BYTES_WITHIN, first_bytes(client, early)).await else {
            return self.cut(open, format!("the tunnel said nothing of itself for {} s", FIRST_BYTES_WITHIN.as_secs()));
        };
        let Some((held, seen)) = first else {
            open.ended(Ending::ClientGone);
            return None;
        };
        let required = self.rule.sni(self.port) == SniConfig::Required;
        match seen {
            Seen::Tls(Some(name)) if self.rule.takes_server_name(&name, &self.host) => open.set_server_name(Some(name)),
            Seen::Tls(Some(name)) => {
                let fault = format!("the tunnel's TLS asks for `{}`, and it was opened for `{}`", name.escape_debug(), self.host);
                return self.cut(open, fault);
            }
            Seen::Tls(None) if required => return self.cut(open, "the tunnel's TLS asks for no server name".to_owned()),
            Seen::Other if required => return self.cut(open, "the tunnel does not begin with TLS".to_owned()),
            Seen::Tls(None) | Seen::Other => {}
            // Neither side may be left to guess what the other would have read.
            Seen::Partial | Seen::Unreadable => {
                return self.cut(open, "the tunnel begins like TLS and cannot be read as that".to_owned());
            }
        }
        still_allowed(open).then_some(held)
    }

    fn cut(&self, open: &Open, fault: String) -> Option<Bytes> {
        open.story(|story| story.fault = Some(fault));
        open.worker.services.door.cut(open.exchange(), Cause::ServerName);
        None
    }
}

/// Reads until it is clear what the tunnel begins with; `None` when the client ends first.
async fn first_bytes<D: AsyncRead + Unpin>(client: &mut D, early: Bytes) -> Option<(Bytes, Seen)> {
    let mut hello = Hello::default();
    let mut held = BytesMut::from(early);
    let mut seen = hello.read(&held);
    while seen == Seen::Partial {
        let known = held.len();
        let came = client.read_buf(&mut held).await.ok().filter(|came| *came > 0)?;
        seen = hello.read(held.get(known..known + came).unwrap_or_default());
    }
    Some((held.freeze(), seen))
}

/// Asks a policy that reads the server name again, now that there is one.
fn still_allowed(open: &Open) -> bool {
    let Ok((generation, _)) = open.worker.generation() else { return false };
    let reads = generation.plans.iter().any(|plan| plan.reads_server_name);
    if !reads || open.server_name().is_none() {
        return true;
    }
    match open.judge_again() {
        Again::Goes => true,
        Again::NotYet => false,
        Again::Ends(cause, kill) => {
            open.worker.services.door.cut(open.exchange(), cause);
            if let Some(kill) = kill {
                open.carry_out(kill);
            }
            false
        }
    }
}
