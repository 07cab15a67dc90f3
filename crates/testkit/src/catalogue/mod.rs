//! The table of all victims: what each is about, what it needs, and whether stock criu can carry it.
//!
//! The verdicts on criu were found with `cargo xtask judge` (criu 4.2.1, Linux 6.18); a reason names what criu itself
//! said or lacks.

use std::path::Path;

mod table;

/// One victim program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// Its name: the executable's, and the source's `victims/NAME.c` (a static variant ends in `_static`).
    pub name: &'static str,
    /// The executable.
    pub path: &'static str,
    /// The kind of kernel object, as the coverage table names it. Several victims may share one.
    pub kind: &'static str,
    /// What the machine must have.
    pub needs: &'static [Need],
    /// What a checkpoint must do with it.
    pub fate: Fate,
    /// Whether stock criu can carry it.
    pub criu: Criu,
    /// What it checks, in a sentence.
    pub what: &'static str,
}

/// What a checkpoint must do with a victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is carried: after restore the victim says "ok".
    Carried,
    /// It is refused by name before the freeze, and the victim goes on undisturbed. The text is what must be named.
    Refused(&'static str),
}

/// Whether stock criu carries a victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criu {
    /// With these options, the same for `criu dump` and `criu restore`.
    Supported(&'static [&'static str]),
    /// It does not, or not on our machines: why.
    No(&'static str),
}

/// What a victim needs of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// User 0.
    Root,
    /// At least this kernel.
    Kernel(u32, u32),
    /// This word among the flags of /proc/cpuinfo.
    Cpu(&'static str),
    /// This file.
    File(&'static str),
}

impl Need {
    /// Whether this machine has it.
    pub fn is_met(self) -> bool {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        match self {
            Need::Root => read("/proc/self/status")
                .lines()
                .find_map(|line| line.strip_prefix("Uid:"))
                .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0")),
            Need::Kernel(major, minor) => {
                let release = read("/proc/sys/kernel/osrelease");
                let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
                (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
            }
            Need::Cpu(flag) => read("/proc/cpuinfo")
                .lines()
                .find(|line| line.starts_with("flags"))
                .is_some_and(|flags| flags.split_whitespace().any(|f| f == flag)),
            Need::File(path) => Path::new(path).exists(),
        }
    }
}

impl Victim {
    /// The first need that this machine does not meet.
    pub fn unmet(&self) -> Option<Need> {
        self.needs.iter().copied().find(|need| !need.is_met())
    }
}

/// All victims, in the order in which an engine is built: the simple kinds first, the refused ones last.
pub fn victims() -> &'static [Victim] {
    table::TABLE
}

/// The victim of this name.
///
/// # Panics
/// When there is none: a test asked for something that does not exist.
pub fn victim(name: &str) -> &'static Victim {
    match table::TABLE.iter().find(|victim| victim.name == name) {
        Some(victim) => victim,
        None => panic!("no victim is called {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: &[&str] = include!(concat!(env!("OUT_DIR"), "/victims/list.rs"));

    #[test]
    fn every_source_is_in_the_table_once_and_the_table_has_nothing_else() {
        let mut named: Vec<&str> = victims().iter().map(|victim| victim.name).collect();
        named.sort_unstable();
        assert_eq!(named, SOURCES);
    }

    #[test]
    fn needs_are_read_from_the_machine() {
        assert!(Need::Kernel(3, 0).is_met());
        assert!(!Need::Kernel(99, 0).is_met());
        assert!(!Need::Cpu("no-such-flag").is_met());
        assert!(Need::File("/proc/self/status").is_met());
    }
}
