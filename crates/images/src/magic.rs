//! Every image's file name, head and magic number.
//!
//! The names and numbers are those CRIU 4.2 writes; `crit` finds a record's type by the magic. The
//! images from `Apparmor` down are not written any more, or never by us: they are known by name so
//! that a set that holds them is refused, or read, by name.

use std::fmt;

/// First number of every image but the inventory, the service files and the raw ones.
pub const COMMON_MAGIC: u32 = 0x5456_4319;
/// First number of the files beside the images: statistics and caches.
pub const SERVICE_MAGIC: u32 = 0x5510_5940;
/// `inventory_entry.img_version` of images whose files begin with [`COMMON_MAGIC`].
pub const IMAGE_VERSION: u32 = 2;

/// What stands before the first record of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The image's own magic only: the inventory.
    Own,
    /// [`COMMON_MAGIC`], then the image's magic.
    Common,
    /// [`SERVICE_MAGIC`], then the image's magic.
    Service,
    /// Nothing, and no records either: page data, tar streams, text of other programs.
    Raw,
}

/// How the id in a file name is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    None,
    Decimal,
    Hex,
}

macro_rules! images {
    ($($kind:ident: $head:ident, $magic:literal, $prefix:literal, $id:ident, $suffix:literal;)*) => {
        /// A kind of image. The variant's documentation is its file name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Image {
            $(#[doc = concat!("`", $prefix, $suffix, "`, the id (if any) before the suffix.")] $kind,)*
        }

        impl Image {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            const fn row(self) -> (Head, u32, &'static str, Id, &'static str) {
                match self {
                    $(Self::$kind => (Head::$head, $magic, $prefix, Id::$id, $suffix),)*
                }
            }
        }
    };
}

images! {
    Inventory: Own, 0x58313116, "inventory.img", None, "";
    Pstree: Common, 0x50273030, "pstree.img", None, "";
    Ids: Common, 0x54432030, "ids-", Decimal, ".img";
    Core: Common, 0x55053847, "core-", Decimal, ".img";
    Mm: Common, 0x57492820, "mm-", Decimal, ".img";
    Pagemap: Common, 0x56084025, "pagemap-", Decimal, ".img";
    PagemapShmem: Common, 0x56084025, "pagemap-shmem-", Decimal, ".img";
    Pages: Raw, 0x00000000, "pages-", Decimal, ".img";
    Fdinfo: Common, 0x56213732, "fdinfo-", Decimal, ".img";
    Files: Common, 0x56303138, "files.img", None, "";
    Fs: Common, 0x51403912, "fs-", Decimal, ".img";
    Seccomp: Common, 0x64413049, "seccomp.img", None, "";
    Cgroup: Common, 0x59383330, "cgroup.img", None, "";
    RemapFpath: Common, 0x59133954, "remap-fpath.img", None, "";
    GhostFile: Common, 0x52583605, "ghost-file-", Hex, ".img";
    PipesData: Common, 0x56453709, "pipes-data.img", None, "";
    Fifo: Common, 0x58364939, "fifo.img", None, "";
    FifoData: Common, 0x59333054, "fifo-data.img", None, "";
    SkQueues: Common, 0x56264026, "sk-queues.img", None, "";
    TcpStream: Common, 0x51465506, "tcp-stream-", Hex, ".img";
    TtyInfo: Common, 0x59453036, "tty-info.img", None, "";
    TtyData: Common, 0x59413026, "tty-data.img", None, "";
    MemfdInode: Common, 0x48453499, "memfd.img", None, "";
    FileLocks: Common, 0x54323616, "filelocks.img", None, "";
    Mountpoints: Common, 0x55563928, "mountpoints-", Decimal, ".img";
    Tmpfs: Raw, 0x00000000, "tmpfs-", Decimal, ".tar.gz.img";
    TmpfsDev: Raw, 0x00000000, "tmpfs-dev-", Decimal, ".tar.gz.img";
    Utsns: Common, 0x54473203, "utsns-", Decimal, ".img";
    IpcVar: Common, 0x53115007, "ipcns-var-", Decimal, ".img";
    IpcShm: Common, 0x46283044, "ipcns-shm-", Decimal, ".img";
    IpcMsg: Common, 0x55453737, "ipcns-msg-", Decimal, ".img";
    IpcSem: Common, 0x59573019, "ipcns-sem-", Decimal, ".img";
    Timens: Common, 0x43114433, "timens-", Decimal, ".img";
    Pidns: Common, 0x61157326, "pidns-", Decimal, ".img";
    Userns: Common, 0x55474906, "userns-", Decimal, ".img";
    Netns: Common, 0x55933752, "netns-", Decimal, ".img";
    Netdev: Common, 0x57373951, "netdev-", Decimal, ".img";
    Ifaddr: Raw, 0x00000000, "ifaddr-", Decimal, ".img";
    Route: Raw, 0x00000000, "route-", Decimal, ".img";
    Route6: Raw, 0x00000000, "route6-", Decimal, ".img";
    Rule: Raw, 0x00000000, "rule-", Decimal, ".img";
    Iptables: Raw, 0x00000000, "iptables-", Decimal, ".img";
    Ip6tables: Raw, 0x00000000, "ip6tables-", Decimal, ".img";
    Nftables: Raw, 0x00000000, "nftables-", Decimal, ".img";
    NetnsCt: Raw, 0x00000000, "netns-ct-", Decimal, ".img";
    NetnsExp: Raw, 0x00000000, "netns-exp-", Decimal, ".img";
    Cpuinfo: Common, 0x61404013, "cpuinfo.img", None, "";
    StatsDump: Service, 0x57093306, "stats-dump", None, "";
    StatsRestore: Service, 0x57093306, "stats-restore", None, "";
    IrmapCache: Service, 0x57004059, "irmap-cache", None, "";
    Apparmor: Common, 0x59423047, "apparmor.img", None, "";
    Autofs: Common, 0x49353943, "autofs-", Decimal, ".img";
    BinfmtMisc: Common, 0x67343323, "binfmt-misc-", Decimal, ".img";
    BpfmapData: Common, 0x64324033, "bpfmap-data.img", None, "";
    BpfmapFile: Common, 0x57506142, "bpfmap-file.img", None, "";
    Creds: Common, 0x54023547, "creds-", Decimal, ".img";
    EventfdFile: Common, 0x44523722, "eventfd.img", None, "";
    EventpollFile: Common, 0x45023858, "eventpoll.img", None, "";
    EventpollTfd: Common, 0x44433746, "eventpoll-tfd.img", None, "";
    ExtFiles: Common, 0x59255641, "ext-files.img", None, "";
    FanotifyFile: Common, 0x55096122, "fanotify.img", None, "";
    FanotifyMark: Common, 0x56506035, "fanotify-mark.img", None, "";
    InetSk: Common, 0x56443851, "inetsk.img", None, "";
    InotifyFile: Common, 0x48424431, "inotify.img", None, "";
    InotifyWd: Common, 0x54562009, "inotify-wd.img", None, "";
    Itimers: Common, 0x57464056, "itimers-", Decimal, ".img";
    NetlinkSk: Common, 0x58005614, "netlinksk.img", None, "";
    NsFiles: Common, 0x61394011, "ns-files.img", None, "";
    PacketSk: Common, 0x60454618, "packetsk.img", None, "";
    Pidfd: Common, 0x54435556, "pidfd.img", None, "";
    Pipes: Common, 0x56513555, "pipes.img", None, "";
    PosixTimers: Common, 0x52603957, "posix-timers-", Decimal, ".img";
    RegFiles: Common, 0x50363636, "reg-files.img", None, "";
    Rlimit: Common, 0x57113925, "rlimit-", Decimal, ".img";
    Sigacts: Common, 0x55344201, "sigacts-", Decimal, ".img";
    SignalShared: Common, 0x59255647, "signal-s-", Decimal, ".img";
    SignalPrivate: Common, 0x59255647, "signal-p-", Decimal, ".img";
    Signalfd: Common, 0x57323820, "signalfd.img", None, "";
    Timerfd: Common, 0x50493712, "timerfd.img", None, "";
    TtyFiles: Common, 0x59433025, "tty.img", None, "";
    Tunfile: Common, 0x57143751, "tunfile.img", None, "";
    UnixSk: Common, 0x54373943, "unixsk.img", None, "";
    Vmas: Common, 0x54123737, "vmas-", Decimal, ".img";
}

impl Image {
    /// What stands before the first record.
    #[must_use]
    pub const fn head(self) -> Head {
        self.row().0
    }

    /// The image's own magic number; `None` for raw images.
    #[must_use]
    pub const fn magic(self) -> Option<u32> {
        let (head, magic, ..) = self.row();
        match head {
            Head::Raw => None,
            Head::Own | Head::Common | Head::Service => Some(magic),
        }
    }

    /// Bytes of the head.
    #[must_use]
    pub const fn head_len(self) -> usize {
        match self.head() {
            Head::Raw => 0,
            Head::Own => 4,
            Head::Common | Head::Service => 8,
        }
    }

    /// Whether the file name carries an id, so that a dump may hold several.
    #[must_use]
    pub const fn has_id(self) -> bool {
        !matches!(self.row().3, Id::None)
    }

    /// The file name within the image directory. `id` is the pid, namespace id, … that the name
    /// carries; it is ignored where [`Image::has_id`] is false.
    #[must_use]
    pub fn file_name(self, id: u64) -> String {
        let (_, _, prefix, form, suffix) = self.row();
        match form {
            Id::None => prefix.to_owned(),
            Id::Decimal => format!("{prefix}{id}{suffix}"),
            Id::Hex => format!("{prefix}{id:x}{suffix}"),
        }
    }

    /// The kind and id a file name stands for; the id is 0 where there is none. Only the spelling
    /// that [`Image::file_name`] makes is known: no leading zeros, no other case.
    #[must_use]
    pub fn parse(name: &str) -> Option<(Self, u64)> {
        Self::ALL.iter().find_map(|&kind| {
            let (_, _, prefix, form, suffix) = kind.row();
            let rest = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
            let id = match form {
                Id::None => return rest.is_empty().then_some((kind, 0)),
                Id::Decimal => rest.parse().ok()?,
                Id::Hex => u64::from_str_radix(rest, 16).ok()?,
            };
            (kind.file_name(id) == name).then_some((kind, id))
        })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, _, prefix, form, suffix) = self.row();
        let id = if matches!(form, Id::None) { "" } else { "N" };
        write!(f, "{prefix}{id}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_name_leads_back_to_its_kind() {
        for &kind in Image::ALL {
            for id in [1, 10, 4096, 0xbeef] {
                let want = (kind, if kind.has_id() { id } else { 0 });
                assert_eq!(Image::parse(&kind.file_name(id)), Some(want), "{kind}");
            }
        }
    }

    #[test]
    fn other_spellings_are_unknown() {
        for name in
            ["core-01.img", "core-.img", "core-+1.img", "ghost-file-A.img", "core-1.img ", ""]
        {
            assert_eq!(Image::parse(name), None, "{name}");
        }
    }

    #[test]
    fn ids_are_written_as_the_standard_does() {
        assert_eq!(Image::GhostFile.file_name(255), "ghost-file-ff.img");
        assert_eq!(Image::PagemapShmem.file_name(255), "pagemap-shmem-255.img");
        assert_eq!(Image::StatsDump.file_name(7), "stats-dump");
        assert_eq!(Image::Tmpfs.file_name(7), "tmpfs-7.tar.gz.img");
    }
}
