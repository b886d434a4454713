//! What a server sends in binary form is what is made of what it sends as text, byte for byte.

mod servers;

use super::*;

/// Returns binary rows without what stands before and behind all of them.
fn rows_of(forms: &[Form], pieces: &[&[u8]]) -> std::result::Result<Vec<u8>, Unsure> {
    let mut encoder = Encoder::new(forms.to_vec()).unwrap();
    let mut out = Vec::new();
    pieces.iter().try_for_each(|piece| encoder.push(piece, &mut out))?;
    let end = out.len();
    encoder.finish(&mut out)?;
    assert_eq!(out.split_off(end), TRAILER);
    Ok(out)
}

/// Returns the bytes of a value behind its length.
#[track_caller]
fn value_of(form: Form, text: &str) -> Vec<u8> {
    let row = rows_of(&[form], &[text.as_bytes(), b"\n"]).unwrap();
    let (head, value) = row.split_at(6);
    assert_eq!(head[..2], [0, 1]);
    assert_eq!(u32::from_be_bytes(head[2..].try_into().unwrap()) as usize, value.len());
    value.to_vec()
}

#[track_caller]
fn words_of(text: &str) -> Vec<u16> {
    let value = value_of(Form::Numeric, text);
    value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

#[test]
fn rows_have_a_count_and_each_value_its_length() {
    let encoder = Encoder::new(vec![]).unwrap();
    let mut out = Vec::new();
    encoder.begin(&mut out);
    assert_eq!(out, b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    let forms = [Form::Int4, Form::Text, Form::Bool];
    let expected = b"\0\x03\0\0\0\x04\xff\xff\xff\xfe\0\0\0\x03a\tb\0\0\0\x01\x01\
                     \0\x03\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff";
    assert_eq!(rows_of(&forms, &[b"-2\ta\\tb\tt\n\\N\t\t\\N\n"]).unwrap(), expected);
    assert_eq!(rows_of(&[], &[b"\n\n"]).unwrap(), [0; 4]);
    assert_eq!(rows_of(&[], &[]).unwrap(), [0; 0]);
}

#[test]
fn value_ends_at_the_first_tab_or_line_end() {
    // Bytes beside these two, and ones that a carry could turn into them.
    let others = [0, 1, 8, 11, b'a', 0x80, 0x89, 0x8a, 0xff];
    for length in 0..40 {
        for other in others {
            let mut bytes = vec![other; length];
            assert_eq!(end_of_value(&bytes), length);
            for (at, end) in (0..length).flat_map(|at| [(at, b'\t'), (at, b'\n')]) {
                bytes[at] = end;
                bytes[at + 1..].fill(if at % 3 == 0 { end } else { other });
                assert_eq!(end_of_value(&bytes), at, "{bytes:?}");
                bytes.fill(other);
            }
        }
    }
}

#[test]
fn rows_that_are_cut_anywhere_become_the_same() {
    let forms = [Form::Int8, Form::Text, Form::Numeric, Form::Timestamp];
    let text = "1\ta\\\\b\\n\u{e9}\t-12.50\t2026-11-21 23:20:01.5\n\\N\t\t\\N\tinfinity\n-3\t\\\\N\t0\t\\N\n"
        .as_bytes();
    let whole = rows_of(&forms, &[text]).unwrap();
    for first in 0..=text.len() {
        for second in first..=text.len() {
            let pieces = [&text[..first], &text[first..second], &text[second..]];
            assert_eq!(rows_of(&forms, &pieces).unwrap(), whole, "{first} {second}");
        }
    }
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(rows_of(&forms, &bytes).unwrap(), whole);
}

#[test]
fn integers_and_floating_point_numbers_are_of_their_width() {
    assert_eq!(value_of(Form::Int2, "-32768"), [0x80, 0]);
    assert_eq!(value_of(Form::Int4, "2147483647"), [0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(value_of(Form::Int8, "-9223372036854775808"), [0x80, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(value_of(Form::Oid, "4294967295"), [0xff; 4]);
    assert_eq!(value_of(Form::Float4, "-0"), [0x80, 0, 0, 0]);
    assert_eq!(value_of(Form::Float4, "1e-45"), [0, 0, 0, 1]);
    assert_eq!(value_of(Form::Float8, "NaN"), [0x7f, 0xf8, 0, 0, 0, 0, 0, 0]);
    assert_eq!(value_of(Form::Float8, "-Infinity"), [0xff, 0xf0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(value_of(Form::Float8, "5e-324"), [0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn decimals_have_no_digit_that_is_zero_at_either_end_and_all_of_their_scale() {
    assert_eq!(words_of("0"), [0, 0, 0, 0]);
    assert_eq!(words_of("-0.000"), [0, 0, 0, 3]);
    assert_eq!(words_of("12345.6780"), [3, 1, 0, 4, 1, 2345, 6780]);
    assert_eq!(words_of("-10000"), [1, 1, 0x4000, 0, 1]);
    assert_eq!(words_of("0.00012"), [2, u16::MAX, 0, 5, 1, 2000]);
    assert_eq!(words_of("0.00000001"), [1, u16::MAX - 1, 0, 8, 1]);
    assert_eq!(words_of("0007"), [1, 0, 0, 0, 7]);
    assert_eq!(words_of("NaN"), [0, 0, 0xc000, 0]);
    assert_eq!(words_of("-Infinity"), [0, 0, 0xf000, 0x20]);
}

#[test]
fn times_are_counted_from_the_year_2000() {
    let day = |text| i32::from_be_bytes(value_of(Form::Date, text).try_into().unwrap());
    assert_eq!([day("2000-01-01"), day("1999-12-31"), day("2000-03-01")], [0, -1, 60]);
    assert_eq!([day("4714-11-24 BC"), day("5874897-12-31")], [-2_451_545, 2_145_031_948]);
    assert_eq!([day("infinity"), day("-infinity")], [i32::MAX, i32::MIN]);
    let moment = |form, text| i64::from_be_bytes(value_of(form, text).try_into().unwrap());
    assert_eq!(moment(Form::Time, "24:00:00"), 86_400_000_000);
    assert_eq!(moment(Form::Timestamp, "2000-01-01 00:00:00.000001"), 1);
    assert_eq!(moment(Form::Timestamp, "1999-12-31 23:59:59.9"), -100_000);
    assert_eq!(moment(Form::TimestampTz, "2000-01-01 05:30:01+05:30"), 1_000_000);
    assert_eq!(moment(Form::TimestampTz, "1999-12-31 23:59:58-00:00:02"), 0);
    assert_eq!(moment(Form::TimestampTz, "294276-12-31 23:59:59.999999+00"), 9_223_371_331_199_999_999);
}

#[test]
fn bytes_and_numbers_in_hexadecimal_are_what_they_say() {
    assert_eq!(value_of(Form::Bytea, r"\\x"), [0; 0]);
    assert_eq!(value_of(Form::Bytea, r"\\x00ff5c0a"), b"\0\xff\\\n");
    let expected: Vec<u8> = (0..16).map(|digit| digit << 4 | digit).collect();
    assert_eq!(value_of(Form::Uuid, "00112233-4455-6677-8899-aabbccddeeff"), expected);
    assert_eq!(value_of(Form::Jsonb, r#"{"a": "\\n"}"#), b"\x01{\"a\": \"\\n\"}");
    assert_eq!([value_of(Form::Byte, ""), value_of(Form::Byte, r"\\")], [b"\0", b"\\"]);
}

#[test]
fn what_no_server_writes_is_refused() {
    let refused = [
        (Form::Bool, "true T 1 \\"),
        (Form::Int2, "32768 -32769 - +1 1.0 1e3 1x \u{0661}"),
        (Form::Int4, "2147483648 0x10 1_000"),
        (Form::Int8, "9223372036854775808 -9223372036854775809 18446744073709551616 99999999999999999999"),
        (Form::Oid, "-1 4294967296"),
        (Form::Float4, "nan inf +1 .5 1e39 1e-60 0e5 0.0 1_0 0x1p3 1f"),
        (Form::Float8, "-NaN infinity 1e309 1e-400 -1e309 1,5 - -."),
        (Form::Numeric, "1e5 .5 5. - -- 1.-5 +1 nan -NaN 1.2.3 1,2 inf"),
        (Form::Text, r"\x41 \. \N1 a\ \0"),
        (Form::Byte, r"ab \\101 \q \"),
        (Form::Byte, "\u{e9}"),
        (
            Form::Uuid,
            "00112233445566778899aabbccddeeff 00112233-4455-6677-8899-AABBCCDDEEFF \
             {0112233-4455-6677-8899-aabbccddeeff 00112233-4455-6677-8899-aabbccddeef \
             0011-22334455-6677-8899-aabbccddeeff g0112233-4455-6677-8899-aabbccddeeff",
        ),
        (Form::Bytea, r"\x00 \\x0 \\xAB \\x0g abc \\000 x"),
        (
            Form::Date,
            "2026-02-29 1900-02-29 2026-13-01 2026-00-01 2026-04-31 2026-01-00 0000-01-01 26-01-01 2026-1-1 \
             02026-01-01 5874898-01-01 99999999-01-01 20260101 01/02/2026 2026-01-01T Infinity 2026-01-011 -2026-01-01",
        ),
        (
            Form::Time,
            "24:00:00.000001 24:00:01 25:00:00 23:60:00 23:59:60 1:00:00 01:00 01:00:00. 01:00:00.1234567",
        ),
    ];
    for (form, texts) in refused {
        for text in texts.split_whitespace() {
            let found = rows_of(&[Form::Bool, form], &[b"t\t\\N\nf\t", text.as_bytes(), b"\n"]);
            let what = "it is not written as servers write it";
            assert_eq!(found, Err(Unsure { row: 2, column: 2, what }), "{form:?} {text}");
        }
    }
    let moments = [
        "2026-01-01T00:00:00",
        "2026-01-01",
        "2026-01-01 24:00:00",
        "2026-01-01 00:00:00+00",
        "2026-01-01 00:00:00 AD",
        "294277-01-01 00:00:00",
        "999999-01-01 00:00:00",
        "4714-11-23 23:59:59 BC",
        "0000-01-01 00:00:00",
    ];
    for text in moments {
        assert!(rows_of(&[Form::Timestamp], &[text.as_bytes(), b"\n"]).is_err(), "{text}");
    }
    let moments = ["", "Z", "+0", "+000", "+16", "+00:60", "+00:00:60", "+00:0", " UTC", "+0x"];
    for offset in moments {
        let text = format!("2026-01-01 00:00:00{offset}\n");
        assert!(rows_of(&[Form::TimestampTz], &[text.as_bytes()]).is_err(), "{text}");
    }
    // It would be the number that stands for infinity.
    assert!(rows_of(&[Form::Timestamp], &[b"294277-01-09 04:00:54.775807\n"]).is_err());
}

#[test]
fn rows_of_other_tables_and_rows_without_an_end_are_refused() {
    let forms = [Form::Int4, Form::Text];
    let refused = |pieces: &[&[u8]]| rows_of(&forms, pieces).unwrap_err();
    let other = "there are more or fewer values";
    assert_eq!(refused(&[b"1\t2\n3\n"]), Unsure { row: 2, column: 1, what: other });
    assert_eq!(refused(&[b"1\t2\t3\n"]), Unsure { row: 1, column: 2, what: other });
    assert_eq!(refused(&[b"\n"]), Unsure { row: 1, column: 1, what: other });
    assert_eq!(refused(&[b"1\t2\n3\t4"]), Unsure { row: 2, column: 1, what: "it has no end" });
    assert!(rows_of(&[], &[b"1\n"]).is_err() && rows_of(&[], &[b"\n\\N\n"]).is_err());
    let long = vec![b'a'; LONGEST_ROW];
    assert_eq!(refused(&[b"1\t", &long, b"\n"]), Unsure { row: 1, column: 1, what: "it is too long" });
}

/// How fast it is, in a build for use: `cargo test --release -p dbkeep-postgres speed -- --ignored --nocapture`.
#[test]
#[ignore = "a figure and not a test"]
fn speed() {
    use std::fmt::Write;

    let forms = [Form::Int8, Form::TimestampTz, Form::Uuid, Form::Text, Form::Numeric, Form::Text];
    let mut text = String::new();
    for row in 0_u64..200_000 {
        let (minute, hour, id) = (row % 60, row / 60 % 24, row.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        writeln!(
            text,
            "{row}\t2026-03-07 {hour:02}:{minute:02}:01.{:06}+00\t{:08x}-1234-4abc-8def-{:012x}\tcustomer {row} of somewhere\t{}.{:02}\tpaid",
            row * 7 % 1_000_000, id >> 32, id & 0xffff_ffff_ffff, id % 100_000, row % 100
        )
        .unwrap();
    }
    let mut best = f64::MAX;
    for _ in 0..20 {
        let mut encoder = Encoder::new(forms.to_vec()).unwrap();
        let mut out = Vec::with_capacity(1 << 20);
        let began = std::time::Instant::now();
        for piece in text.as_bytes().chunks(64 << 10) {
            out.clear();
            encoder.push(piece, &mut out).unwrap();
        }
        best = best.min(began.elapsed().as_secs_f64());
    }
    let megabytes = f64::from(u32::try_from(text.len()).unwrap()) / 1e6;
    println!("{megabytes:.0} MB of {} bytes a row: {:.0} MB/s", text.len() / 200_000, megabytes / best);
}
