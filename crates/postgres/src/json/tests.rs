//! Rows become JSON and come back as they were; what cannot be either is refused.

use proptest::prelude::*;

use super::*;
use crate::catalog::Column;
use crate::text::{Malformed, push_row};

fn column(name: &str, type_name: &str) -> Column {
    Column { name: name.to_owned(), type_name: type_name.to_owned(), ..Column::default() }
}

fn columns(names: &[&str]) -> Vec<Column> {
    names.iter().map(|name| column(name, "text")).collect()
}

fn encode_with(mut encoder: Encoder, copy: &[u8], size: usize) -> Result<String, Malformed> {
    let mut out = Vec::new();
    for piece in copy.chunks(size.max(1)) {
        encoder.push(piece, &mut out)?;
    }
    encoder.finish()?;
    Ok(String::from_utf8(out).unwrap())
}

fn encode(columns: &[Column], copy: &[u8], size: usize) -> Result<String, Malformed> {
    encode_with(Encoder::lossless(columns, Layout::lines()), copy, size)
}

fn decode(columns: &[Column], lines: &[u8], size: usize) -> Result<Vec<u8>, Malformed> {
    let (mut decoder, mut out) = (Decoder::new(columns), Vec::new());
    for piece in lines.chunks(size.max(1)) {
        decoder.push(piece, &mut out)?;
    }
    decoder.finish()?;
    Ok(out)
}

#[test]
fn row_is_an_object_of_strings_and_nulls_on_a_line_of_its_own() {
    let columns = columns(&["id", "a \"b\"\n", "ä"]);
    let copy = "1\t\\N\té\\t\\\\\"\\n\\v\x01\n\t\\\\N\tx\n".as_bytes();
    let lines = concat!(
        "{\"id\":\"1\",\"a \\\"b\\\"\\n\":null,\"ä\":\"é\\t\\\\\\\"\\n\\u000b\\u0001\"}\n",
        "{\"id\":\"\",\"a \\\"b\\\"\\n\":\"\\\\N\",\"ä\":\"x\"}\n"
    );
    for size in [1, 2, 3, 1000] {
        assert_eq!(encode(&columns, copy, size).unwrap(), lines);
        assert_eq!(decode(&columns, lines.as_bytes(), size).unwrap(), copy);
    }
}

#[test]
fn columns_that_are_computed_have_no_key_and_tables_without_columns_have_rows() {
    let mut some = columns(&["a", "b", "c"]);
    some[1].generated = true;
    assert_eq!(encode(&some, b"1\t2\n", 9).unwrap(), "{\"a\":\"1\",\"c\":\"2\"}\n");
    assert_eq!(decode(&some, b"{\"a\":\"1\",\"c\":\"2\"}\n", 9).unwrap(), b"1\t2\n");
    assert_eq!(encode(&[], b"\n\n", 9).unwrap(), "{}\n{}\n");
    assert_eq!(decode(&[], b"{}\n{ }\n", 1).unwrap(), b"\n\n");
}

#[test]
fn bytes_that_are_not_utf_8_are_refused_in_both_directions() {
    let columns = columns(&["a"]);
    for odd in [&b"\xff"[..], b"a\xc3", b"\xc3\x28", b"\xed\xa0\x80"] {
        for size in [1, 9] {
            let copy = [odd, b"\n"].concat();
            assert_eq!(
                encode(&columns, &copy, size).unwrap_err().to_string(),
                "row 1: it has a text that is not UTF-8"
            );
            let line = [b"{\"a\":\"", odd, b"\"}\n"].concat();
            assert_eq!(
                decode(&columns, &line, size).unwrap_err().to_string(),
                "row 1: it has a text that is not UTF-8"
            );
        }
    }
    assert_eq!(encode(&columns, b"a\0b\n", 9).unwrap_err().to_string(), "row 1: it has a zero byte");
}

#[test]
fn lines_that_other_programs_wrote_are_read() {
    let columns = columns(&["a", "b"]);
    let lines = " { \"\\u0061\" : \"\\u00e9\\ud83d\\ude00\\/\\b\\f\" ,\t\"b\": null } \r\n{\"a\":\"\u{1f600}\",\"b\":\"\"}";
    for size in [1, 5, 1000] {
        let copy = decode(&columns, lines.as_bytes(), size).unwrap();
        assert_eq!(String::from_utf8(copy).unwrap(), "é😀/\\b\\f\t\\N\n😀\t\n");
    }
}

#[test]
fn lines_that_are_no_such_rows_are_refused_with_the_number_and_the_reason() {
    let columns = columns(&["a", "b"]);
    let good = "{\"a\":\"1\",\"b\":null}\n";
    for (line, why) in [
        ("{\"a\":\"1\"}\n", "there is no \"b\""),
        ("{}\n", "there is no \"a\""),
        ("{\"b\":\"1\",\"a\":\"2\"}\n", "the next key is not \"a\""),
        ("{\"aa\":\"1\",\"b\":null}\n", "the next key is not \"a\""),
        ("{\"\":\"1\",\"b\":null}\n", "the next key is not \"a\""),
        ("{\"a\":\"1\",\"b\":null,\"c\":null}\n", "it has more keys than the table has columns"),
        ("{\"a\":1,\"b\":null}\n", "the value of \"a\" is neither a string nor null"),
        ("{\"a\":\"1\",\"b\":nul}\n", "the value of \"b\" is neither a string nor null"),
        ("{\"a\":{},\"b\":null}\n", "the value of \"a\" is neither a string nor null"),
        ("{\"a\":\"1\",\"b\":null}{}\n", "there is something behind the object"),
        ("{\"a\":\"1\",\"b\":null,}\n", "it is not a JSON object"),
        ("[]\n", "it is not a JSON object"),
        ("\n", "it is an empty line"),
        ("{\"a\":\"1\",\n\"b\":null}\n", "it goes on in the next line"),
        ("{\"a\":\"1\n\",\"b\":null}\n", "it has a control character inside of a string"),
        ("{\"a\":\"\\x\",\"b\":null}\n", "it has a backslash that stands for nothing"),
        ("{\"a\":\"\\u00g0\",\"b\":null}\n", "it has a \\u without four digits"),
        ("{\"a\":\"\\u0000\",\"b\":null}\n", "it has a zero character, which no text of PostgreSQL can hold"),
        ("{\"a\":\"\\ud83d\",\"b\":null}\n", "it has half of a character"),
        ("{\"a\":\"\\ud83dx\",\"b\":null}\n", "it has half of a character"),
        ("{\"a\":\"\\ud83d\\n\",\"b\":null}\n", "it has half of a character"),
        ("{\"a\":\"\\ude00\",\"b\":null}\n", "it has half of a character"),
        ("{\"a\":\"1\",\"b\":null", "it has no end"),
        ("{\"a\":\"1\",\"b\":nul", "it has no end"),
        ("{\"a\":\"1", "it has no end"),
    ] {
        let lines = format!("{good}{line}");
        for size in [1, 1000] {
            let refused = decode(&columns, lines.as_bytes(), size).unwrap_err();
            assert_eq!(refused.to_string(), format!("row 2: {why}"), "{line}");
        }
    }
}

#[test]
fn readable_values_are_what_programs_expect_and_strings_where_they_would_be_something_else() {
    let readable = |type_name: &str, value: &str| {
        let mut copy = Vec::new();
        push_row(&mut copy, [Some(value.as_bytes())]);
        let columns = [column("v", type_name)];
        let whole = encode_with(Encoder::readable(&columns, Layout::lines()), &copy, 1000).unwrap();
        assert_eq!(encode_with(Encoder::readable(&columns, Layout::lines()), &copy, 1).unwrap(), whole);
        assert!(serde_json::from_str::<serde_json::Value>(&whole).is_ok(), "{whole}");
        whole.trim_end().strip_prefix("{\"v\":").unwrap().strip_suffix('}').unwrap().to_owned()
    };
    let digits = "9".repeat(70);
    for (type_name, value, json) in [
        ("boolean", "t", "true"),
        ("boolean", "f", "false"),
        ("smallint", "-32768", "-32768"),
        ("integer", "2147483647", "2147483647"),
        ("bigint", "9007199254740991", "9007199254740991"),
        ("bigint", "9007199254740992", "\"9007199254740992\""),
        ("bigint", "-9223372036854775808", "\"-9223372036854775808\""),
        ("oid", "4294967295", "4294967295"),
        ("numeric(10,2)", "12.50", "12.50"),
        ("numeric", "9007199254740991", "9007199254740991"),
        ("numeric", "9007199254740992", "\"9007199254740992\""),
        ("numeric", "0.123456789012345", "0.123456789012345"),
        ("numeric", "0.1234567890123456", "\"0.1234567890123456\""),
        ("numeric", "100.50000000000000000", "100.50000000000000000"),
        ("numeric", "9007199254740993.0", "\"9007199254740993.0\""),
        ("numeric", "NaN", "\"NaN\""),
        ("numeric", &digits, &format!("\"{digits}\"")),
        ("real", "1e-30", "1e-30"),
        ("double precision", "5e-324", "5e-324"),
        ("double precision", "-0", "-0"),
        ("double precision", "1.5e+300", "1.5e+300"),
        ("double precision", "-Infinity", "\"-Infinity\""),
        ("json", "{\"a\" :\n [1,\t\"x\\n\"]}", "{\"a\" :  [1, \"x\\n\"]}"),
        ("jsonb", "null", "null"),
        ("timestamp with time zone", "2026-01-02 03:04:05.123456+00", "\"2026-01-02T03:04:05.123456Z\""),
        ("timestamp(0) without time zone", "2026-01-02 03:04:05", "\"2026-01-02T03:04:05\""),
        ("timestamp(3) with time zone", "2026-01-02 03:04:05+02", "\"2026-01-02 03:04:05+02\""),
        ("timestamp with time zone", "infinity", "\"infinity\""),
        ("timestamp with time zone", "0001-01-01 00:00:00+00 BC", "\"0001-01-01 00:00:00+00 BC\""),
        ("timestamp without time zone", "294276-12-31 23:59:59.999999", "\"294276-12-31 23:59:59.999999\""),
        ("date", "2026-01-02", "\"2026-01-02\""),
        ("integer[]", "{1,2}", "\"{1,2}\""),
        ("numeric(10,2)[]", "{1.00}", "\"{1.00}\""),
        ("public.\"integer\"", "1", "\"1\""),
        ("public.\"json\"", "{", "\"{\""),
        ("uuid", "00000000-0000-0000-0000-000000000000", "\"00000000-0000-0000-0000-000000000000\""),
        ("bytea", "\\x00ff", "\"\\\\x00ff\""),
        ("boolean", "", "\"\""),
        ("text", "1", "\"1\""),
    ] {
        assert_eq!(readable(type_name, value), json, "{value} of {type_name}");
    }
}

#[test]
fn document_has_rows_between_commas() {
    let columns = [column("a", "integer"), column("b", "boolean")];
    let rows = encode_with(Encoder::readable(&columns, Layout::array()), b"1\tt\n\\N\t\\N\n", 2).unwrap();
    assert_eq!(rows, "\n{\"a\":1,\"b\":true},\n{\"a\":null,\"b\":null}");
}

/// A row of 1 GB must not be held by what only passes it on.
#[test]
fn long_value_goes_on_before_its_end_is_seen() {
    let columns = [column("a", "text"), column("b", "numeric")];
    let piece = [b'1'; 100_000];
    for mut encoder in
        [Encoder::lossless(&columns, Layout::lines()), Encoder::readable(&columns, Layout::lines())]
    {
        let mut out = Vec::new();
        encoder.push(&piece, &mut out).unwrap();
        assert_eq!(out.len(), "{\"a\":\"".len() + piece.len());
        out.clear();
        encoder.push(b"\t", &mut out).unwrap();
        encoder.push(&piece, &mut out).unwrap();
        assert_eq!(out.len(), "\",\"b\":\"".len() + piece.len(), "too long for a number");
    }
    let (mut decoder, mut out) = (Decoder::new(&columns), Vec::new());
    decoder.push(b"{\"a\":\"", &mut out).unwrap();
    decoder.push(&piece, &mut out).unwrap();
    assert_eq!(out.len(), piece.len());
}

fn values() -> impl Strategy<Value = Option<Vec<u8>>> {
    let awkward =
        prop::sample::select(vec!['\\', 'N', '\t', '\n', '\r', '\x08', '\x0b', '\x01', '"', 'é', '😀', '/']);
    let text =
        prop::collection::vec(prop_oneof![4 => awkward, 1 => prop::char::range('\x01', '\u{10ffff}')], 0..10);
    prop::option::of(text.prop_map(|text| text.into_iter().collect::<String>().into_bytes()))
}

proptest! {
    #[test]
    fn rows_come_back_byte_by_byte_and_other_programs_read_the_same(
        (width, rows) in (0_usize..4).prop_flat_map(|width| {
            (Just(width), prop::collection::vec(prop::collection::vec(values(), width), 0..5))
        }),
        size in 1_usize..30,
    ) {
        let names = ["a", "\"\\", "ü\n", "d"];
        let columns = columns(&names[..width]);
        let mut copy = Vec::new();
        rows.iter().for_each(|row| push_row(&mut copy, row.iter().map(Option::as_deref)));
        let lines = encode(&columns, &copy, size).unwrap();
        prop_assert_eq!(decode(&columns, lines.as_bytes(), size).unwrap(), copy);
        prop_assert_eq!(lines.lines().count(), rows.len());
        for (line, row) in lines.lines().zip(&rows) {
            let read: serde_json::Value = serde_json::from_str(line).unwrap();
            for (name, value) in names.iter().zip(row) {
                let expected = value.as_deref().map(|value| std::str::from_utf8(value).unwrap());
                prop_assert_eq!(read[name].as_str(), expected);
            }
        }
    }

    #[test]
    fn nothing_makes_the_decoder_panic_and_pieces_do_not_matter(
        text in "[{}\":,a-bnul\\\\ \t\n]{0,24}", size in 1_usize..5,
    ) {
        let columns = columns(&["a", "b"]);
        prop_assert_eq!(decode(&columns, text.as_bytes(), size), decode(&columns, text.as_bytes(), 1000));
    }
}
