//! The images of a restore, read and checked for sense before anything is made.

use std::collections::HashMap;
use std::sync::Arc;

use cryopod_images::pages::Pagemap;
use cryopod_images::{Image, Reader, msg, vma};
use prost::Message;

use super::memory::Memory;
use crate::areas::GUARD;
use crate::error::RestoreError;
use crate::files::pipes::Contents;
use crate::files::queues;
use crate::segments::Content;
use crate::store::{ImageSource, Pages};

/// States of `task_core_entry.task_state` that are not alive (1).
pub(crate) const ZOMBIE: u32 = 2;
pub(crate) const STOPPED: u32 = 3;

/// Everything of one task.
#[derive(Debug)]
pub(crate) struct TaskImages {
    pub(crate) tree: msg::PstreeEntry,
    /// Cores of its threads, the leader first, with their ids inside.
    pub(crate) cores: Vec<(i32, msg::CoreEntry)>,
    /// Absent for a zombie.
    pub(crate) body: Option<Body>,
}

/// What a living task has besides its threads.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) ids: msg::TaskKobjIdsEntry,
    pub(crate) mm: msg::MmEntry,
    pub(crate) fs: msg::FsEntry,
    pub(crate) memory: Arc<Memory>,
}

impl TaskImages {
    /// Pid inside.
    pub(crate) fn pid(&self) -> i32 {
        self.tree.pid as i32
    }

    /// The signal its parent gets at its end.
    pub(crate) fn exit_signal(&self) -> i32 {
        let own = self.cores[0].1.tc.as_ref().and_then(|tc| tc.exit_signal);
        own.map_or(libc::SIGCHLD, |signal| signal as i32)
    }

    /// What belongs to the whole process.
    pub(crate) fn process(&self) -> Result<&msg::TaskCoreEntry, RestoreError> {
        self.cores[0].1.tc.as_ref().ok_or_else(|| RestoreError::Image {
            name: Image::Core.file_name(self.tree.pid.into()),
            what: "it has no part of the process".into(),
        })
    }
}

/// All images of the tree.
#[derive(Debug)]
pub(crate) struct Images {
    pub(crate) tasks: Vec<TaskImages>,
    pub(crate) files: HashMap<u32, msg::FileEntry>,
    /// Descriptor tables by their id.
    pub(crate) tables: HashMap<u32, Vec<msg::FdinfoEntry>>,
    /// Seccomp filters of all threads.
    pub(crate) filters: msg::SeccompEntry,
    /// Shared memory, by the number in its name.
    pub(crate) segments: HashMap<u32, Content>,
    /// Bytes of each anonymous segment, from what is mapped of it.
    pub(crate) sizes: HashMap<u32, u64>,
    /// Inodes of memfds, by their id.
    pub(crate) memfds: HashMap<u64, msg::MemfdInodeEntry>,
    /// What was in the pipes.
    pub(crate) pipes: Contents,
    /// Entries whose path does not lead to their file, by id.
    pub(crate) remaps: HashMap<u32, msg::RemapFilePathEntry>,
    /// File locks.
    pub(crate) locks: Vec<msg::FileLockEntry>,
    /// Unlinked files, by their id.
    pub(crate) ghosts: HashMap<u32, crate::files::ghosts::Content>,
    /// What was in the named pipes.
    pub(crate) fifos: Contents,
    /// What was in the queues of sockets.
    pub(crate) queues: queues::Contents,
}

pub(super) fn bad(name: &str, what: impl std::fmt::Display) -> RestoreError {
    RestoreError::Image { name: name.to_owned(), what: what.to_string() }
}

fn bytes(
    source: &dyn ImageSource,
    image: Image,
    id: u64,
) -> Result<(String, Option<Vec<u8>>), RestoreError> {
    let name = image.file_name(id);
    let found =
        source.get(&name).map_err(|source| RestoreError::Source { name: name.clone(), source })?;
    Ok((name, found))
}

fn many<M: Message + Default>(
    source: &dyn ImageSource,
    image: Image,
    id: u64,
) -> Result<Option<Vec<M>>, RestoreError> {
    let (name, found) = bytes(source, image, id)?;
    let Some(found) = found else { return Ok(None) };
    let reader = Reader::new(image, &name, &found).map_err(|e| bad(&name, e))?;
    reader.all().map(Some).map_err(|e| bad(&name, e))
}

fn one<M: Message + Default>(
    source: &dyn ImageSource,
    image: Image,
    id: u64,
) -> Result<M, RestoreError> {
    let (name, found) = bytes(source, image, id)?;
    let found = found.ok_or_else(|| RestoreError::Missing { name: name.clone() })?;
    let reader = Reader::new(image, &name, &found).map_err(|e| bad(&name, e))?;
    reader.only().map_err(|e| bad(&name, e))
}

/// The pages a pagemap refers to.
fn pages(source: &dyn ImageSource, map: &Pagemap) -> Result<Option<Arc<Pages>>, RestoreError> {
    let name = Image::Pages.file_name(map.pages_id.into());
    let pages = source
        .pages(&name)
        .map_err(|source| RestoreError::Source { name: name.clone(), source })?;
    if pages.as_ref().map_or(0, |p| p.len) < map.pages_len() {
        return Err(bad(&name, "it is shorter than its pagemap says"));
    }
    Ok(pages.map(Arc::new))
}

impl Images {
    /// Reads all of them.
    pub(crate) fn load(source: &dyn ImageSource) -> Result<Self, RestoreError> {
        let _: msg::InventoryEntry = one(source, Image::Inventory, 0)?;
        let tree: Vec<msg::PstreeEntry> = many(source, Image::Pstree, 0)?
            .ok_or_else(|| RestoreError::Missing { name: Image::Pstree.file_name(0) })?;
        if tree.is_empty() {
            return Err(bad(&Image::Pstree.file_name(0), "it is empty"));
        }
        let files: Vec<msg::FileEntry> = many(source, Image::Files, 0)?.unwrap_or_default();
        let mut images = Self {
            tasks: Vec::new(),
            files: files.into_iter().map(|f| (f.id, f)).collect(),
            tables: HashMap::new(),
            filters: many(source, Image::Seccomp, 0)?
                .and_then(|mut all: Vec<msg::SeccompEntry>| all.pop())
                .unwrap_or_default(),
            segments: HashMap::new(),
            sizes: HashMap::new(),
            memfds: HashMap::new(),
            pipes: match bytes(source, Image::PipesData, 0)? {
                (name, Some(found)) => Contents::read(Image::PipesData, &name, &found)?,
                (_, None) => Contents::default(),
            },
            locks: many(source, Image::FileLocks, 0)?.unwrap_or_default(),
            remaps: HashMap::new(),
            ghosts: HashMap::new(),
            fifos: match bytes(source, Image::FifoData, 0)? {
                (name, Some(found)) => Contents::read(Image::FifoData, &name, &found)?,
                (_, None) => Contents::default(),
            },
            queues: match bytes(source, Image::SkQueues, 0)? {
                (name, Some(found)) => queues::Contents::read(&name, &found)?,
                (_, None) => queues::Contents::default(),
            },
        };
        images.load_remaps(source)?;
        for entry in tree {
            images.load_task(source, entry)?;
        }
        let memfds = many::<msg::MemfdInodeEntry>(source, Image::MemfdInode, 0)?;
        images.memfds = memfds.into_iter().flatten().map(|m| (m.inode_id, m)).collect();
        let memfds: Vec<u32> = images.memfds.values().map(|m| m.shmid).collect();
        let anonymous: Vec<u32> = images.sizes.keys().copied().collect();
        for id in anonymous.into_iter().chain(memfds) {
            images.load_segment(source, id)?;
        }
        Ok(images)
    }

    fn load_remaps(&mut self, source: &dyn ImageSource) -> Result<(), RestoreError> {
        let remaps = many::<msg::RemapFilePathEntry>(source, Image::RemapFpath, 0)?;
        for remap in remaps.into_iter().flatten() {
            // Images older than the field have unlinked files only.
            let ghost = remap.remap_type.is_none() || remap.remap_type() == msg::RemapType::Ghost;
            if ghost && !self.ghosts.contains_key(&remap.remap_id) {
                let (name, found) = bytes(source, Image::GhostFile, remap.remap_id.into())?;
                let found = found.ok_or_else(|| RestoreError::Missing { name: name.clone() })?;
                let content = crate::files::ghosts::Content::read(&name, &found)?;
                self.ghosts.insert(remap.remap_id, content);
            }
            self.remaps.insert(remap.orig_id, remap);
        }
        Ok(())
    }

    fn load_segment(&mut self, source: &dyn ImageSource, id: u32) -> Result<(), RestoreError> {
        let (name, found) = bytes(source, Image::PagemapShmem, id.into())?;
        let Some(found) = found else { return Ok(()) };
        let map = Pagemap::read(&name, &found).map_err(|e| bad(&name, e))?;
        let pages = pages(source, &map)?;
        self.segments.insert(id, Content { map, pages });
        Ok(())
    }

    fn load_task(
        &mut self,
        source: &dyn ImageSource,
        tree: msg::PstreeEntry,
    ) -> Result<(), RestoreError> {
        let id = u64::from(tree.pid);
        let mut tids: Vec<u32> = tree.threads.clone();
        if let Some(at) = tids.iter().position(|t| *t == tree.pid) {
            tids.swap(0, at);
        } else {
            tids.insert(0, tree.pid);
        }
        let first = one(source, Image::Core, id)?;
        let mut task = TaskImages { tree, cores: vec![(id as i32, first)], body: None };
        if task.process()?.task_state == ZOMBIE {
            // criu leaves its thread ids unset.
            self.tasks.push(task);
            return Ok(());
        }
        for tid in tids.into_iter().skip(1) {
            task.cores.push((tid as i32, one(source, Image::Core, u64::from(tid))?));
        }
        for (tid, core) in &task.cores {
            let name = Image::Core.file_name(*tid as u64);
            if core.thread_info.is_none() || core.thread_core.is_none() {
                return Err(bad(&name, "registers or thread state are missing"));
            }
        }
        let ids: msg::TaskKobjIdsEntry = one(source, Image::Ids, id)?;
        let mm: msg::MmEntry = one(source, Image::Mm, id)?;
        check_areas(&Image::Mm.file_name(id), &mm)?;
        let memory = Memory::load(source, id)?.into();
        for area in &mm.vmas {
            let kind = area.status & (vma::ANON_SHARED | vma::MEMFD | vma::SYSVIPC);
            if kind == vma::ANON_SHARED {
                let end = area.pgoff.saturating_add(area.end - area.start);
                let size = self.sizes.entry(area.shmid as u32).or_default();
                *size = end.max(*size);
            }
        }
        if let std::collections::hash_map::Entry::Vacant(slot) = self.tables.entry(ids.files_id) {
            let table = many(source, Image::Fdinfo, u64::from(ids.files_id))?;
            slot.insert(table.unwrap_or_default());
        }
        let fs = one(source, Image::Fs, id)?;
        task.body = Some(Body { ids, mm, fs, memory });
        self.tasks.push(task);
        Ok(())
    }

    /// The file entry of a path.
    pub(crate) fn path(&self, id: u32) -> Result<&msg::RegFileEntry, RestoreError> {
        self.files.get(&id).and_then(|f| f.reg.as_ref()).ok_or_else(|| {
            bad(&Image::Files.file_name(0), format!("there is no path with id {id}"))
        })
    }
}

/// Highest user address of x86_64 with four page table levels.
const TOP: u64 = 0x7fff_ffff_f000;

fn check_areas(name: &str, mm: &msg::MmEntry) -> Result<(), RestoreError> {
    let mut last = 0;
    let guard = |area: &&msg::VmaEntry| area.status & GUARD != 0;
    for area in mm.vmas.iter().filter(guard) {
        let within = |a: &msg::VmaEntry| a.start <= area.start && area.end <= a.end;
        if area.start >= area.end || !mm.vmas.iter().any(|a| a.status & GUARD == 0 && within(a)) {
            return Err(bad(name, format!("guard {:x}-{:x} makes no sense", area.start, area.end)));
        }
    }
    for area in mm.vmas.iter().filter(|a| !guard(a)) {
        let aligned = area.start.is_multiple_of(4096) && area.end.is_multiple_of(4096);
        let vsyscall = area.status & vma::VSYSCALL != 0;
        if !aligned || area.start >= area.end || area.start < last || (area.end > TOP && !vsyscall)
        {
            return Err(bad(name, format!("area {:x}-{:x} makes no sense", area.start, area.end)));
        }
        last = area.end;
    }
    Ok(())
}
