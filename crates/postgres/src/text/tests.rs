//! Rows are split as servers write them, in pieces of any size, and everything else is refused.

use proptest::prelude::*;

use super::*;

type Values = Vec<Vec<Option<Vec<u8>>>>;

/// Reads rows that come in pieces of a size.
fn read(bytes: &[u8], columns: usize, size: usize) -> Result<Values, Malformed> {
    let mut rows = Rows::new(columns);
    let mut found = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        rows.push(piece, &mut |row| {
            found.push(row.values().map(|value| value.map(<[u8]>::to_vec)).collect());
            Ok(())
        })?;
    }
    let count = rows.finish()?;
    assert_eq!(count, found.len() as u64);
    Ok(found)
}

fn write(rows: &Values) -> Vec<u8> {
    let mut out = Vec::new();
    rows.iter().for_each(|row| push_row(&mut out, row.iter().map(Option::as_deref)));
    out
}

fn text(value: &str) -> Option<Vec<u8>> {
    Some(value.as_bytes().to_vec())
}

#[test]
fn null_is_told_from_an_empty_text_and_from_one_that_looks_like_it() {
    let rows = read(b"\\N\t\t\\\\N\nN\ta\\tb\t\\\\\\n\n", 3, 1).unwrap();
    assert_eq!(rows, [[None, text(""), text("\\N")], [text("N"), text("a\tb"), text("\\\n")]]);
}

#[test]
fn table_without_columns_has_rows() {
    assert_eq!(read(b"\n\n", 0, 1).unwrap(), vec![vec![], vec![]]);
    assert_eq!(write(&vec![vec![], vec![]]), b"\n\n");
    // With one column the same is an empty text.
    assert_eq!(read(b"\n", 1, 1).unwrap(), [[text("")]]);
}

#[test]
fn what_no_server_writes_is_refused_with_the_number_of_its_row() {
    let refused = |bytes: &[u8], columns| {
        let whole = read(bytes, columns, bytes.len()).unwrap_err();
        assert_eq!(read(bytes, columns, 1).unwrap_err(), whole);
        whole.to_string()
    };
    assert_eq!(refused(b"a\n", 2), "row 1: it has fewer values than the table has columns");
    assert_eq!(refused(b"a\nb\n\na\tb\n", 1), "row 4: it has more values than the table has columns");
    assert_eq!(refused(b"\n1\n", 0), "row 2: it has a value, but the table has no columns");
    assert_eq!(refused(b"a\n\\Nb\n", 1), "row 2: it has a value that begins as NULL");
    for odd in [&b"\\x41\n"[..], b"\\.\n", b"\\101\n", b"a\\N\n", b"\\\n\n", b"\\\t\n"] {
        assert_eq!(refused(odd, 1), "row 1: it has a backslash that stands for nothing");
    }
    for cut in [&b"a\nb"[..], b"a\n\\", b"a\n\\N"] {
        assert_eq!(refused(cut, 1), "row 2: it has no end");
    }
    assert_eq!(refused(b"a\t", 2), "row 1: it has no end");
}

#[test]
fn receiver_may_refuse_a_row() {
    let mut rows = Rows::new(1);
    let mut take = |row: Row<'_>| match row.values().next() {
        Some(Some(b"2")) => Err("it is two".into()),
        _ => Ok(()),
    };
    assert_eq!(rows.push(b"1\n2\n3\n", &mut take).unwrap_err().to_string(), "row 2: it is two");
}

/// Parts of a value come as they are found: what is read of a long value takes no memory here.
#[test]
fn value_comes_in_parts_before_its_end_is_seen() {
    struct Lengths(Vec<usize>);
    impl Events for Lengths {
        fn part(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
            self.0.push(bytes.len());
            Ok(())
        }
        fn end_value(&mut self, _: bool) -> Result<(), Refusal> {
            Ok(())
        }
        fn end_row(&mut self) -> Result<(), Refusal> {
            Ok(())
        }
    }
    let (mut reader, mut lengths) = (Reader::new(1), Lengths(Vec::new()));
    reader.push(&[b'a'; 1000], &mut lengths).unwrap();
    reader.push(b"\\", &mut lengths).unwrap();
    reader.push(b"nxy", &mut lengths).unwrap();
    assert_eq!(lengths.0, [1000, 1, 2]);
}

/// Values of bytes that are awkward more often than not.
fn values() -> impl Strategy<Value = Option<Vec<u8>>> {
    let byte = prop_oneof![4 => prop::sample::select(b"\\N\t\n\r\x08\x0b\x0c.btnrvfx".to_vec()), 1 => 1_u8..];
    prop::option::of(prop::collection::vec(byte, 0..12))
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_it_was(
        (columns, rows) in (0_usize..4).prop_flat_map(|columns| {
            (Just(columns), prop::collection::vec(prop::collection::vec(values(), columns), 0..6))
        }),
        size in 1_usize..40,
    ) {
        let bytes = write(&rows);
        prop_assert_eq!(read(&bytes, columns, size), Ok(rows));
    }

    #[test]
    fn what_is_read_is_written_as_it_was(
        bytes in prop::collection::vec(prop::sample::select(b"\\\\\\Nab\t\nrtnv\r.".to_vec()), 0..20),
        columns in 0_usize..3,
        size in 1_usize..8,
    ) {
        let whole = read(&bytes, columns, bytes.len());
        prop_assert_eq!(&read(&bytes, columns, size), &whole, "pieces do not matter");
        if let Ok(rows) = whole {
            let raw = bytes.iter().filter(|byte| **byte == b'\r').count();
            // A carriage return is always escaped by a server; here it stands raw and is written as servers do.
            prop_assert_eq!(write(&rows).len(), bytes.len() + raw);
        }
    }
}
