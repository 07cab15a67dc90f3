//! What stock criu wrote is decoded whole and encoded to the very same bytes.

use std::path::{Path, PathBuf};

use cryopod_images::pages::{PE_PRESENT, Pagemap};
use cryopod_images::{Image, Reader, Writer, msg, vma};
use prost::Message;

fn images(set: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(set);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn load(set: &str, name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(set);
    std::fs::read(dir.join(name)).unwrap()
}

/// Decodes all records, each followed by the bytes `payload` asks for, and encodes them again.
fn again<M: Message + Default>(
    kind: Image,
    name: &str,
    data: &[u8],
    payload: impl Fn(&M) -> u64,
) -> Vec<u8> {
    let mut reader = Reader::new(kind, name, data).unwrap();
    let mut writer = Writer::new(kind);
    while let Some(message) = reader.record::<M>().unwrap() {
        let raw = reader.payload(payload(&message)).unwrap();
        writer.record(&message).unwrap().payload(raw);
    }
    writer.finish()
}

fn reencode(kind: Image, name: &str, data: &[u8]) -> Vec<u8> {
    match kind {
        Image::Inventory => again::<msg::InventoryEntry>(kind, name, data, |_| 0),
        Image::Pstree => again::<msg::PstreeEntry>(kind, name, data, |_| 0),
        Image::Ids => again::<msg::TaskKobjIdsEntry>(kind, name, data, |_| 0),
        Image::Core => again::<msg::CoreEntry>(kind, name, data, |_| 0),
        Image::Mm => again::<msg::MmEntry>(kind, name, data, |_| 0),
        Image::Fdinfo => again::<msg::FdinfoEntry>(kind, name, data, |_| 0),
        Image::Files => again::<msg::FileEntry>(kind, name, data, |_| 0),
        Image::Fs => again::<msg::FsEntry>(kind, name, data, |_| 0),
        Image::Seccomp => again::<msg::SeccompEntry>(kind, name, data, |_| 0),
        Image::RemapFpath => again::<msg::RemapFilePathEntry>(kind, name, data, |_| 0),
        Image::PipesData | Image::FifoData => {
            again::<msg::PipeDataEntry>(kind, name, data, |entry| entry.bytes.into())
        }
        Image::SkQueues => {
            again::<msg::SkPacketEntry>(kind, name, data, |entry| entry.length.into())
        }
        Image::MemfdInode => again::<msg::MemfdInodeEntry>(kind, name, data, |_| 0),
        Image::FileLocks => again::<msg::FileLockEntry>(kind, name, data, |_| 0),
        Image::Utsns => again::<msg::UtsnsEntry>(kind, name, data, |_| 0),
        Image::IpcVar => again::<msg::IpcVarEntry>(kind, name, data, |_| 0),
        Image::Timens => again::<msg::TimensEntry>(kind, name, data, |_| 0),
        Image::StatsDump => again::<msg::StatsEntry>(kind, name, data, |_| 0),
        Image::Pagemap | Image::PagemapShmem => {
            let map = Pagemap::read(name, data).unwrap();
            assert_eq!(Pagemap::read(name, &map.write().unwrap()).unwrap(), map);
            let mut reader = Reader::new(kind, name, data).unwrap();
            let mut writer = Writer::new(kind);
            let head: msg::PagemapHead = reader.record().unwrap().unwrap();
            writer.record(&head).unwrap();
            while let Some(entry) = reader.record::<msg::PagemapEntry>().unwrap() {
                writer.record(&entry).unwrap();
            }
            writer.finish()
        }
        Image::GhostFile => {
            let mut reader = Reader::new(kind, name, data).unwrap();
            let ghost: msg::GhostFileEntry = reader.record().unwrap().unwrap();
            let mut writer = Writer::new(kind);
            writer.record(&ghost).unwrap();
            if ghost.chunks == Some(true) {
                while let Some(chunk) = reader.record::<msg::GhostChunkEntry>().unwrap() {
                    let raw = reader.payload(chunk.len).unwrap();
                    writer.record(&chunk).unwrap().payload(raw);
                }
            } else {
                writer.payload(reader.rest());
            }
            writer.finish()
        }
        other => panic!("no golden image of {other} is expected"),
    }
}

#[test]
fn images_of_stock_criu_come_out_byte_for_byte() {
    let mut seen = 0;
    for path in images("tree").into_iter().chain(images("namespaces")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (kind, _) = Image::parse(name).unwrap_or_else(|| panic!("{name}: unknown name"));
        let data = std::fs::read(&path).unwrap();
        assert!(reencode(kind, name, &data) == data, "{}: bytes differ", path.display());
        seen += 1;
    }
    assert!(seen > 30, "only {seen} images seen");
}

#[test]
fn the_tree_says_what_the_program_was() {
    let tree: Vec<msg::PstreeEntry> =
        Reader::new(Image::Pstree, "pstree.img", &load("tree", "pstree.img"))
            .unwrap()
            .all()
            .unwrap();
    let [parent, child] = &tree[..] else { panic!("two tasks, not {}", tree.len()) };
    assert_eq!(parent.threads.len(), 2);
    assert_eq!((child.ppid, child.sid), (parent.pid, parent.pid));

    let core: msg::CoreEntry =
        cryopod_images::decode_one(Image::Core, "core-214.img", &load("tree", "core-214.img"))
            .unwrap();
    assert_eq!(core.mtype(), msg::core_entry::March::X8664);
    let task = core.tc.unwrap();
    assert_eq!(task.sigactions.len(), 62);
    assert_eq!(task.timers.unwrap().real.isec, 3);
    assert_eq!(core.thread_core.unwrap().sched_nice(), 0);
    let state = core.thread_info.unwrap().fpregs.xsave.unwrap();
    assert_eq!(state.ymmh_space.len(), 64);
}

#[test]
fn every_file_kind_has_its_field() {
    let files: Vec<msg::FileEntry> =
        Reader::new(Image::Files, "files.img", &load("tree", "files.img")).unwrap().all().unwrap();
    let has = |kind: msg::FdTypes| files.iter().filter(|file| file.r#type() == kind).count();
    for kind in [
        msg::FdTypes::Reg,
        msg::FdTypes::Pipe,
        msg::FdTypes::Fifo,
        msg::FdTypes::Inetsk,
        msg::FdTypes::Unixsk,
        msg::FdTypes::Eventfd,
        msg::FdTypes::Eventpoll,
        msg::FdTypes::Inotify,
        msg::FdTypes::Signalfd,
        msg::FdTypes::Netlinksk,
        msg::FdTypes::Timerfd,
        msg::FdTypes::Memfd,
        msg::FdTypes::Pidfd,
    ] {
        assert!(has(kind) > 0, "{kind:?}");
    }
    let poll = files.iter().find_map(|file| file.epfd.as_ref()).unwrap();
    assert_eq!(poll.tfd.len(), 2);
    let counter = files.iter().find_map(|file| file.efd.as_ref()).unwrap();
    assert_eq!(counter.counter, 42);
}

#[test]
fn pagemaps_lie_within_the_mappings_that_have_private_pages() {
    let mm: msg::MmEntry =
        cryopod_images::decode_one(Image::Mm, "mm-214.img", &load("tree", "mm-214.img")).unwrap();
    let map = Pagemap::read("pagemap-214.img", &load("tree", "pagemap-214.img")).unwrap();
    assert!(!map.runs().is_empty());
    for run in map.runs() {
        assert_ne!(run.flags & PE_PRESENT, 0);
        let mut at = run.vaddr;
        while at < run.end() {
            let area = mm.vmas.iter().find(|area| (area.start..area.end).contains(&at));
            let area = area.unwrap_or_else(|| panic!("{at:#x} is in no mapping"));
            assert!(vma::has_private_pages(area.status), "{at:#x}: status {:#x}", area.status);
            at = area.end;
        }
    }
    assert!(mm.vmas.iter().any(|area| area.status == vma::GUARD));
    for area in &mm.vmas {
        assert_eq!(area.status & !vma::KNOWN, 0, "{:#x}: status {:#x}", area.start, area.status);
    }
}
