//! New connections, one after the other in each lane: a full mTLS handshake, one request, close.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustls::ClientConfig;

use super::{Answers, Tally, Target, ask, window};

pub async fn run(target: Target, agent: usize, lanes: usize, warm: Duration, length: Duration) -> Result<()> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let config = target.config(agent, false)?;
    once(&target, &config).await.context("the first connection")?;
    for _ in 0..lanes {
        let (tally, target, config) = (Rc::clone(&tally), target.clone(), Arc::clone(&config));
        tokio::task::spawn_local(async move {
            while !tally.borrow().over(Instant::now()) {
                let began = Instant::now();
                match once(&target, &config).await {
                    Ok(()) => tally.borrow_mut().done(began, Instant::now()),
                    Err(error) => tally.borrow_mut().failed(&error),
                }
            }
        });
    }
    window(&tally, warm, length).await;
    Ok(())
}

async fn once(target: &Target, config: &Arc<ClientConfig>) -> Result<()> {
    let mut tls = target.connect(config).await?;
    ask(&mut tls, &mut Answers::default()).await?;
    Ok(())
}
