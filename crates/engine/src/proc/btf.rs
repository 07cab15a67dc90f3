//! The kernel's own types (BTF, /sys/kernel/btf/vmlinux): where a member of a structure lies.
//!
//! The format is that of Documentation/bpf/btf.rst: a header, the types one after another, numbered
//! from 1, and the strings they name.

use std::collections::HashMap;
use std::sync::OnceLock;

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNCTION: u32 = 12;
/// How deep structures without a name may lie in each other.
const DEPTH: usize = 16;

/// Type information, as the kernel gives it.
#[derive(Debug)]
pub struct Btf<'a> {
    strings: &'a [u8],
    types: Vec<Type<'a>>,
}

#[derive(Debug, Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    size: u32,
    /// Members have the sizes of bit fields in their offsets.
    packed: bool,
    members: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Bytes behind the head of a type.
fn rest(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,
        3 => 12,
        STRUCT | UNION | 15 | 19 => count * 12,
        6 | 13 => count * 8,
        2 | 7..=11 | FUNCTION | 16 | 18 => 0,
        _ => return None,
    })
}

/// The running kernel's types, read at the first call: a few milliseconds, and as many megabytes that
/// stay. `None` where the kernel does not show them.
#[must_use]
pub fn kernel() -> Option<&'static Btf<'static>> {
    static KERNEL: OnceLock<Option<Btf<'static>>> = OnceLock::new();
    let read = || Btf::parse(Vec::leak(std::fs::read("/sys/kernel/btf/vmlinux").ok()?));
    KERNEL.get_or_init(read).as_ref()
}

impl<'a> Btf<'a> {
    /// Understands the bytes; `None` for anything malformed or of a kind that is not known.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]) != MAGIC {
            return None;
        }
        let head = word(bytes, 4)? as usize;
        let part = |at: usize| -> Option<&'a [u8]> {
            let begin = head.checked_add(word(bytes, at)? as usize)?;
            bytes.get(begin..begin.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (all, strings) = (part(8)?, part(16)?);
        let mut types = Vec::new();
        let mut at = 0;
        while at < all.len() {
            let info = word(all, at + 4)?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let end = at + 12 + rest(kind, count)?;
            types.push(Type {
                name: word(all, at)?,
                kind,
                size: word(all, at + 8)?,
                packed: info >> 31 == 1,
                members: all.get(at + 12..end)?,
            });
            at = end;
        }
        Some(Self { strings, types })
    }

    fn name(&self, at: u32) -> &'a [u8] {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        rest.split(|b| *b == 0).next().unwrap_or_default()
    }

    /// Number of the function of this name.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        let found = |t: &Type<'_>| t.kind == FUNCTION && self.name(t.name) == name.as_bytes();
        Some(self.types.iter().position(found)? as u32 + 1)
    }

    /// The structure of this name: its size and the byte offsets of its members, by their names with
    /// dots between; members of what has no name count as the outer one's.
    #[must_use]
    pub fn structure(&self, name: &str, depth: usize) -> Option<(u32, HashMap<String, u32>)> {
        let found = |t: &&Type<'_>| t.kind == STRUCT && self.name(t.name) == name.as_bytes();
        let whole = self.types.iter().find(found)?;
        let mut members = HashMap::new();
        self.collect(*whole, "", 0, depth, 0, &mut members)?;
        Some((whole.size, members))
    }

    fn collect(
        &self,
        of: Type<'_>,
        path: &str,
        base: u32,
        depth: usize,
        nesting: usize,
        into: &mut HashMap<String, u32>,
    ) -> Option<()> {
        for member in of.members.as_chunks::<12>().0 {
            let bits = word(member, 8)?;
            let bits = if of.packed { bits & 0x00ff_ffff } else { bits };
            let at = base.checked_add(bits / 8)?;
            let own = String::from_utf8_lossy(self.name(word(member, 0)?)).into_owned();
            let inner = (word(member, 4)? as usize).checked_sub(1).and_then(|i| self.types.get(i));
            let inner = inner.filter(|t| matches!(t.kind, STRUCT | UNION));
            let (path, left) = match (own.is_empty(), path.is_empty()) {
                (true, _) => (path.to_owned(), depth),
                (false, true) => (own, depth.saturating_sub(1)),
                (false, false) => (format!("{path}.{own}"), depth.saturating_sub(1)),
            };
            if let Some(inner) = inner
                && (left > 0 || path.is_empty())
                && nesting < DEPTH
            {
                self.collect(*inner, &path, at, left, nesting + 1, into)?;
            }
            if !path.is_empty() {
                into.entry(path).or_insert(at);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure `task` of 24 bytes with `pid` at 0, and at 8 a nameless union of `wait` (a structure
    /// with `left` at 8) and `word`; and a function `iterate`.
    fn small() -> Vec<u8> {
        let strings = b"\0task\0pid\0wait\0left\0word\0iterate\0int\0";
        let at = |name: &str| {
            let found = strings.windows(name.len() + 2).position(|w| {
                w[0] == 0 && &w[1..=name.len()] == name.as_bytes() && w[name.len() + 1] == 0
            });
            found.unwrap() as u32 + 1
        };
        let mut types: Vec<u32> = Vec::new();
        types.extend([at("int"), 1 << 24, 4, 32]);
        types.extend([at("wait"), STRUCT << 24 | 1, 16, at("left"), 1, 64]);
        types.extend([0, UNION << 24 | 2, 16, at("wait"), 2, 0, at("word"), 1, 0]);
        types.extend([at("task"), STRUCT << 24 | 2, 24, at("pid"), 1, 0, 0, 3, 64]);
        types.extend([at("iterate"), FUNCTION << 24, 1]);
        let len = types.len() as u32 * 4;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, len, len, strings.len() as u32].into_iter().chain(types) {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_of_what_has_no_name_are_found() {
        let bytes = small();
        let btf = Btf::parse(&bytes).unwrap();
        let (size, members) = btf.structure("task", 2).unwrap();
        assert_eq!(size, 24);
        let expected = [("pid", 0), ("wait", 8), ("wait.left", 16), ("word", 8)];
        assert_eq!(members.len(), expected.len(), "{members:?}");
        for (name, at) in expected {
            assert_eq!(members.get(name), Some(&at), "{name}");
        }
        assert_eq!(btf.function("iterate"), Some(5));
        assert_eq!(btf.function("task"), None);
    }

    #[test]
    fn what_is_cut_short_is_no_type_information() {
        let bytes = small();
        for len in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..len]).is_none(), "{len}");
        }
    }
}
