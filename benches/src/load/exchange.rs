//! Requests on connections that are kept: as many as go through (closed loop), or so many a second (open loop).
//!
//! In an open loop a request that could not start on time because the one before it was not over counts from when it should have
//! started: a stall must not hide the requests it delayed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Answers, Tally, Target, ask, ask_h2, connect_h2, get, window};

pub struct Plan {
    pub target: Target,
    pub agent: usize,
    pub connections: usize,
    /// Streams of each connection; none is HTTP/1.1.
    pub streams: usize,
    pub warm: Duration,
    pub length: Duration,
    /// Requests a second of all connections together; as many as go through when absent.
    pub rate: Option<f64>,
}

pub async fn run(plan: Plan) -> Result<()> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let config = plan.target.config(plan.agent, plan.streams > 0)?;
    let lanes = plan.connections * plan.streams.max(1);
    let pause = plan.rate.map(|rate| Duration::from_secs_f64(lanes as f64 / rate));
    let first = |lane: usize| pause.map(|pause| (Instant::now() + pause.mul_f64(lane as f64 / lanes as f64), pause));
    for number in 0..plan.connections {
        if plan.streams == 0 {
            let mut tls = plan.target.connect(&config).await?;
            let mut answers = Answers::default();
            // The first one is not measured, and tells what is wrong before anything is.
            ask(&mut tls, &mut answers).await.context("the first request")?;
            let (tally, pace) = (Rc::clone(&tally), first(number));
            tokio::task::spawn_local(async move {
                let mut pace = Pace(pace);
                loop {
                    let began = pace.next().await;
                    match ask(&mut tls, &mut answers).await {
                        Ok(again) => {
                            tally.borrow_mut().done(began, Instant::now());
                            if !again {
                                tally.borrow_mut().failed(&anyhow::anyhow!("the connection was closed"));
                                break;
                            }
                        }
                        Err(error) => {
                            tally.borrow_mut().failed(&error);
                            break;
                        }
                    }
                }
            });
            continue;
        }
        let sender = connect_h2(&plan.target, &config).await?;
        ask_h2(&mut sender.clone(), get("/v1/users/7")?).await.context("the first request")?;
        for stream in 0..plan.streams {
            let (tally, mut sender) = (Rc::clone(&tally), sender.clone());
            let mut pace = Pace(first(number * plan.streams + stream));
            let request = get("/v1/users/7")?;
            tokio::task::spawn_local(async move {
                loop {
                    let began = pace.next().await;
                    if let Err(error) = ask_h2(&mut sender, request.clone()).await {
                        tally.borrow_mut().failed(&error);
                        break;
                    }
                    tally.borrow_mut().done(began, Instant::now());
                }
            });
        }
    }
    window(&tally, plan.warm, plan.length).await;
    Ok(())
}

/// When the next request starts.
struct Pace(Option<(Instant, Duration)>);

impl Pace {
    async fn next(&mut self) -> Instant {
        let Some((due, pause)) = &mut self.0 else { return Instant::now() };
        let this = *due;
        *due += *pause;
        if Instant::now() > this {
            return this;
        }
        tokio::time::sleep_until(this.into()).await;
        // The timer's own tick of a millisecond is not the proxy's.
        Instant::now()
    }
}
