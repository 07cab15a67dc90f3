//! The parameters of a request's query, by the table: what it does not name is refused, so that a
//! slip of the pen never lists or deletes more than was meant.

use super::problem::Problem;
use super::table::{Parameter, ParameterKind};
use crate::routes::unescape;

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    given: Vec<(&'static str, String)>,
}

impl Query {
    /// Reads a query string; 400 for what cannot be read, is not in the table, is given twice, or
    /// is out of bounds.
    pub(crate) fn parse(known: &'static [Parameter], text: Option<&str>) -> Result<Self, Problem> {
        let mut query = Self::default();
        for pair in text.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (decode(key), decode(value)) else {
                return Err(Problem::bad_request(format!("the query's {pair:?} cannot be read")));
            };
            let Some(parameter) = known.iter().find(|one| one.name == key) else {
                let names: Vec<&str> = known.iter().map(|one| one.name).collect();
                let known = match names.as_slice() {
                    [] => "this path takes none".to_owned(),
                    names => format!("this path takes {}", names.join(", ")),
                };
                return Err(Problem::bad_request(format!("unknown parameter {key:?}: {known}")));
            };
            if query.text(parameter.name).is_some() {
                return Err(Problem::bad_request(format!("parameter {key:?} is given twice")));
            }
            check(parameter, &value)?;
            query.given.push((parameter.name, value));
        }
        Ok(query)
    }

    /// A parameter's value.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.given.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// A number's value.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

fn check(parameter: &Parameter, value: &str) -> Result<(), Problem> {
    let name = parameter.name;
    match parameter.kind {
        ParameterKind::Text if value.is_empty() => {
            Err(Problem::bad_request(format!("parameter {name:?} is empty: leave it out")))
        }
        ParameterKind::Text => Ok(()),
        ParameterKind::Number { least, most } => {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            match value.parse::<u64>() {
                Ok(number) if digits && (least..=most).contains(&number) => Ok(()),
                _ => Err(Problem::bad_request(format!(
                    "parameter {name:?}: {value:?} is no whole number from {least} to {most}"
                ))),
            }
        }
    }
}

fn decode(text: &str) -> Option<String> {
    String::from_utf8(unescape(text.as_bytes(), true)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    static KNOWN: &[Parameter] = &[
        Parameter { name: "pod", description: "", kind: ParameterKind::Text },
        Parameter {
            name: "limit",
            description: "",
            kind: ParameterKind::Number { least: 1, most: 10 },
        },
    ];

    #[test]
    fn what_is_in_the_table_is_read() {
        let query = Query::parse(KNOWN, Some("pod=a%20b+c&limit=7&")).unwrap();
        assert_eq!(query.text("pod"), Some("a b c"));
        assert_eq!(query.number("limit"), Some(7));
        assert_eq!(Query::parse(KNOWN, None).unwrap(), Query::default());
        assert_eq!(Query::parse(KNOWN, Some("")).unwrap(), Query::default());
    }

    #[test]
    fn everything_else_is_400_and_named() {
        let rows = [
            ("pdo=a", "unknown parameter \"pdo\": this path takes pod, limit"),
            ("pod=a&pod=a", "parameter \"pod\" is given twice"),
            ("pod=", "parameter \"pod\" is empty: leave it out"),
            ("pod", "parameter \"pod\" is empty: leave it out"),
            ("pod=%zz", "the query's \"pod=%zz\" cannot be read"),
            ("pod=%ff", "the query's \"pod=%ff\" cannot be read"),
            ("limit=0", "parameter \"limit\": \"0\" is no whole number from 1 to 10"),
            ("limit=11", "parameter \"limit\": \"11\" is no whole number from 1 to 10"),
            ("limit=+5", "parameter \"limit\": \" 5\" is no whole number from 1 to 10"),
            ("limit=%2b5", "parameter \"limit\": \"+5\" is no whole number from 1 to 10"),
            ("limit=", "parameter \"limit\": \"\" is no whole number from 1 to 10"),
        ];
        for (text, detail) in rows {
            let problem = Query::parse(KNOWN, Some(text)).unwrap_err();
            assert_eq!((problem.status.as_u16(), &*problem.detail), (400, detail), "{text}");
        }
        let problem = Query::parse(&[], Some("x=1")).unwrap_err();
        assert_eq!(problem.detail, "unknown parameter \"x\": this path takes none");
    }
}
