//! What somebody says that a restored database answers.

use std::str::FromStr;

use crate::report::TriedAssertion;
use crate::{Error, Result};

/// A query that gives one value, and that value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// The query.
    pub sql: String,
    /// The value as text; `NULL` for none.
    pub expected: String,
}

impl FromStr for Assertion {
    type Err = Error;

    /// Reads `QUERY=EXPECTED`: the last `=` is the one between them, and spaces around it do not count.
    fn from_str(text: &str) -> Result<Self> {
        let parts = text.rsplit_once('=').map(|(sql, expected)| (sql.trim(), expected.trim()));
        match parts {
            Some((sql, expected)) if !sql.is_empty() => {
                Ok(Self { sql: sql.to_owned(), expected: expected.to_owned() })
            }
            _ => Err(Error::usage(
                format!("{text:?} is no query with its answer"),
                "write QUERY=EXPECTED, as in \"SELECT count(*) FROM users=11\"",
            )),
        }
    }
}

/// What a query came to.
pub(crate) enum Answer {
    /// One value; none where it is NULL.
    Value(Option<String>),
    /// Something that is no single value, or an error, in words.
    Not(String),
}

impl Assertion {
    /// Compares an answer with what is expected.
    pub(super) fn judge(&self, answer: Answer) -> TriedAssertion {
        let (found, ok) = match answer {
            Answer::Value(value) => {
                let value = value.unwrap_or_else(|| "NULL".to_owned());
                let same = value == self.expected;
                (value, same)
            }
            Answer::Not(why) => (why, false),
        };
        TriedAssertion { sql: self.sql.clone(), expected: self.expected.clone(), found, ok }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_equals_sign_stands_before_the_answer() {
        let read = |text: &str| text.parse::<Assertion>().map(|read| (read.sql, read.expected));
        let pair = |sql: &str, expected: &str| (sql.to_owned(), expected.to_owned());
        assert_eq!(read("SELECT count(*) FROM users=11").unwrap(), pair("SELECT count(*) FROM users", "11"));
        let text = "SELECT count(*) FROM users WHERE name = 'x' = 0 ";
        assert_eq!(read(text).unwrap(), pair("SELECT count(*) FROM users WHERE name = 'x'", "0"));
        assert_eq!(read("SELECT name FROM t=").unwrap(), pair("SELECT name FROM t", ""));
        for text in ["SELECT 1", "", "=1"] {
            let error = read(text).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(error.hint().unwrap().contains("QUERY=EXPECTED"));
        }
    }

    #[test]
    fn answer_that_is_no_value_is_never_right() {
        let assertion: Assertion = "SELECT a FROM t = NULL".parse().unwrap();
        assert!(assertion.judge(Answer::Value(None)).ok);
        assert!(!assertion.judge(Answer::Value(Some("1".to_owned()))).ok);
        assert!(!assertion.judge(Answer::Not("NULL".to_owned())).ok);
    }
}
