//! Where a statement ends.
//!
//! A semicolon ends it, except within a quoted text or name, a comment, or the body of a trigger, which ends with
//! `END` after a semicolon. These are the rules of `sqlite3_complete`.

/// Follows SQL text line by line.
#[derive(Debug, Default)]
pub struct Splitter {
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

/// What stands between a line of a schema and a text that is that statement and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// Nothing: this closes the comment that it may end in, and then a semicolon ends it.
    Closed(&'static str),
    /// There is more behind the end of the statement, or its end is missing.
    More,
    /// The program `sqlite3` takes one of its lines for the end of the statement.
    Cut,
}

/// Says whether SQL text is one statement, with nothing behind its end.
///
/// A program that runs the schema of a hostile database as text would run what follows too.
pub fn single(sql: &str) -> Single {
    let mut splitter = Splitter::default();
    let mut is_over = false;
    for (number, line) in sql.split_inclusive('\n').enumerate() {
        if number > 0 && splitter.inside == Inside::Nothing && ends_for_the_program(line) {
            return Single::Cut;
        }
        for byte in line.bytes() {
            if is_over && !byte.is_ascii_whitespace() {
                return Single::More;
            }
            splitter.byte(byte);
            is_over |= byte == b';' && splitter.inside == Inside::Nothing && splitter.words == Words::None;
        }
    }
    splitter.end_word();
    match (splitter.inside, splitter.words) {
        // A trigger without its end swallows what follows.
        (Inside::Quotes(_), _) | (_, Words::Trigger | Words::Semicolon) => Single::More,
        (Inside::Nothing, _) => Single::Closed(""),
        // SQLite keeps a comment behind a view or an index, and does not ask for its end.
        (Inside::Line, _) => Single::Closed("\n"),
        (Inside::Block, _) => Single::Closed("*/"),
    }
}

/// Says whether a line means the end of a statement to the program `sqlite3`, as it does to those of other makers:
/// a slash or `go`, and behind it nothing but comments.
fn ends_for_the_program(line: &str) -> bool {
    let line = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let is_go = line.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("go"));
    let rest = match (line.strip_prefix('/'), is_go) {
        (Some(rest), _) => rest,
        (None, true) => &line[2..],
        (None, false) => return false,
    };
    let mut splitter = Splitter::default();
    let is_comment = rest.bytes().all(|byte| {
        let is_end = byte == b';' && splitter.inside == Inside::Nothing;
        splitter.byte(byte);
        !is_end
    });
    is_comment && splitter.feed(b"") && !rest.starts_with('*')
}

/// Says whether a word stands in SQL text outside of quotes and comments; `word` is in capitals.
pub fn has_word(sql: &str, word: &str) -> bool {
    let mut splitter = Splitter::default();
    // The end of a word shows only at what follows it.
    sql.bytes().chain([b' ']).any(|byte| {
        let is_end = splitter.inside == Inside::Nothing && !is_of_word(byte);
        let found = is_end && splitter.word == word.as_bytes();
        splitter.byte(byte);
        found
    })
}

/// Says whether a carriage return stands at the end of a line within a quoted text or name of SQL text.
pub fn has_quoted_return(sql: &str) -> bool {
    let mut splitter = Splitter::default();
    sql.bytes().any(|byte| {
        let found = (splitter.last, byte) == (b'\r', b'\n') && matches!(splitter.inside, Inside::Quotes(_));
        splitter.byte(byte);
        found
    })
}

/// Says whether a byte can be part of a word.
fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

impl Splitter {
    /// Takes a line with its end. Says whether a statement, or several, end with it.
    pub fn feed(&mut self, line: &[u8]) -> bool {
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
        if is_of_word(byte) {
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
        for (sql, closing) in [
            ("CREATE TABLE t(a)", ""),
            ("CREATE TABLE t(a);", ""),
            ("CREATE TABLE t(a DEFAULT ';' /* ; */) \n", ""),
            ("CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; SELECT 2; END", ""),
            ("CREATE TABLE t(a -- ;\n)", ""),
            ("CREATE VIEW v AS SELECT 1 -- and", "\n"),
            ("CREATE VIEW v AS SELECT 1 /* and *", "*/"),
        ] {
            assert_eq!(single(sql), Single::Closed(closing), "{sql}");
        }
        for sql in [
            "CREATE TABLE t(a);\n.shell echo",
            "CREATE TABLE t(a); DROP TABLE u",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; SELECT 2",
            "CREATE TABLE t(a DEFAULT 'x",
            "CREATE TABLE t(a); -- and",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1;",
        ] {
            assert_eq!(single(sql), Single::More, "{sql}");
        }
    }

    #[test]
    fn line_at_which_the_program_ends_a_statement_is_noticed() {
        for line in ["/", " / ", "GO", "go\r", "/ -- half; way", "go /* now */ "] {
            let sql = format!("CREATE VIEW v AS SELECT 4\n{line}\n.5, t\n.shell FROM t");
            assert_eq!(single(&sql), Single::Cut, "{line}");
            let quoted = format!("CREATE VIEW v AS SELECT '\n{line}\n'");
            assert_eq!(single(&quoted), Single::Closed(""), "{line}");
        }
        for line in ["/*", "*/ /", "going", "go,", "/ 2", "// x", "goals = 1"] {
            let sql = format!("CREATE VIEW v AS SELECT 4\n{line}\n2");
            assert_ne!(single(&sql), Single::Cut, "{line}");
            let sql = format!("CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 4\n{line};\nEND");
            assert_ne!(single(&sql), Single::Cut, "{line}");
        }
    }

    #[test]
    fn words_are_found_outside_of_quotes_and_comments() {
        let word = "AUTOINCREMENT";
        for sql in ["a INTEGER PRIMARY KEY autoincrement)", "a AUTOINCREMENT"] {
            assert!(has_word(sql, word), "{sql}");
        }
        for sql in [
            "a -- AUTOINCREMENT\n",
            "\"AUTOINCREMENT\"",
            "AUTOINCREMENTS",
            "NO_AUTOINCREMENT",
            "/* AUTOINCREMENT",
        ] {
            assert!(!has_word(sql, word), "{sql}");
        }
    }

    #[test]
    fn returns_at_line_ends_matter_in_quotes() {
        assert!(has_quoted_return("DEFAULT 'a\r\nb'"));
        assert!(!has_quoted_return("(\r\n a DEFAULT 'a\rb\n'\r\n)"));
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
