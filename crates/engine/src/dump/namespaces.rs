//! Identity of what tasks may share: address spaces, descriptor tables, namespaces.
//!
//! Ids are small numbers given out in the order of first sight; the engine's own objects come
//! first, so that a task in the engine's namespace has the engine's id: such a namespace is the
//! host's, and is not restored.

use std::collections::HashMap;
use std::os::fd::AsFd;

use cryopod_images::{IMAGE_VERSION, msg};
use cryopod_sys::diag::SocketDiag;
use cryopod_sys::process::{self, Kcmp};

use crate::error::DumpError;
use crate::proc;

const NAMESPACES: [&str; 8] = ["pid", "net", "ipc", "uts", "mnt", "user", "cgroup", "time"];

/// Gives out ids.
#[derive(Debug)]
pub(crate) struct Ids {
    /// Namespaces by kind and inode.
    namespaces: HashMap<(usize, String), u32>,
    next_namespace: u32,
    /// Representatives of each shared object seen: pid and id, by kind.
    objects: [Vec<(i32, u32)>; 4],
    own: msg::TaskKobjIdsEntry,
}

impl Ids {
    pub(crate) fn new() -> Result<Self, DumpError> {
        let mut ids = Self {
            namespaces: HashMap::new(),
            next_namespace: 1,
            objects: Default::default(),
            own: msg::TaskKobjIdsEntry::default(),
        };
        let pid = std::process::id() as i32;
        ids.own = ids.namespaces_of(pid)?;
        (ids.own.vm_id, ids.own.files_id, ids.own.fs_id, ids.own.sighand_id) = (1, 1, 1, 1);
        Ok(ids)
    }

    /// The engine's own ids.
    pub(crate) fn own(&self) -> &msg::TaskKobjIdsEntry {
        &self.own
    }

    fn namespaces_of(&mut self, pid: i32) -> Result<msg::TaskKobjIdsEntry, DumpError> {
        let mut found = [None; 8];
        for (kind, name) in NAMESPACES.iter().enumerate() {
            let link = proc::link(&format!("{pid}/ns/{name}"))?.to_string_lossy().into_owned();
            let next = &mut self.next_namespace;
            let id = *self.namespaces.entry((kind, link)).or_insert_with(|| {
                *next += 1;
                *next - 1
            });
            found[kind] = Some(id);
        }
        Ok(msg::TaskKobjIdsEntry {
            pid_ns_id: found[0],
            net_ns_id: found[1],
            ipc_ns_id: found[2],
            uts_ns_id: found[3],
            mnt_ns_id: found[4],
            user_ns_id: found[5],
            cgroup_ns_id: found[6],
            time_ns_id: found[7],
            ..Default::default()
        })
    }

    fn object(&mut self, kind: usize, what: Kcmp, pid: i32) -> Result<u32, DumpError> {
        for &(other, id) in &self.objects[kind] {
            let order = process::kcmp(other, pid, what).map_err(|source| DumpError::Kernel {
                pid,
                what: "cannot be compared with another process",
                source,
            })?;
            if order.is_eq() {
                return Ok(id);
            }
        }
        // The engine's own is 1.
        let id = self.objects[kind].len() as u32 + 2;
        self.objects[kind].push((pid, id));
        Ok(id)
    }

    /// The ids of a task.
    pub(crate) fn of_task(&mut self, pid: i32) -> Result<msg::TaskKobjIdsEntry, DumpError> {
        let mut ids = self.namespaces_of(pid)?;
        ids.vm_id = self.object(0, Kcmp::Vm, pid)?;
        ids.files_id = self.object(1, Kcmp::Files, pid)?;
        ids.fs_id = self.object(2, Kcmp::Fs, pid)?;
        ids.sighand_id = self.object(3, Kcmp::Sighand, pid)?;
        Ok(ids)
    }
}

/// The image that says what the dump is.
pub(crate) fn inventory(own: &msg::TaskKobjIdsEntry) -> msg::InventoryEntry {
    msg::InventoryEntry {
        img_version: IMAGE_VERSION,
        fdinfo_per_id: Some(true),
        root_ids: Some(*own),
        ns_per_id: Some(true),
        root_cg_set: Some(1),
        lsmtype: Some(msg::Lsmtype::NoLsm.into()),
        network_lock_method: Some(0),
        ..Default::default()
    }
}

/// A netlink socket that tells about the sockets of a process's network namespace. The engine is
/// in that namespace only while it makes it.
pub(crate) fn socket_diag(pid: i32) -> Result<SocketDiag, DumpError> {
    let kernel = |source| DumpError::Kernel {
        pid,
        what: "cannot ask about the sockets of its network namespace",
        source,
    };
    // One that has ended has no namespace; what that means is found when it is seized.
    let Ok(theirs) = std::fs::File::open(format!("/proc/{pid}/ns/net")) else {
        return SocketDiag::open().map_err(kernel);
    };
    let own = std::fs::File::open("/proc/self/ns/net").map_err(kernel)?;
    let inode = |file: &std::fs::File| rustix::fs::fstat(file).map(|s| (s.st_dev, s.st_ino));
    if inode(&theirs).map_err(|e| kernel(e.into()))? == inode(&own).map_err(|e| kernel(e.into()))? {
        return SocketDiag::open().map_err(kernel);
    }
    let enter = |ns: &std::fs::File| {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(ns.as_fd(), Some(kind))
            .map_err(|e| kernel(e.into()))
    };
    enter(&theirs)?;
    let diag = SocketDiag::open().map_err(kernel);
    enter(&own)?;
    diag
}
