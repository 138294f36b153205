//! Who is calling, and what that person may do.
//!
//! In: the uid the kernel tells of the process that connected (SO_PEERCRED). Out: a name, if that uid has one, and whether it may
//! operate. What must stay true: without a name nobody operates. The credentials are those of the process that called `connect`, so
//! a socket handed on to another process keeps the name it was opened under.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::Config;

/// One caller of one connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) uid: u32,
    /// As the record and kills name them; `None` may only view.
    pub(super) name: Option<String>,
    pub(super) may_operate: bool,
    /// Taken until the last call of this connection has ended, which may be after its caller hung up.
    pub(super) place: Option<Arc<OwnedSemaphorePermit>>,
}

/// The people of the configuration, by uid.
#[derive(Debug)]
pub(super) struct People(BTreeMap<u32, (String, bool)>);

impl People {
    /// `own` is the gate's own uid: with no operators configured, it and root may operate.
    pub(super) fn new(config: &Config, own: u32) -> Self {
        if config.operators.is_empty() {
            return Self([0, own].into_iter().map(|uid| (uid, (format!("uid:{uid}"), true))).collect());
        }
        let known = config.operators.iter().map(|(name, operator)| {
            let may_operate = config.roles.operate.contains(name);
            (operator.uid, (name.clone(), may_operate))
        });
        Self(known.collect())
    }

    pub(super) fn caller(&self, uid: u32) -> Caller {
        let known = self.0.get(&uid);
        let (name, may_operate) = known.map_or((None, false), |(name, may_operate)| (Some(name.clone()), *may_operate));
        Caller { uid, name, may_operate, place: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Operator, Roles};

    #[test]
    fn a_uid_is_one_person_and_a_person_may_what_the_roles_say() {
        let operators = [("alice", 1001), ("bob", 1002)].map(|(name, uid)| (name.to_owned(), Operator { uid }));
        let roles = Roles { operate: vec!["alice".to_owned()] };
        let people = People::new(&Config { operators: operators.into(), roles, ..Config::default() }, 500);
        for (uid, name, may_operate) in [
            (1001, Some("alice"), true),
            (1002, Some("bob"), false),
            // Once somebody has a name, neither root nor the gate's own user operates without one.
            (0, None, false),
            (500, None, false),
            (1003, None, false),
        ] {
            let caller = people.caller(uid);
            assert_eq!((caller.name.as_deref(), caller.may_operate), (name, may_operate), "uid {uid}");
        }
    }

    #[test]
    fn without_operators_root_and_the_gates_own_user_operate_by_uid() {
        let people = People::new(&Config::default(), 500);
        for (uid, name, may_operate) in [(0, Some("uid:0"), true), (500, Some("uid:500"), true), (501, None, false)] {
            let caller = people.caller(uid);
            assert_eq!((caller.name.as_deref(), caller.may_operate), (name, may_operate), "uid {uid}");
        }
    }
}
