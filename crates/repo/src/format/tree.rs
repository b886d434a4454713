//! Trees: the directories in a snapshot, as JSON in exactly the form that restic writes.
//!
//! Source: restic's design document, "Trees and Data", and the JSON of Go: restic compares what it
//! reads with what it would write. Nodes are sorted by name; the text ends with a line end; `<`, `>`
//! and `&` are escaped; a name is quoted as Go quotes strings before it becomes JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FormatError, FormatResult, null_as_default};
use crate::Id;

/// A directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// What is in it.
    pub nodes: Vec<Node>,
}

/// The bit with which Go marks the mode of a directory.
pub const MODE_DIRECTORY: u32 = 1 << 31;

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name. Bytes that are not UTF-8 appear as `\u{fffd}` when read.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Permissions, and Go's bits for the kind.
    pub mode: u32,
    /// When the contents changed.
    pub mtime: Timestamp,
    /// When it was last read.
    pub atime: Timestamp,
    /// When its metadata changed.
    pub ctime: Timestamp,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The owner's name.
    pub user: String,
    /// The group's name.
    pub group: String,
    /// The size of a file in bytes.
    pub size: u64,
    /// The number of hard links.
    pub links: u64,
    /// The blobs of a file, in order.
    pub content: Option<Vec<Id>>,
    /// The tree of a directory.
    pub subtree: Option<Id>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// Anything else that restic knows, under its word for it.
    Other(String),
}

impl NodeKind {
    fn word(&self) -> &str {
        match self {
            Self::File => "file",
            Self::Directory => "dir",
            Self::Other(word) => word,
        }
    }

    fn of(word: String) -> Self {
        match word.as_str() {
            "file" => Self::File,
            "dir" => Self::Directory,
            _ => Self::Other(word),
        }
    }
}

impl Node {
    /// Makes a file of mode 0600 with the given blobs.
    pub fn file(name: &str, mtime: Timestamp, size: u64, content: Vec<Id>) -> Self {
        Self {
            kind: NodeKind::File,
            mode: 0o600,
            size,
            links: 1,
            content: Some(content),
            ..Self::new(name, mtime)
        }
    }

    /// Makes a directory of mode 0700.
    pub fn directory(name: &str, mtime: Timestamp, subtree: Id) -> Self {
        Self {
            kind: NodeKind::Directory,
            mode: MODE_DIRECTORY | 0o700,
            subtree: Some(subtree),
            ..Self::new(name, mtime)
        }
    }

    fn new(name: &str, mtime: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            kind: NodeKind::File,
            mode: 0,
            mtime,
            atime: mtime,
            ctime: mtime,
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            size: 0,
            links: 0,
            content: None,
            subtree: None,
        }
    }

    /// Says whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == NodeKind::Directory
    }
}

/// A node as the JSON has it. The order of the fields is restic's.
#[derive(Serialize, Deserialize)]
struct NodeJson {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "super::is_zero")]
    mode: u32,
    #[serde(default)]
    mtime: GoTime,
    #[serde(default)]
    atime: GoTime,
    #[serde(default)]
    ctime: GoTime,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    size: u64,
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    links: u64,
    #[serde(default)]
    content: Option<Vec<Id>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subtree: Option<Id>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

/// A time of which Go's zero is the default.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct GoTime(Timestamp);

impl Default for GoTime {
    fn default() -> Self {
        // 0001-01-01T00:00:00Z
        Self(Timestamp::from_second(-62_135_596_800).expect("the year 1 is a valid time"))
    }
}

#[derive(Deserialize)]
struct TreeJson {
    #[serde(deserialize_with = "null_as_default")]
    nodes: Vec<NodeJson>,
}

impl Tree {
    /// Returns the JSON, nodes sorted by name, of which the SHA-256 is the tree's id.
    ///
    /// Two nodes of the same name, and a name that is no name of a directory entry, are errors.
    pub fn encode(&self) -> FormatResult<Vec<u8>> {
        let mut nodes: Vec<&Node> = self.nodes.iter().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = nodes.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(FormatError::new(format!("two entries are named {:?}", pair[0].name)));
        }
        let mut json = b"{\"nodes\":[".to_vec();
        for (position, node) in nodes.into_iter().enumerate() {
            if !is_entry_name(&node.name) {
                return Err(FormatError::new(format!("{:?} is no name for an entry", node.name)));
            }
            if position > 0 {
                json.push(b',');
            }
            serde_json::to_writer(&mut json, &to_json(node))?;
        }
        json.extend_from_slice(b"]}\n");
        Ok(escape_as_go(json))
    }

    /// Reads the JSON. Names that could leave a directory are errors.
    pub fn decode(json: &[u8]) -> FormatResult<Self> {
        let tree: TreeJson = serde_json::from_slice(json)?;
        let nodes = tree.nodes.into_iter().map(from_json).collect::<FormatResult<_>>()?;
        Ok(Self { nodes })
    }

    /// Returns the entry of that name.
    pub fn find(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

fn to_json(node: &Node) -> NodeJson {
    NodeJson {
        name: quote(&node.name),
        kind: node.kind.word().to_owned(),
        mode: node.mode,
        mtime: GoTime(node.mtime),
        atime: GoTime(node.atime),
        ctime: GoTime(node.ctime),
        uid: node.uid,
        gid: node.gid,
        user: node.user.clone(),
        group: node.group.clone(),
        size: node.size,
        links: node.links,
        content: node.content.clone(),
        subtree: node.subtree,
    }
}

fn from_json(node: NodeJson) -> FormatResult<Node> {
    let name = unquote(&node.name)?;
    if !is_entry_name(&name) {
        return Err(FormatError::new(format!("{name:?} is no name for an entry")));
    }
    Ok(Node {
        name,
        kind: NodeKind::of(node.kind),
        mode: node.mode,
        mtime: node.mtime.0,
        atime: node.atime.0,
        ctime: node.ctime.0,
        uid: node.uid,
        gid: node.gid,
        user: node.user,
        group: node.group,
        size: node.size,
        links: node.links,
        content: node.content,
        subtree: node.subtree,
    })
}

fn is_entry_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Escapes what Go's JSON escapes and ours does not. These characters occur in strings only.
fn escape_as_go(json: Vec<u8>) -> Vec<u8> {
    // U+2028 and U+2029 are e2 80 a8 and e2 80 a9.
    let is_special = |position: usize| match json[position] {
        b'<' | b'>' | b'&' => true,
        0xe2 => matches!(json.get(position + 1..position + 3), Some([0x80, 0xa8 | 0xa9])),
        _ => false,
    };
    if !(0..json.len()).any(is_special) {
        return json;
    }
    let mut out = Vec::with_capacity(json.len() + 64);
    let mut position = 0;
    while position < json.len() {
        if !is_special(position) {
            out.push(json[position]);
            position += 1;
        } else if json[position] == 0xe2 {
            let last = json[position + 2] - 0x80;
            out.extend_from_slice(format!("\\u20{last:02x}").as_bytes());
            position += 3;
        } else {
            out.extend_from_slice(format!("\\u{:04x}", json[position]).as_bytes());
            position += 1;
        }
    }
    out
}

/// Quotes a name as Go's `strconv.Quote`, without the quotes around it.
fn quote(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(character))),
            ' '..='~' => out.push(character),
            _ if is_printable(character) => out.push(character),
            '\u{80}'..='\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(character))),
        }
    }
    out
}

/// Says whether Go prints a character beyond ASCII as it is: letters, marks, numbers, punctuation and
/// symbols, but no controls, no formats and no spaces.
fn is_printable(character: char) -> bool {
    let is_format = matches!(character,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{e007f}'
        | '\u{f0000}'..='\u{10ffff}');
    !character.is_control() && !character.is_whitespace() && !is_format
}

/// Reverses [`quote`], and everything else that Go's `strconv.Unquote` accepts.
fn unquote(text: &str) -> FormatResult<String> {
    if !text.contains(['\\', '"', '\n']) {
        return Ok(text.to_owned());
    }
    let bad = || FormatError::new(format!("the name {text:?} is not quoted as it should be"));
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match character {
            '"' | '\n' => return Err(bad()),
            '\\' => rest = unquote_escape(rest, &mut out).ok_or_else(bad)?,
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Reads what follows a backslash, appends what it means, and returns the rest.
fn unquote_escape<'a>(text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
    let kind = text.bytes().next()?;
    let (digits, radix, skip) = match kind {
        b'x' => (2, 16, 1),
        b'u' => (4, 16, 1),
        b'U' => (8, 16, 1),
        b'0'..=b'7' => (3, 8, 0),
        _ => {
            out.push(match kind {
                b'a' => 7,
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                b'\\' | b'"' => kind,
                _ => return None,
            });
            return text.get(1..);
        }
    };
    let number = text.get(skip..skip + digits)?;
    if !number.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let value = u32::from_str_radix(number, radix).ok()?;
    if matches!(kind, b'u' | b'U') {
        let character = char::from_u32(value)?;
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        out.push(u8::try_from(value).ok()?);
    }
    text.get(skip + digits..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_is_written_exactly_as_restic_writes_it() {
        let mtime = "2014-12-22T14:47:59.9124187Z".parse().unwrap();
        let id = Id::of(b"");
        let tree = Tree {
            nodes: vec![
                Node::file("b<&>\u{2028}", mtime, 1234, vec![id]),
                Node { user: "fd0".to_owned(), ..Node::directory("a", mtime, id) },
            ],
        };
        let times = r#""mtime":"2014-12-22T14:47:59.9124187Z","atime":"2014-12-22T14:47:59.9124187Z","ctime":"2014-12-22T14:47:59.9124187Z""#;
        let expected = format!(
            "{{\"nodes\":[{{\"name\":\"a\",\"type\":\"dir\",\"mode\":2147484096,{times},\"uid\":0,\"gid\":0,\"user\":\"fd0\",\"content\":null,\"subtree\":\"{id}\"}},\
             {{\"name\":\"b\\u003c\\u0026\\u003e\\\\u2028\",\"type\":\"file\",\"mode\":384,{times},\"uid\":0,\"gid\":0,\"size\":1234,\"links\":1,\"content\":[\"{id}\"]}}]}}\n"
        );
        assert_eq!(String::from_utf8(tree.encode().unwrap()).unwrap(), expected);
        let mut read = Tree::decode(expected.as_bytes()).unwrap();
        read.nodes.reverse();
        assert_eq!(read, tree);
    }

    #[test]
    fn empty_tree_is_written_as_restic_writes_it() {
        assert_eq!(Tree::default().encode().unwrap(), b"{\"nodes\":[]}\n");
        assert_eq!(Tree::decode(b"{\"nodes\":null}").unwrap(), Tree::default());
    }

    #[test]
    fn odd_names_are_quoted_and_read_back() {
        for name in
            ["a\"b\\c", "\x07\x08\x0c\n\r\t\x0b\x01\x7f", "é€😀", "\u{ad}\u{feff}\u{a0}", "😀\u{f0000}"]
        {
            assert_eq!(unquote(&quote(name)).unwrap(), name, "{name:?}");
        }
        assert_eq!(quote("\x01\u{ad}é\u{f0000}"), "\\x01\\u00adé\\U000f0000");
        assert_eq!(unquote("\\xff\\101").unwrap(), "\u{fffd}A");
        for bad in ["\\", "\\q", "\\x1", "\\u12", "\\ud800", "\\400", "\\x+1", "\"", "a\nb", "\\xé"] {
            assert!(unquote(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "/", "a\\x00b", "\\x2fetc"] {
            let json = format!(r#"{{"nodes":[{{"name":{},"type":"file"}}]}}"#, serde_json::json!(name));
            assert!(Tree::decode(json.as_bytes()).is_err(), "{name:?}");
        }
        let tree = Tree { nodes: vec![Node::directory("..", Timestamp::UNIX_EPOCH, Id::NULL)] };
        assert!(tree.encode().is_err());
    }

    #[test]
    fn two_entries_of_one_name_are_refused() {
        let node = Node::directory("a", Timestamp::UNIX_EPOCH, Id::NULL);
        assert!(Tree { nodes: vec![node.clone(), node] }.encode().is_err());
    }

    #[test]
    fn unknown_fields_and_missing_times_are_tolerated() {
        let json = br#"{"nodes":[{"name":"l","type":"symlink","linktarget":"x","extended_attributes":[{"name":"a","value":"eA=="}]}]}"#;
        let tree = Tree::decode(json).unwrap();
        assert_eq!(tree.nodes[0].kind, NodeKind::Other("symlink".to_owned()));
        assert_eq!(tree.nodes[0].mtime.to_string(), "0001-01-01T00:00:00Z");
        assert!(tree.find("l").is_some() && tree.find("m").is_none());
    }
}
