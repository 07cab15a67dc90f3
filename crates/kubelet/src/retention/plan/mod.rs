//! What is to be deleted: a pure function of the archives, the policies and the moment.
//!
//! Levels are gone through from the narrow to the wide one; within a level, for each group of
//! archives: orphans, archives that are too big, that are too old, too many of them, too many bytes.
//! What an earlier step doomed is gone for a later one. The oldest go first, and no more of them
//! than it takes. Pinned archives count and stay. One that is being read counts as gone, and is
//! deleted later: no other archive goes in its place, except when the disk is full.

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::amount::{Age, MinFree, Size};
use super::policy::{Bounds, Retention};
use super::residents::Residents;
use crate::store::{Disk, Identity, Stored};

/// What the decision depends on besides archives and policies.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The time.
    pub now: Timestamp,
    /// The disk the folder is on. Unknown: nothing goes for its sake.
    pub disk: Option<Disk>,
    /// What still exists. Unknown: nothing goes as an orphan.
    pub residents: Option<&'a Residents>,
}

/// What a limit is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One container.
    Container(Identity),
    /// One pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
    },
    /// One namespace.
    Namespace(String),
    /// All archives.
    Node,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(one) => write!(f, "container {one}"),
            Self::Pod { namespace, pod } => write!(f, "pod {namespace}/{pod}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Node => f.write_str("this node"),
        }
    }
}

/// Why an archive goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// What it is of does not exist any more.
    Orphan(Scope),
    /// It is too big.
    Size {
        /// Whose limit.
        scope: Scope,
        /// Bytes allowed.
        limit: u64,
    },
    /// It is too old.
    Age {
        /// Whose limit.
        scope: Scope,
        /// The limit.
        limit: Age,
    },
    /// There are newer ones enough.
    Count {
        /// Whose limit.
        scope: Scope,
        /// Archives allowed.
        limit: u64,
    },
    /// It and newer ones are too big together.
    Total {
        /// Whose limit.
        scope: Scope,
        /// Bytes allowed.
        limit: u64,
    },
    /// The disk is full, and it is the oldest.
    Disk {
        /// What must be free.
        limit: MinFree,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orphan(scope) => write!(f, "{scope} is gone"),
            Self::Size { scope, limit } => {
                write!(f, "an archive of {scope} may have {}", Size(*limit))
            }
            Self::Age { scope, limit } => write!(f, "an archive of {scope} is kept for {limit}"),
            Self::Count { scope, limit } => write!(f, "{scope} keeps the newest {limit}"),
            Self::Total { scope, limit } => {
                write!(f, "archives of {scope} may have {} together", Size(*limit))
            }
            Self::Disk { limit } => write!(f, "{limit} of the disk must be free"),
        }
    }
}

/// An archive that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Its name in the store.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// For what reason.
    pub why: Why,
    /// Whether it is being read: then it goes later.
    pub in_use: bool,
}

/// A limit that cannot be kept because archives are pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The limit.
    pub limit: Why,
    /// Names of the pinned archives in its scope, oldest first.
    pub pinned: Vec<String>,
}

/// What follows from the policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What goes, in the order in which it was decided.
    pub doomed: Vec<Doomed>,
    /// What pins prevent.
    pub blocked: Vec<Blocked>,
}

/// Decides what is to go.
#[must_use]
pub fn plan(archives: &[Stored], retention: &Retention, moment: &Moment<'_>) -> Plan {
    // What cannot be read is left alone.
    let mut all: Vec<&Stored> = archives.iter().filter(|one| one.unreadable.is_none()).collect();
    all.sort_by(|a, b| (a.finished_at, &a.name).cmp(&(b.finished_at, &b.name)));
    let mut planner = Planner { gone: vec![false; all.len()], all, plan: Plan::default(), moment };
    for level in [Level::Container, Level::Pod, Level::Namespace, Level::Node] {
        // A group has one policy: all of a scope that reach this level have the same.
        let mut groups: BTreeMap<Scope, (Bounds, Vec<usize>)> = BTreeMap::new();
        for (at, one) in planner.all.iter().enumerate() {
            if let Some((scope, bounds)) = rule(one, level, retention) {
                groups.entry(scope).or_insert_with(|| (bounds, Vec::new())).1.push(at);
            }
        }
        for (scope, (bounds, members)) in groups {
            planner.apply(&scope, bounds, &members);
        }
    }
    if let (Some(limit), Some(disk)) = (retention.node_policy.min_free, moment.disk) {
        planner.free(limit, disk);
    }
    planner.plan
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Container,
    Pod,
    Namespace,
    Node,
}

/// What a level says about an archive, if anything.
fn rule(one: &Stored, level: Level, retention: &Retention) -> Option<(Scope, Bounds)> {
    if level == Level::Node {
        return Some((Scope::Node, retention.node_policy.bounds()));
    }
    // Of nothing that has policies.
    let of = one.identity.as_ref()?;
    // The most specific policy is the only one.
    let own = if let Some(policy) = retention.container_policy(of) {
        Some((Level::Container, policy.bounds()))
    } else if let Some(policy) = retention.pod_policy(of) {
        Some((Level::Pod, policy.bounds()))
    } else {
        let policy = retention.namespace_policy(of);
        policy.map(|policy| (Level::Namespace, policy.bounds()))
    };
    let global = &retention.global_policy;
    let (scope, otherwise) = match level {
        Level::Container => (Scope::Container(of.clone()), global.container()),
        Level::Pod => {
            let (namespace, pod) = (of.namespace.clone(), of.pod.clone());
            (Scope::Pod { namespace, pod }, global.pod())
        }
        Level::Namespace | Level::Node => {
            (Scope::Namespace(of.namespace.clone()), global.namespace())
        }
    };
    match own {
        None => Some((scope, otherwise)),
        Some((at, bounds)) => (at == level).then_some((scope, bounds)),
    }
}

struct Planner<'a> {
    /// Oldest first.
    all: Vec<&'a Stored>,
    gone: Vec<bool>,
    plan: Plan,
    moment: &'a Moment<'a>,
}

impl Planner<'_> {
    /// One group, oldest first.
    fn apply(&mut self, scope: &Scope, bounds: Bounds, members: &[usize]) {
        if bounds.is_off() {
            return;
        }
        let scope = || scope.clone();
        if bounds.drop_orphans && self.moment.residents.is_some_and(|all| all.are_without(&scope()))
        {
            for &at in members {
                self.doom(at, Why::Orphan(scope()));
            }
            return;
        }
        if let Some(limit) = bounds.size {
            for &at in members.iter().filter(|&&at| self.all[at].bytes > limit).collect::<Vec<_>>()
            {
                self.doom(at, Why::Size { scope: scope(), limit });
            }
        }
        if let Some(limit) = bounds.age {
            let lifetime =
                SignedDuration::from_secs(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX));
            for &at in members {
                if self.moment.now.duration_since(self.all[at].finished_at) > lifetime {
                    self.doom(at, Why::Age { scope: scope(), limit });
                }
            }
        }
        if let Some(limit) = bounds.count {
            self.shrink(members, limit, |_| 1, || Why::Count { scope: scope(), limit });
        }
        if let Some(limit) = bounds.total {
            self.shrink(members, limit, |one| one.bytes, || Why::Total { scope: scope(), limit });
        }
    }

    /// Dooms the oldest until the sum of what is left is within the limit.
    fn shrink(
        &mut self,
        members: &[usize],
        limit: u64,
        weight: impl Fn(&Stored) -> u64,
        why: impl Fn() -> Why,
    ) {
        let left = |planner: &Self| -> Vec<usize> {
            members.iter().copied().filter(|&at| !planner.gone[at]).collect()
        };
        // Sizes are those of files on one disk; their sum could still be anything.
        let mut sum: u128 = left(self).iter().map(|&at| u128::from(weight(self.all[at]))).sum();
        let limit = u128::from(limit);
        for at in left(self) {
            if sum <= limit {
                return;
            }
            if self.doom(at, why()) {
                sum -= u128::from(weight(self.all[at]));
            }
        }
        if sum > limit {
            let pinned = left(self).into_iter().map(|at| self.all[at].name.clone()).collect();
            self.plan.blocked.push(Blocked { limit: why(), pinned });
        }
    }

    /// Dooms the oldest until enough of the disk is free. What is being read frees nothing now.
    fn free(&mut self, limit: MinFree, disk: Disk) {
        let wanted = limit.bytes(disk.total);
        let mut free = disk.available;
        for doomed in self.plan.doomed.iter().filter(|doomed| !doomed.in_use) {
            let one = self.all.iter().find(|one| one.name == doomed.name);
            free = free.saturating_add(one.map_or(0, |one| one.disk_bytes));
        }
        for at in 0..self.all.len() {
            if free >= wanted {
                return;
            }
            let one = self.all[at];
            if one.disk_bytes > 0 && !one.in_use && self.doom(at, Why::Disk { limit }) {
                free = free.saturating_add(one.disk_bytes);
            }
        }
        if free < wanted {
            let left = self.all.iter().zip(&self.gone).filter(|(_, gone)| !**gone);
            let pinned: Vec<String> =
                left.filter(|(one, _)| one.pinned).map(|(one, _)| one.name.clone()).collect();
            self.plan.blocked.push(Blocked { limit: Why::Disk { limit }, pinned });
        }
    }

    /// Whether it goes now by this call.
    fn doom(&mut self, at: usize, why: Why) -> bool {
        let one = self.all[at];
        if self.gone[at] || one.pinned {
            return false;
        }
        self.gone[at] = true;
        let (name, bytes, in_use) = (one.name.clone(), one.bytes, one.in_use);
        self.plan.doomed.push(Doomed { name, bytes, why, in_use });
        true
    }
}

#[cfg(test)]
mod tests;
