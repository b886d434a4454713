//! The hash of a database's objects, by which two moments are told apart.

use dbkeep_repo::Id;
use ring::digest::{Context as Digest, SHA256};

/// What is looked at of a line to tell what it is.
const JUDGED: usize = 1024;

/// Hashes objects as the text that `pg_dump` makes of them, without what is different in each rendering: the remarks about
/// versions in its heading, and the two lines with the key that keeps anything in it from being a command of `psql`.
///
/// Nothing else is left out. A line of a function may look the same.
pub(crate) struct ObjectHash {
    digest: Digest,
    /// The hash of earlier versions, from where it is another one. They left such lines out wherever they stood.
    earlier: Option<Digest>,
    /// The begin of a line that is not judged yet.
    line: Vec<u8>,
    /// How a line was judged whose end has not come.
    judged: Option<Judged>,
    in_heading: bool,
    /// What `\restrict` was given in the heading.
    key: Option<Vec<u8>>,
}

/// Whether a line counts.
#[derive(Clone, Copy)]
struct Judged {
    counts: bool,
    counted_earlier: bool,
}

impl Default for ObjectHash {
    fn default() -> Self {
        Self {
            digest: Digest::new(&SHA256),
            earlier: None,
            line: Vec::new(),
            judged: None,
            in_heading: true,
            key: None,
        }
    }
}

/// The hash of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectSum {
    hash: Id,
    earlier: Option<Id>,
}

impl ObjectSum {
    /// Says whether these are the objects that a manifest tells of, whichever version wrote it.
    pub(crate) fn is(self, expected: Id) -> bool {
        self.hash == expected || self.earlier == Some(expected)
    }
}

impl ObjectHash {
    /// Takes the next bytes. Of a long line no more than a piece is held.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ends = part.ends_with(b"\n");
            match self.judged {
                Some(judged) => self.add(part, judged),
                None => self.line.extend_from_slice(part),
            }
            if ends || self.line.len() >= JUDGED {
                self.end_begin();
            }
            if ends {
                self.judged = None;
            }
        }
    }

    /// Returns the hash for a manifest.
    pub(crate) fn finish(self) -> Id {
        self.sum().hash
    }

    /// Returns the hash for a comparison with a manifest.
    pub(crate) fn sum(mut self) -> ObjectSum {
        self.end_begin();
        let id =
            |digest: Digest| Id::new(digest.finish().as_ref().try_into().expect("a SHA-256 has 32 bytes"));
        ObjectSum { hash: id(self.digest), earlier: self.earlier.map(id) }
    }

    /// Judges the line whose begin is held.
    fn end_begin(&mut self) {
        if self.judged.is_none() && !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            let judged = self.judge(&line);
            if judged.counts != judged.counted_earlier && self.earlier.is_none() {
                self.earlier = Some(self.digest.clone());
            }
            self.add(&line, judged);
            self.judged = Some(judged);
        }
    }

    fn judge(&mut self, line: &[u8]) -> Judged {
        let looks_different = [&b"\\restrict "[..], b"\\unrestrict ", b"-- Dumped "]
            .iter()
            .any(|start| line.starts_with(start));
        Judged { counts: !self.is_different(line), counted_earlier: !looks_different }
    }

    /// Says whether a line is different in each rendering.
    fn is_different(&mut self, line: &[u8]) -> bool {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if !self.in_heading {
            let key = text.strip_prefix(b"\\unrestrict ");
            return key.is_some() && key == self.key.as_deref();
        }
        if text.starts_with(b"-- Dumped ") {
            return true;
        }
        if let Some(key) = text.strip_prefix(b"\\restrict ").filter(|_| self.key.is_none()) {
            self.key = Some(key.to_vec());
            return true;
        }
        // The heading is of remarks and empty lines; the first statement ends it.
        self.in_heading = text.is_empty() || text.starts_with(b"--");
        false
    }

    fn add(&mut self, bytes: &[u8], judged: Judged) {
        if judged.counts {
            self.digest.update(bytes);
        }
        if let Some(earlier) = self.earlier.as_mut().filter(|_| judged.counted_earlier) {
            earlier.update(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes a text that comes in pieces of some length.
    fn sum(text: &str, length: usize) -> ObjectSum {
        let mut hash = ObjectHash::default();
        text.as_bytes().chunks(length).for_each(|piece| hash.update(piece));
        hash.sum()
    }

    /// Returns what `pg_dump` makes of a database.
    fn rendered(key: &str, version: &str, body: &str) -> String {
        format!(
            "--\n-- PostgreSQL database dump\n--\n\n\\restrict {key}\n\n-- Dumped from database version {version}\n\
             -- Dumped by pg_dump version {version}\n\nSET a = 0;\n\n{body}\n--\n-- PostgreSQL database dump complete\n\
             --\n\n\\unrestrict {key}\n\n"
        )
    }

    /// Returns the hash of what earlier versions hashed.
    fn earlier(text: &str) -> Id {
        let starts = ["\\restrict ", "\\unrestrict ", "-- Dumped "];
        let lines =
            text.split_inclusive('\n').filter(|line| !starts.iter().any(|start| line.starts_with(start)));
        Id::of(lines.collect::<String>().as_bytes())
    }

    #[test]
    fn each_rendering_has_the_same_hash_however_it_comes() {
        let text = rendered("abc", "15.1", "CREATE TABLE a();\n");
        let one = sum(&text, 1);
        assert_eq!(one, sum(&rendered("xyz", "18", "CREATE TABLE a();\n"), 7));
        assert_eq!(one, ObjectSum { hash: earlier(&text), earlier: None }, "earlier versions had the same");
        assert_ne!(one, sum(&rendered("abc", "15.1", "CREATE TABLE b();\n"), 7));
        for length in [2, 3, 1000, 1024, 5000] {
            assert_eq!(sum(&text, length), one, "{length}");
        }
    }

    #[test]
    fn line_of_a_definition_counts_whatever_it_looks_like() {
        let plain = rendered("abc", "15.1", "CREATE FUNCTION f() AS $$\n$$;\n");
        for line in ["-- Dumped 1 row", "\\restrict x", "\\unrestrict x", "-- Dumped "] {
            let body = format!("CREATE FUNCTION f() AS $$\n{line}\n$$;\n");
            let text = rendered("abc", "15.1", &body);
            for length in [1, 10, 5000] {
                let found = sum(&text, length);
                assert_ne!(found.hash, sum(&plain, 64).hash, "{line}");
                assert_eq!(found.hash, sum(&rendered("k", "16", &body), 64).hash, "{line}");
                assert!(found.is(found.hash));
                assert!(found.is(earlier(&text)), "a snapshot of an earlier version is what it was");
                assert!(!found.is(Id::of(b"")));
            }
            assert!(!sum(&plain, 64).is(found_hash(&text)), "a line that is gone is missed");
        }
    }

    fn found_hash(text: &str) -> Id {
        sum(text, 4096).hash
    }

    #[test]
    fn long_line_is_hashed_and_not_held() {
        for start in ["", "-- Dumped ", "SELECT "] {
            let body = format!("{start}{}\nx\n", "y".repeat(3 << 20));
            let text = rendered("abc", "15.1", &body);
            let mut hash = ObjectHash::default();
            for piece in text.as_bytes().chunks(4096) {
                hash.update(piece);
                assert!(hash.line.capacity() <= 3 * 4096, "{}", hash.line.capacity());
            }
            let found = hash.sum();
            assert!(found.is(earlier(&text)), "{start}");
            assert_eq!(found, sum(&text, 7), "{start}");
        }
    }

    #[test]
    fn last_line_needs_no_end() {
        assert_eq!(sum("SET a = 0;", 3).hash, Id::of(b"SET a = 0;"));
        assert_eq!(sum("", 3).hash, Id::of(b""));
    }
}
