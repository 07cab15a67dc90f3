//! YAML (and so JSON) as a tree that remembers where each value was written.
//!
//! Files, drop-ins and flags become one tree before anything is made of it: a value that is set
//! later replaces an earlier one, mappings are merged key by key, lists are replaced whole, and
//! `null` says nothing. These are the kubelet's rules for its drop-in directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::ConfigError;

/// A configuration file larger than this is none.
const LARGEST: u64 = 4 << 20;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A file.
    File {
        /// Its path, as given.
        file: Arc<Path>,
        /// Counted from 1.
        line: u64,
    },
    /// A flag, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub(super) node: Node,
    pub(super) origin: Origin,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Number(f64),
    Text(String),
    List(Vec<Located>),
    /// In the order of the file.
    Map(Vec<(String, Located)>),
}

impl PartialEq for Located {
    /// Where a value was written does not make it another.
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

impl Located {
    /// A value that a flag gives.
    pub(super) fn from_json(value: serde_json::Value, origin: &Origin) -> Self {
        use serde_json::Value;
        let inner = |value| Self::from_json(value, origin);
        let node = match value {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => Node::Unsigned(value),
                (None, Some(value)) => Node::Integer(value),
                (None, None) => Node::Number(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(value) => Node::Text(value),
            Value::Array(values) => Node::List(values.into_iter().map(inner).collect()),
            Value::Object(entries) => {
                Node::Map(entries.into_iter().map(|(key, value)| (key, inner(value))).collect())
            }
        };
        Self { node, origin: origin.clone() }
    }

    /// A tree of nothing.
    pub(super) fn empty() -> Self {
        Self { node: Node::Map(Vec::new()), origin: Origin::Default }
    }

    /// Reads all documents of a file.
    ///
    /// # Errors
    /// [`ConfigError`]: unreadable, too large, not UTF-8, not YAML, or without a document.
    pub(super) fn read(path: &Path) -> Result<Vec<Self>, ConfigError> {
        let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, LARGEST + 1), &mut bytes)
            .map_err(unreadable)?;
        if bytes.len() as u64 > LARGEST {
            return Err(ConfigError::TooLarge { path: path.to_owned(), limit: LARGEST });
        }
        let text = String::from_utf8(bytes).map_err(|error| ConfigError::Utf8 {
            path: path.to_owned(),
            source: error.utf8_error(),
        })?;
        let documents = Self::parse(path, &text)?;
        match documents.is_empty() {
            true => Err(ConfigError::Empty { path: path.to_owned() }),
            false => Ok(documents),
        }
    }

    /// Reads all documents of a text that is called `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Self>, ConfigError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let file: Arc<Path> = path.into();
        serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options)
            .map(|documents| documents.into_iter().map(|raw| locate(raw, &file)).collect())
            .map_err(|source| ConfigError::Yaml {
                path: PathBuf::from(path),
                line: source.location().map_or(1, |location| location.line()),
                source: Box::new(source),
            })
    }

    /// The value at a path of keys with dots between them.
    pub(super) fn get(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |at, key| match &at.node {
            Node::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, at)| at),
            _ => None,
        })
    }

    /// Where the value at a path was written.
    pub(super) fn origin(&self, path: &str) -> Origin {
        self.get(path).map_or(Origin::Default, |found| found.origin.clone())
    }

    /// Takes out the value of a key of the mapping at the top.
    pub(super) fn take(&mut self, key: &str) -> Option<Self> {
        let Node::Map(entries) = &mut self.node else { return None };
        let at = entries.iter().position(|(name, _)| name == key)?;
        Some(entries.remove(at).1)
    }

    /// Takes out the value at a path of keys.
    pub(super) fn prune(&mut self, path: &[String]) -> Option<Self> {
        let (last, parents) = path.split_last()?;
        let mut at = self;
        for key in parents {
            let Node::Map(entries) = &mut at.node else { return None };
            at = &mut entries.iter_mut().find(|(name, _)| name == key)?.1;
        }
        at.take(last)
    }

    /// Sets the value at a path of keys with dots between them, over whatever is there.
    pub(super) fn set(&mut self, path: &str, value: Self) {
        let nested = path.rsplit('.').fold(value, |inner, key| Self {
            origin: inner.origin.clone(),
            node: Node::Map(vec![(key.to_owned(), inner)]),
        });
        self.merge(nested);
    }

    /// Lays another tree over this one.
    pub(super) fn merge(&mut self, over: Self) {
        match (&mut self.node, over.node) {
            (Node::Map(ours), Node::Map(theirs)) => {
                for (key, value) in theirs {
                    match ours.iter_mut().find(|(name, _)| *name == key) {
                        Some((_, there)) => there.merge(value),
                        None => ours.push((key, value)),
                    }
                }
            }
            (node, other) => {
                *node = other;
                self.origin = over.origin;
            }
        }
    }

    /// The text of a scalar at the top.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.node {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// What the reader makes of a document.
enum Raw {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Number(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(String, Spanned<Raw>)>),
}

fn locate(raw: Spanned<Raw>, file: &Arc<Path>) -> Located {
    let origin = Origin::File { file: Arc::clone(file), line: raw.referenced.line().max(1) };
    let node = match raw.value {
        Raw::Null => Node::Null,
        Raw::Bool(value) => Node::Bool(value),
        Raw::Integer(value) => Node::Integer(value),
        Raw::Unsigned(value) => Node::Unsigned(value),
        Raw::Number(value) => Node::Number(value),
        Raw::Text(value) => Node::Text(value),
        Raw::List(values) => {
            Node::List(values.into_iter().map(|value| locate(value, file)).collect())
        }
        Raw::Map(entries) => Node::Map(
            entries
                .into_iter()
                // Null says nothing, so nothing is there.
                .filter(|(_, value)| !matches!(value.value, Raw::Null))
                .map(|(key, value)| (key, locate(value, file)))
                .collect(),
        ),
    };
    Located { node, origin }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
                Ok(u64::try_from(value).map_or(Raw::Integer(value), Raw::Unsigned))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
                Ok(Raw::Unsigned(value))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
                Ok(Raw::Number(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Text(value.to_owned()))
            }

            fn visit_string<E: de::Error>(self, value: String) -> Result<Raw, E> {
                Ok(Raw::Text(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Raw, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = values.next_element()? {
                    list.push(value);
                }
                Ok(Raw::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = values.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Located {
        Located::parse(Path::new("f"), text).unwrap().remove(0)
    }

    #[test]
    fn every_value_remembers_its_line_in_yaml_and_in_json() {
        let tree = one("a: 1\nb:\n  c: x\n  d: [1,\n    y]\n");
        assert_eq!(tree.origin("a").to_string(), "f:1");
        assert_eq!(tree.origin("b.c").to_string(), "f:3");
        assert_eq!(tree.get("b.c").unwrap().text(), Some("x"));
        assert_eq!(tree.origin("b.z"), Origin::Default);
        let tree = one("{\"a\": true,\n\"b\": {\n\"c\": null, \"d\": -3}}");
        assert_eq!(tree.get("a").unwrap().node, Node::Bool(true));
        assert_eq!(tree.origin("b.d").to_string(), "f:3");
        assert_eq!(tree.get("b.d").unwrap().node, Node::Integer(-3));
        assert_eq!(tree.origin("b.c"), Origin::Default, "null says nothing");
    }

    #[test]
    fn later_values_replace_earlier_ones_mappings_merge_and_lists_do_not() {
        let mut tree = one("a: {b: 1, c: 2}\nl: [1, 2]\nn: 1\n");
        let over = Located::parse(Path::new("g"), "\na: {c: 3, d: 4}\nl: [9]\nn: null\n");
        tree.merge(over.unwrap().remove(0));
        assert_eq!(tree, one("a: {b: 1, c: 3, d: 4}\nl: [9]\nn: 1\n"));
        assert_eq!(tree.origin("a.b").to_string(), "f:1");
        assert_eq!(tree.origin("a.c").to_string(), "g:2");
        tree.set("a.e.f", Located::from_json("x".into(), &Origin::Flag("--x")));
        tree.set("a.b", Located::from_json(7.into(), &Origin::Flag("--b")));
        assert_eq!(tree.origin("a.e.f"), Origin::Flag("--x"));
        assert_eq!(tree.get("a.b").unwrap().node, Node::Unsigned(7));
        assert_eq!(tree.prune(&["a".into(), "e".into(), "f".into()]).unwrap().text(), Some("x"));
        assert_eq!(tree.origin("a.e.f"), Origin::Default);
    }

    #[test]
    fn several_documents_are_several_trees() {
        let trees = Located::parse(Path::new("f"), "a: 1\n---\n---\nb: 2\n").unwrap();
        assert_eq!(trees.len(), 2);
        assert_eq!(trees[1].origin("b").to_string(), "f:4");
    }

    #[test]
    fn what_is_no_yaml_is_refused_by_line() {
        for (text, line) in [
            ("a: 1\nb: [", 2),
            ("a: 1\na: 2\n", 2),
            ("a: 1\n b: 2\n", 2),
            ("a: *nobody\n", 1),
            ("{\"a\": 1,\n\"b\" 2}", 2),
        ] {
            let error = Located::parse(Path::new("f"), text).unwrap_err();
            let said = error.to_string();
            let at: u64 = match &error {
                ConfigError::Yaml { line, .. } => *line,
                other => panic!("{other:?}"),
            };
            assert!(at == line || at == line + 1, "{text:?}: {said}");
            assert!(said.starts_with("f:"), "{said}");
        }
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            let row = [below.as_str(); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{row}]\n"));
        }
        assert!(matches!(Located::parse(Path::new("f"), &text), Err(ConfigError::Yaml { .. })));
        let deep = "[".repeat(100_000);
        assert!(matches!(Located::parse(Path::new("f"), &deep), Err(ConfigError::Yaml { .. })));
    }
}
