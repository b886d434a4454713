//! Passwords that do not leak.

use std::fmt;

use zeroize::Zeroizing;

/// A password. It is wiped from memory when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a password.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the password. The caller prints and stores it nowhere.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Wraps the contents of a password file as restic reads it: without the line ends at its end.
    pub fn from_file_contents(contents: String) -> Self {
        Self::new(contents).strip_line_end()
    }

    /// Removes all line ends from the end, as restic does with a password file.
    #[must_use]
    pub fn strip_line_end(mut self) -> Self {
        let length = self.0.trim_end_matches(['\r', '\n']).len();
        self.0.truncate(length);
        self
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "***");
    }

    #[test]
    fn only_line_ends_at_the_end_are_removed() {
        assert_eq!(Secret::from_file_contents(" a\nb \r\n\n".to_owned()).expose(), " a\nb ");
    }
}
