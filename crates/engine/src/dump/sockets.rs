//! A look at the sockets of the running tree: those that cannot be carried are refused before
//! anything is stopped.
//!
//! sock_diag(7) and proc_net(5) tell enough; no descriptor is taken and no queue is looked into. A
//! running tree changes under the eye: only what is found in each of [`LOOKS`] looks is refused. A
//! unix peer that nobody in the tree holds may be on its way in a queue: it is outside when a process
//! outside holds it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use cryopod_sys::diag::SocketDiag;

use crate::error::{DumpError, Refusal};
use crate::files::netlink;
use crate::files::unix::{ESTABLISHED, LISTEN};
use crate::proc::{self, fdinfo, status, tasks};

/// How often something must be found to be refused.
const LOOKS: usize = 3;
/// How long a look is apart from the next.
const APART: Duration = Duration::from_millis(5);

/// Who holds a socket: pid and descriptor.
type Holder = (i32, i32);

/// Looks at the sockets of the tree under `root`; `external` names those that may lead outside.
///
/// # Errors
/// [`DumpError::Refused`] only.
pub(super) fn survey(root: i32, diag: &SocketDiag, external: &[String]) -> Result<(), DumpError> {
    let mut suspects: Option<HashSet<(u32, &'static str)>> = None;
    for look in 0..LOOKS {
        if look != 0 {
            std::thread::sleep(APART);
        }
        let held = holders(&tree(root));
        let found = suspicious(root, diag, &held, external);
        let common: HashSet<_> = match &suspects {
            None => found,
            Some(before) => found.intersection(before).copied().collect(),
        };
        if common.is_empty() {
            return Ok(());
        }
        if look + 1 == LOOKS
            && let Some((inode, what)) = common.iter().min()
            && let Some((pid, fd)) = held.get(inode)
        {
            let comm = status::of(*pid, *pid).map_or_else(|_| "?".into(), |s| s.name);
            return Err(DumpError::Refused(Refusal {
                pid: *pid,
                comm,
                resource: format!("descriptor {fd}: socket:[{inode}], {what}"),
                way_out: "have it closed or read before the checkpoint",
            }));
        }
        suspects = Some(common);
    }
    Ok(())
}

fn tree(root: i32) -> Vec<i32> {
    let mut known = vec![root];
    let mut at = 0;
    while let Some(pid) = known.get(at) {
        let children = tasks::children(*pid).unwrap_or_default();
        known.extend(children);
        at += 1;
    }
    known
}

/// Inode of a socket, of a link such as `socket:[17]`.
fn inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Sockets that these processes have descriptors of.
fn holders(pids: &[i32]) -> HashMap<u32, Holder> {
    let mut held = HashMap::new();
    for pid in pids {
        for fd in fdinfo::descriptors(*pid).unwrap_or_default() {
            let link = proc::link(&format!("{pid}/fd/{fd}")).unwrap_or_default();
            if let Some(inode) = inode(&link.to_string_lossy()) {
                held.entry(inode).or_insert((*pid, fd));
            }
        }
    }
    held
}

fn suspicious(
    root: i32,
    diag: &SocketDiag,
    held: &HashMap<u32, Holder>,
    external: &[String],
) -> HashSet<(u32, &'static str)> {
    let mut found = HashSet::new();
    let mut strangers = HashMap::new();
    for socket in held.keys() {
        if external.contains(&format!("socket:[{socket}]")) {
            continue;
        }
        let Ok(Some(unix)) = diag.unix(*socket) else { continue };
        let state = u32::from(unix.state);
        if state == LISTEN {
            for client in &unix.waiting {
                let bytes = diag.unix(*client).ok().flatten().is_some_and(|c| c.send != 0);
                if bytes && held.contains_key(client) {
                    found.insert((
                        *socket,
                        "with a connection that waits to be accepted, with bytes in it",
                    ));
                }
            }
        } else if state == ESTABLISHED
            && let Some(peer @ 1..) = unix.peer
            && !held.contains_key(&peer)
        {
            strangers.insert(peer, *socket);
        }
    }
    if !strangers.is_empty() {
        let outside = outside(root, &strangers);
        let what = "connected to a unix socket outside the container";
        found.extend(outside.into_iter().map(|socket| (socket, what)));
    }
    let table = proc::read(&format!("{root}/net/netlink")).unwrap_or_default();
    for line in String::from_utf8_lossy(&table).lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|w| w.parse::<u32>().ok());
        let Some(socket) = number(9).filter(|inode| held.contains_key(inode)) else { continue };
        if number(4).is_some_and(|unread| unread != 0) {
            found.insert((socket, "a netlink socket with messages that nobody has read"));
        }
        if number(1).is_some_and(|protocol| !netlink::is_carried(protocol as i32)) {
            found.insert((socket, "a netlink socket of a protocol that is not carried"));
        }
    }
    found
}

/// Which of our sockets have their peer with a process outside.
fn outside(root: i32, strangers: &HashMap<u32, u32>) -> Vec<u32> {
    let inside: HashSet<i32> = tree(root).into_iter().collect();
    let Ok(listing) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids: Vec<i32> = listing
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| !inside.contains(pid))
        .collect();
    let held = holders(&pids);
    strangers.iter().filter(|(peer, _)| held.contains_key(peer)).map(|(_, own)| *own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_sockets_are_read() {
        assert_eq!(inode("socket:[17]"), Some(17));
        assert_eq!(inode("pipe:[17]"), None);
    }
}
