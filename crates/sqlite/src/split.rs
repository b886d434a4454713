//! Where a statement ends.
//!
//! A semicolon ends it, except within a quoted text or name, a comment, or the body of a trigger, which ends with
//! `END` after a semicolon. These are the rules of `sqlite3_complete`.

/// Follows SQL text line by line.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    inside: Inside,
    words: Words,
    word: Vec<u8>,
    last: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Inside {
    #[default]
    Nothing,
    /// A text or a name, up to this byte.
    Quotes(u8),
    Line,
    Block,
}

/// How far the words of a statement have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Words {
    #[default]
    None,
    Create,
    Other,
    Trigger,
    /// A semicolon in a trigger.
    Semicolon,
    /// `END` after it.
    End,
}

/// Says whether SQL text is one statement, with nothing behind its end.
///
/// A program that runs the schema of a hostile database as text would run what follows too.
pub(crate) fn is_one_statement(sql: &str) -> bool {
    let mut splitter = Splitter::default();
    let mut is_over = false;
    for byte in sql.bytes() {
        if is_over && !byte.is_ascii_whitespace() {
            return false;
        }
        splitter.byte(byte);
        is_over |= byte == b';' && splitter.inside == Inside::Nothing && splitter.words == Words::None;
    }
    // Closed quotes and comments: else what follows in a file would be part of it.
    matches!(splitter.inside, Inside::Nothing)
}

impl Splitter {
    /// Takes a line with its end. Says whether a statement, or several, end with it.
    pub(crate) fn feed(&mut self, line: &[u8]) -> bool {
        for byte in line {
            self.byte(*byte);
        }
        // A word may not go on in the next line.
        self.end_word();
        self.words == Words::None && matches!(self.inside, Inside::Nothing | Inside::Line)
    }

    fn byte(&mut self, byte: u8) {
        let last = std::mem::replace(&mut self.last, byte);
        match self.inside {
            Inside::Quotes(end) => {
                if byte == end {
                    self.inside = Inside::Nothing;
                }
            }
            Inside::Line => {
                if byte == b'\n' {
                    self.inside = Inside::Nothing;
                }
            }
            Inside::Block => {
                if (last, byte) == (b'*', b'/') {
                    self.inside = Inside::Nothing;
                    self.last = 0;
                }
            }
            Inside::Nothing => self.plain(last, byte),
        }
    }

    fn plain(&mut self, last: u8, byte: u8) {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 {
            self.word.push(byte.to_ascii_uppercase());
            return;
        }
        self.end_word();
        match (last, byte) {
            (b'-', b'-') => self.inside = Inside::Line,
            (b'/', b'*') => {
                self.inside = Inside::Block;
                self.last = 0;
            }
            (_, b'\'' | b'"' | b'`') => self.quotes(byte),
            (_, b'[') => self.quotes(b']'),
            (_, b';') => {
                self.words = match self.words {
                    Words::Trigger | Words::Semicolon => Words::Semicolon,
                    _ => Words::None,
                }
            }
            (_, b'-' | b'/') => {}
            (_, byte) if byte.is_ascii_whitespace() => {}
            _ => self.other(),
        }
    }

    fn quotes(&mut self, end: u8) {
        self.inside = Inside::Quotes(end);
        self.other();
    }

    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let word = std::mem::take(&mut self.word);
        self.words = match (self.words, word.as_slice()) {
            (Words::None, b"CREATE") => Words::Create,
            (Words::None, b"EXPLAIN") => Words::None,
            (Words::Create, b"TEMP" | b"TEMPORARY") => Words::Create,
            (Words::Create, b"TRIGGER") => Words::Trigger,
            (Words::Semicolon, b"END") => Words::End,
            (Words::Trigger | Words::Semicolon | Words::End, _) => Words::Trigger,
            _ => Words::Other,
        };
    }

    /// Takes something that is no word.
    fn other(&mut self) {
        self.words = match self.words {
            Words::Trigger | Words::Semicolon | Words::End => Words::Trigger,
            _ => Words::Other,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(text: &str) -> bool {
        let mut splitter = Splitter::default();
        text.split_inclusive('\n').map(|line| splitter.feed(line.as_bytes())).last().unwrap_or(false)
    }

    #[test]
    fn statement_ends_at_its_own_semicolon() {
        for text in [
            "SELECT 1;",
            "SELECT ';' ;",
            "SELECT 'it''s;' AS \"a;b\", `c;`, [d;];",
            "SELECT 1 -- no; \n ;",
            "SELECT /* ; */ 1; -- behind",
            "SELECT 'a\nb';\n",
            "SELECT 4-2;",
            "SELECT 4/2;",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END;",
            "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE WHEN 1 THEN 2 END; END ;",
            "create trigger t after insert on a\nbegin\n  select 1; -- x\nend;\n",
        ] {
            assert!(ends(text), "{text}");
        }
    }

    #[test]
    fn text_behind_a_statement_is_noticed() {
        for sql in [
            "CREATE TABLE t(a)",
            "CREATE TABLE t(a);",
            "CREATE TABLE t(a DEFAULT ';' /* ; */) \n",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; SELECT 2; END",
            "CREATE TABLE t(a -- ;\n)",
        ] {
            assert!(is_one_statement(sql), "{sql}");
        }
        for sql in [
            "CREATE TABLE t(a);\n.shell echo",
            "CREATE TABLE t(a); DROP TABLE u",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; SELECT 2",
            "CREATE TABLE t(a) /*",
            "CREATE TABLE t(a) -- and",
            "CREATE TABLE t(a DEFAULT 'x",
        ] {
            assert!(!is_one_statement(sql), "{sql}");
        }
    }

    #[test]
    fn statement_goes_on_within_quotes_comments_and_triggers() {
        for text in [
            "SELECT 1",
            "SELECT 'a;",
            "SELECT 'a;\nb",
            "SELECT 1 -- ;",
            "SELECT 1 /* ; ",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1;",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE WHEN 1 THEN 2 END;",
            "SELECT \"a;",
        ] {
            assert!(!ends(text), "{text}");
        }
    }
}
