//! From a tree of values to a type: errors know their file and line, and what the type does not
//! know is told rather than dropped.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

use super::document::{Located, Node, Origin};

/// A value of the wrong kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    origin: Option<Origin>,
    /// Keys from the inside out, until [`decode`] turns them round.
    keys: Vec<String>,
    message: String,
}

impl FieldError {
    /// The keys that lead to the value.
    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }
}

impl std::error::Error for FieldError {}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.keys.is_empty() {
            write!(f, "{}: ", self.keys.join("."))?;
        }
        f.write_str(&self.message)
    }
}

impl de::Error for FieldError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { origin: None, keys: Vec::new(), message: message.to_string() }
    }
}

/// A key that means nothing to the type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Keys with dots between them.
    pub path: String,
    /// Where it was written.
    pub origin: Origin,
}

/// Reads a tree into a type; gives what the type had no place for, too.
///
/// # Errors
/// [`FieldError`], at the first value of the wrong kind.
pub(super) fn decode<T: DeserializeOwned>(tree: &Located) -> Result<(T, Vec<Unknown>), FieldError> {
    let unknown = RefCell::new(Vec::new());
    let reader = Reader { value: tree, trail: &Trail::Top, unknown: &unknown };
    match T::deserialize(reader) {
        Ok(value) => Ok((value, unknown.into_inner())),
        Err(mut error) => {
            error.keys.reverse();
            Err(error)
        }
    }
}

/// The keys that led to a value.
enum Trail<'a> {
    Top,
    Key(&'a Trail<'a>, &'a str),
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Key(Self::Top, key) => f.write_str(key),
            Self::Key(above, key) => write!(f, "{above}.{key}"),
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    value: &'a Located,
    trail: &'a Trail<'a>,
    unknown: &'a RefCell<Vec<Unknown>>,
}

impl<'a> Reader<'a> {
    /// What is there, for messages.
    fn found(&self) -> Unexpected<'a> {
        match &self.value.node {
            Node::Null => Unexpected::Unit,
            Node::Bool(value) => Unexpected::Bool(*value),
            Node::Integer(value) => Unexpected::Signed(*value),
            Node::Unsigned(value) => Unexpected::Unsigned(*value),
            Node::Number(value) => Unexpected::Float(*value),
            Node::Text(value) => Unexpected::Str(value),
            Node::List(_) => Unexpected::Seq,
            Node::Map(_) => Unexpected::Map,
        }
    }

    fn located(&self, mut error: FieldError) -> FieldError {
        error.origin.get_or_insert_with(|| self.value.origin.clone());
        error
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match &self.value.node {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Integer(value) => visitor.visit_i64(*value),
            Node::Unsigned(value) => visitor.visit_u64(*value),
            Node::Number(value) => visitor.visit_f64(*value),
            Node::Text(value) => visitor.visit_str(value),
            Node::List(values) => visitor.visit_seq(List { reader: self, values, at: 0 }),
            Node::Map(entries) => {
                visitor.visit_map(Entries { reader: self, entries: entries.iter(), value: None })
            }
        }
        .map_err(|error| self.located(error))
    }

    /// Also the words that YAML 1.1, which Kubernetes reads, knows for the two.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let word = self.value.text().map(str::to_ascii_lowercase);
        match word.as_deref() {
            Some("yes" | "on" | "y") => visitor.visit_bool(true),
            Some("no" | "off" | "n") => visitor.visit_bool(false),
            Some(_) => Err(self.located(de::Error::invalid_type(self.found(), &"true or false"))),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.value.node {
            Node::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        match &self.value.node {
            Node::Text(text) => {
                let text: StringDeserializer<FieldError> = text.clone().into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            Node::Map(entries) => {
                let entries = Entries { reader: self, entries: entries.iter(), value: None };
                MapAccessDeserializer::new(entries).deserialize_enum(name, variants, visitor)
            }
            _ => Err(de::Error::invalid_type(self.found(), &"a name")),
        }
        .map_err(|error| self.located(error))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let path = self.trail.to_string();
        self.unknown.borrow_mut().push(Unknown { path, origin: self.value.origin.clone() });
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier
    }
}

struct List<'a> {
    reader: Reader<'a>,
    values: &'a [Located],
    at: usize,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = FieldError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, FieldError> {
        let Some(value) = self.values.get(self.at) else { return Ok(None) };
        let key = self.at.to_string();
        self.at += 1;
        let trail = Trail::Key(self.reader.trail, &key);
        let reader = Reader { value, trail: &trail, unknown: self.reader.unknown };
        match seed.deserialize(reader) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let mut error = reader.located(error);
                error.keys.push(key);
                Err(error)
            }
        }
    }
}

struct Entries<'a> {
    reader: Reader<'a>,
    entries: std::slice::Iter<'a, (String, Located)>,
    value: Option<&'a (String, Located)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = FieldError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, FieldError> {
        self.value = self.entries.next();
        self.value.map(|(key, _)| seed.deserialize(key.as_str().into_deserializer())).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<T::Value, FieldError> {
        let Some((key, value)) = self.value.take() else {
            return Err(de::Error::custom("a value without a key"));
        };
        let trail = Trail::Key(self.reader.trail, key);
        let reader = Reader { value, trail: &trail, unknown: self.reader.unknown };
        seed.deserialize(reader).map_err(|error| {
            let mut error = reader.located(error);
            error.keys.push(key.clone());
            error
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Outer {
        on: Option<bool>,
        small: Option<u8>,
        list: Vec<String>,
        inner: Option<Inner>,
        kind: Option<Kind>,
        map: BTreeMap<String, bool>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        text: String,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Kind {
        Plain,
    }

    fn read(text: &str) -> Result<(Outer, Vec<Unknown>), FieldError> {
        decode(&Located::parse(Path::new("f"), text).unwrap()[0])
    }

    #[test]
    fn a_tree_becomes_a_type() {
        let text = "on: yes\nsmall: 7\nlist: [a, b]\ninner: {text: t}\nkind: Plain\nmap: {x: true}";
        let (outer, unknown) = read(text).unwrap();
        let wanted = Outer {
            on: Some(true),
            small: Some(7),
            list: vec!["a".into(), "b".into()],
            inner: Some(Inner { text: "t".into() }),
            kind: Some(Kind::Plain),
            map: BTreeMap::from([("x".into(), true)]),
        };
        assert_eq!((outer, unknown), (wanted, vec![]));
        assert_eq!(read("on: null\ninner: ~").unwrap().0, Outer::default());
    }

    #[test]
    fn what_has_no_place_is_told_with_its_line() {
        let (_, unknown) = read("on: true\nOn: true\ninner:\n  z:\n    a: 1\nlost: null").unwrap();
        let told: Vec<String> =
            unknown.iter().map(|one| format!("{} {}", one.origin, one.path)).collect();
        assert_eq!(told, ["f:2 On", "f:5 inner.z"]);
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_told_with_line_and_path() {
        for (text, said) in [
            ("\non: maybe", "f:2: on: invalid type: string \"maybe\", expected true or false"),
            ("on: 3", "f:1: on: invalid type: integer `3`, expected a boolean"),
            ("small: 300", "f:1: small: invalid value: integer `300`, expected u8"),
            ("list: a", "f:1: list: invalid type: string \"a\", expected a sequence"),
            ("list: [a,\n 1]", "f:2: list.1: invalid type: integer `1`, expected a string"),
            ("inner:\n  text: [1]", "f:2: inner.text: invalid type: sequence, expected a string"),
            ("map: {x: 1}", "f:1: map.x: invalid type: integer `1`, expected a boolean"),
            ("kind: Odd", "f:1: kind: unknown variant `Odd`, expected `Plain`"),
            ("kind: 3", "f:1: kind: invalid type: integer `3`, expected a name"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), said);
        }
    }
}
