//! What servers send as text, what they send as binary, and what they take.

#![expect(clippy::cast_possible_truncation, reason = "any numbers will do")]

use std::fmt::Write;

use crate::binary::encoder;
use crate::catalog::{Catalog, Table};
use crate::place::Place;
use crate::snapshot::{Holder, SETTINGS};
use crate::wire::Connection;

/// Numbers by chance, the same ones each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn digits(&mut self, count: u64) -> String {
        // Often zeros or nines, where digits to another base begin and end.
        (0..count).map(|_| b"0001234567899"[self.below(13) as usize] as char).collect()
    }
}

/// Returns statements that make a table of a type with values that SQL has them as.
fn table(name: &str, type_name: &str, values: &[String]) -> String {
    let mut sql = format!("CREATE TABLE {name} (v {type_name});");
    for some in values.chunks(1_000) {
        let rows: Vec<String> = some.iter().map(|value| format!("({value})")).collect();
        write!(
            sql,
            "INSERT INTO {name} SELECT v::{type_name} FROM (VALUES (NULL), {}) AS of (v);",
            rows.join(", ")
        )
        .unwrap();
    }
    sql
}

fn quoted(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| format!("'{}'", value.replace('\'', "''"))).collect()
}

/// Returns all bytes that a statement sends.
fn copied(connection: &mut Connection, sql: &str) -> Vec<u8> {
    let mut copy = connection.copy_out(sql).unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = copy.next_piece().unwrap() {
        bytes.extend_from_slice(piece);
    }
    bytes
}

/// Takes all tables of a place through the binary form.
fn tables_go_through(place: &Place, zone: &str) {
    let mut holder = Holder::begin(place.open()).unwrap();
    let catalog = Catalog::read(holder.connection()).unwrap();
    let mut connection = place.open();
    connection.execute("BEGIN").unwrap();
    connection.execute(SETTINGS).unwrap();
    connection.execute(&format!("SET TimeZone = '{zone}'")).unwrap();
    for table in &catalog.tables {
        goes_through(&mut connection, table);
    }
}

fn goes_through(connection: &mut Connection, table: &Table) {
    let (name, shown) = (table.name.quoted(), &table.name.name);
    let text = copied(connection, &format!("COPY {name} TO STDOUT"));
    // What fills a value up to the length of its column is left to the server.
    let shortened = format!("(SELECT v::pg_catalog.text FROM {name})");
    let rows = if shown == "of_char" { &shortened } else { &name };
    let binary = copied(connection, &format!("COPY {rows} TO STDOUT (FORMAT binary)"));
    let mut made = Vec::new();
    let mut encoder = encoder(connection, table).unwrap().unwrap_or_else(|| panic!("{shown} goes as text"));
    encoder.begin(&mut made);
    encoder.push(&text, &mut made).unwrap_or_else(|error| panic!("{shown}: {error:?}"));
    encoder.finish(&mut made).unwrap();
    if made != binary {
        let at = made.iter().zip(&binary).position(|(one, other)| one != other).unwrap_or_default();
        let near = |bytes: &[u8]| bytes[at.saturating_sub(30)..bytes.len().min(at + 30)].to_vec();
        panic!("{shown} at {at}: {:?} instead of {:?}", near(&made), near(&binary));
    }
    connection.execute(&format!("TRUNCATE ONLY {name}")).unwrap();
    let encoder = crate::binary::encoder(connection, table).unwrap().unwrap();
    let sql = format!("COPY {name} FROM STDIN (FORMAT binary, FREEZE)");
    let mut copy = connection.copy_in_as_binary(&sql, encoder).unwrap();
    text.chunks(1_000_003).try_for_each(|piece| copy.write(piece)).unwrap();
    assert_eq!(copy.finish().unwrap(), text.iter().filter(|byte| **byte == b'\n').count() as u64);
    assert!(copied(connection, &format!("COPY {name} TO STDOUT")) == text, "{shown}");
}

fn numbers() -> String {
    let mut chance = Chance(1);
    let mut sql = table("truth", "bool", &quoted(&["t", "f"]));
    let signed = |chance: &mut Chance, shift: u32| {
        (chance.next() as i64 >> (u64::from(shift) + chance.below(64 - u64::from(shift)))).to_string()
    };
    for (name, shift) in [("int2", 48), ("int4", 32), ("int8", 0)] {
        let most = i64::MAX >> shift;
        let mut values = vec![most.to_string(), (-most - 1).to_string(), "0".to_owned(), "-1".to_owned()];
        values.extend((0..2_000).map(|_| signed(&mut chance, shift)));
        let values: Vec<String> = values.iter().map(|value| format!("'{value}'")).collect();
        sql += &table(&format!("of_{name}"), name, &values);
    }
    let oids: Vec<String> = (0..500).map(|_| format!("'{}'", chance.next() as u32)).collect();
    sql += &table("of_oid", "oid", &[oids, quoted(&["0", "4294967295"])].concat());
    let special =
        ["NaN", "Infinity", "-Infinity", "0", "-0", "1", "-1", "1e15", "1e16", "123456", "1e-5", "0.0001"];
    let extreme = ["1e-45", "3.4028235e38", "-3.4028235e38", "1.17549435e-38", "16777217", "0.1"];
    let mut values = quoted(&[&special[..], &extreme].concat());
    let finite = (0..20_000).map(|_| f32::from_bits(chance.next() as u32)).filter(|value| value.is_finite());
    values.extend(finite.map(|value| format!("'{value:e}'")));
    sql += &table("of_float4", "float4", &values);
    let extreme = [
        "5e-324",
        "1.7976931348623157e308",
        "2.2250738585072014e-308",
        "9007199254740993",
        "0.1",
        "1e22",
        "1e23",
    ];
    let mut values = quoted(&[&special[..], &extreme].concat());
    let finite = (0..20_000).map(|_| f64::from_bits(chance.next())).filter(|value| value.is_finite());
    values.extend(finite.map(|value| format!("'{value:e}'")));
    values.extend((0..5_000).map(|_| format!("'{}.{}'", chance.below(100_000), chance.below(1_000))));
    sql + &table("of_float8", "float8", &values)
}

fn decimals() -> String {
    let mut chance = Chance(2);
    let special = [
        "NaN",
        "Infinity",
        "-Infinity",
        "0",
        "0.0",
        "-0.000",
        "0.0000",
        "0.00000",
        "1",
        "-1",
        "9999",
        "10000",
        "10001",
        "100000000",
        "0.1",
        "0.0001",
        "0.00001",
        "0.00010000",
        "1.0",
        "1.00000",
        "10000.0000",
        "12345678.87654321",
        "1e131071",
        "-1e131071",
        "1e-16383",
        "0.00000000000000000000",
        "99999999999999999999.99999999999999999999",
    ];
    let mut values = quoted(&special);
    let long = |whole, fraction| format!("'{}.{}'", "9".repeat(whole), "8".repeat(fraction));
    values.extend([
        long(1, 16_383),
        long(131_072, 1),
        long(131_072, 16_383),
        long(4_000, 0).replace('.', ""),
    ]);
    values.push(format!("'0.{}1'", "0".repeat(16_382)));
    values.push(format!("'1{}.{}'", "0".repeat(10_000), "0".repeat(10_000)));
    for _ in 0..20_000 {
        let (sign, whole) = (if chance.below(3) == 0 { "-" } else { "" }, chance.below(13));
        let digits = format!("{sign}0{}", chance.digits(whole));
        let count = chance.below(13);
        let fraction = chance.digits(count);
        values.push(if fraction.is_empty() {
            format!("'{digits}'")
        } else {
            format!("'{digits}.{fraction}'")
        });
    }
    for _ in 0..200 {
        let (whole, fraction) = (chance.below(900), chance.below(900));
        values.push(format!("'0{}.0{}'", chance.digits(whole), chance.digits(fraction)));
    }
    table("of_numeric", "numeric", &values)
        + &table("of_price", "numeric(12, 2)", &quoted(&["0", "-0.004", "9999999999.99", "-12", "NaN"]))
        + &table("of_thousands", "numeric(6, 0)", &quoted(&["0", "123456", "-1", "120000"]))
}

fn texts() -> String {
    let mut chance = Chance(3);
    let mut values = quoted(&[
        "",
        " ",
        "a",
        "\\",
        "\\\\",
        "\\N",
        "\\.",
        "\\n",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\u{8}\u{b}\u{c}",
        "'",
        "\"",
        "é",
        "漢字",
        "🦀",
        "a\u{301}",
        "\u{10ffff}",
        "NULL",
        "ends with \\",
        "ends with \n",
        "\u{7f}\u{80}\u{a0}\u{2028}\u{feff}",
    ]);
    values.extend((1..=200).map(|code| format!("chr({code})")));
    values.push("repeat(E'1 MB: \\\\ \\t \\n é ', 60000)".to_owned());
    values.push("repeat('x', 1000000)".to_owned());
    let letters = ["a", "b", "\\", "\t", "\n", "\r", "N", ".", "é", "🦀", "\u{b}", " "];
    for _ in 0..5_000 {
        let text: String = (0..chance.below(20)).map(|_| letters[chance.below(12) as usize]).collect();
        values.push(format!("'{}'", text.replace('\'', "''")));
    }
    let short = quoted(&["", " ", "a", "a ", "  a", "\\ ", "é\t", "🦀\n", "\\N"]);
    let padded = quoted(&["\\", "a\\ \\", "    \\", "éé é", "\t   ", "abcde", "   \u{a0} "]);
    let mut bytes = quoted(&[r"\x", r"\x00", r"\x5c", r"\x5c78", r"\x0a090d", r"\xff"]);
    bytes.push("decode(repeat('00ff5c0a41', 200000), 'hex')".to_owned());
    bytes.push("(SELECT string_agg(set_byte('x', 0, n), '') FROM generate_series(0, 255) n)".to_owned());
    bytes.extend(
        (0..2_000)
            .map(|_| format!(r"'\x{:0width$x}'", chance.next(), width = 16 + 2 * chance.below(5) as usize)),
    );
    let mut chars = quoted(&["", " ", "\\", "a", "\t", "\n"]);
    chars.extend((1..128).map(|code| format!("chr({code})")));
    let documents = [
        r#"{"b" : 1, "a":null, "b":2}"#,
        "null",
        "\"\"",
        " [ 1 ,\n\t2 ] ",
        r#""\\ \n \t \" \u00e9 🦀""#,
        "[]",
        "{}",
        "-1.50e3",
        "true",
        r#"{"":{"a\tb":["\\N","\\."]}}"#,
    ];
    let mut documents = quoted(&documents);
    documents.push("'\"' || repeat('é\\\\', 300000) || '\"'".to_owned());
    let mut uuids = quoted(&["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]);
    uuids.extend((0..3_000).map(|_| format!("'{:016x}{:016x}'", chance.next(), chance.next())));
    // Zero cannot be written as the character that it is.
    table("of_text", "text", &values)
        + &table("of_varchar", "varchar(9)", &short)
        + &table("of_any_varchar", "varchar", &short)
        + &table("of_char", "char(5)", &[short.clone(), padded].concat())
        + &table("of_bpchar", "bpchar", &short)
        + &table("of_bytea", "bytea", &bytes)
        + &table("of_byte", "\"char\"", &chars)
        + &table("of_json", "json", &documents)
        + &table("of_jsonb", "jsonb", &documents)
        + &table("of_uuid", "uuid", &uuids)
}

fn times() -> String {
    let days = [
        "infinity",
        "-infinity",
        "4714-11-24 BC",
        "4714-12-31 BC",
        "4713-01-01 BC",
        "0005-02-28 BC",
        "0005-02-29 BC",
        "0001-12-31 BC",
        "0001-01-01",
        "0004-02-29",
        "0100-02-28",
        "0100-03-01",
        "0400-02-29",
        "1582-10-10",
        "1600-02-29",
        "1900-03-01",
        "1969-12-31",
        "1970-01-01",
        "1999-12-31",
        "2000-01-01",
        "2000-02-29",
        "2000-12-31",
        "2026-11-21",
        "9999-12-31",
        "10000-01-01",
        "99999-02-28",
        "100000-01-01",
        "294276-12-31",
    ];
    let hours = [
        "00:00:00",
        "00:00:00.000001",
        "00:00:01",
        "12:34:56.7",
        "12:34:56.78",
        "12:34:56.000009",
        "23:59:59.999999",
        "01:02:03.123456",
    ];
    let dates = quoted(&[&days[..], &["5874897-12-31", "5874897-01-01", "1000000-02-29"]].concat());
    let clocks = quoted(&[&hours[..], &["24:00:00"]].concat());
    let mut moments = quoted(&days);
    for day in days.iter().filter(|day| !day.contains("infinity")) {
        let (day, era) = day.strip_suffix(" BC").map_or((*day, ""), |day| (day, " BC"));
        moments.extend(hours.map(|hour| format!("'{day} {hour}{era}'")));
    }
    // Times with a zone: in all zones these are within the range.
    let in_range: Vec<String> = moments
        .iter()
        .filter(|text| !text.contains("4714-11") && !text.contains("294276-12"))
        .cloned()
        .collect();
    let spread = |name: &str, value: &str| {
        format!("INSERT INTO {name} SELECT {value} FROM generate_series(1, 20000) n;")
    };
    let micros = "((random() - 0.02) * 9e15)::bigint * interval '1 microsecond' * ";
    table("of_date", "date", &dates)
        + &table("of_time", "time", &clocks)
        + &table("of_timestamp", "timestamp", &moments)
        + &table("of_timestamptz", "timestamptz", &in_range)
        + "SELECT setseed(0.25);"
        + &spread("of_date", "'4714-11-24 BC'::date + n")
        + &spread("of_date", "'1896-01-01'::date + n * 4")
        + &spread("of_date", "'2000-01-01'::date + (random() * 2145031948)::int")
        + &spread("of_time", "'00:00:00'::time + random() * interval '24 hours'")
        + &spread("of_timestamp", &format!("'2000-01-01'::timestamp + {micros} (n % 1000)"))
        + &spread("of_timestamp", "'1969-01-01'::timestamp + random() * interval '60 years'")
        + &spread("of_timestamptz", &format!("'2000-01-01Z'::timestamptz + {micros} (n % 1000)"))
        + &spread("of_timestamptz", "'1790-01-01Z'::timestamptz + random() * interval '300 years'")
}

const OTHERS: &str = r#"
CREATE TYPE mood AS ENUM ('sad', '', ' ', '\', '\N', E'tab\there', E'line\nend', 'o''k "quoted"', 'émoi', 'a,b{}',
    'sixty-three bytes of a label that is as long as it is allowed..');
CREATE TABLE of_mood AS SELECT m FROM unnest(enum_range(NULL::mood)) m UNION ALL SELECT NULL;
CREATE DOMAIN positive AS numeric(10, 2) CHECK (value > 0);
CREATE DOMAIN more AS positive CHECK (value > 1) ;
CREATE DOMAIN letters AS char(4) NOT NULL;
CREATE DOMAIN feeling AS mood;
CREATE DOMAIN day AS date; CREATE DOMAIN document AS jsonb; CREATE DOMAIN label AS varchar(7); CREATE DOMAIN code AS "char";
CREATE TABLE of_domains (a positive, b more, c letters, d feeling, e day, f document, g label, h code);
INSERT INTO of_domains VALUES (0.01, 1.10, 'a', '', 'infinity', '{"a": [1, "\\"]}', 'a ', '\'),
    (NULL, NULL, '', NULL, NULL, NULL, NULL, NULL), (99999999.99, 2, 'é🦀 ', 'sad', '0001-01-01 BC', 'null', '', '');
CREATE TABLE of_nothing (); INSERT INTO of_nothing SELECT FROM generate_series(1, 3);
CREATE TABLE of_no_rows (a int, b text);
CREATE TABLE of_one_byte (v text); INSERT INTO of_one_byte VALUES ('');
CREATE TABLE mixed (gone int, id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, twice bigint GENERATED ALWAYS AS (id * 2) STORED,
    "a ""b"", -- c" timestamptz NOT NULL, text text, price numeric, "d	e" uuid);
ALTER TABLE mixed DROP COLUMN gone;
INSERT INTO mixed ("a ""b"", -- c", text, price, "d	e") SELECT '2026-01-01Z'::timestamptz + n * interval '1.7 hours',
    CASE WHEN n % 7 > 0 THEN repeat(E'row\t' || n, n % 11) END, n / 8.0, md5(n::text)::uuid FROM generate_series(1, 30000) n;
"#;

#[test]
fn hostile_values_of_every_type_and_many_by_chance_become_what_servers_send_and_take() {
    for (name, sql) in
        [("numbers", numbers()), ("decimals", decimals()), ("texts", texts()), ("others", OTHERS.to_owned())]
    {
        for place in Place::on_all(&format!("binary_{name}"), "") {
            place.open().execute(&sql).unwrap();
            tables_go_through(&place, "UTC");
        }
    }
}

#[test]
fn times_in_every_zone_become_what_servers_send_and_take() {
    for place in Place::on_all("binary_times", "") {
        place.open().execute(&times()).unwrap();
        // One with half hours, one with seconds, one with days that are no day elsewhere.
        for zone in [
            "UTC",
            "Asia/Kolkata",
            "Europe/Brussels",
            "America/St_Johns",
            "Pacific/Kiritimati",
            "<west>15:30",
            "<east>-14:45",
        ] {
            tables_go_through(&place, zone);
        }
    }
}

#[test]
fn tables_with_other_types_go_as_text() {
    let sql = "CREATE TYPE pair AS (a int, b text); CREATE DOMAIN ints AS int[]; CREATE TYPE span AS RANGE (subtype = float8);
               CREATE DOMAIN pairs AS pair";
    let Some(place) = Place::new("binary_not", sql) else { return };
    let types = "int[] text[] interval money inet cidr macaddr bit varbit point int4range timetz xid name tsvector pair ints span pairs
                 regclass pg_lsn pair[] int4multirange jsonpath oidvector";
    for (number, name) in types.split_whitespace().enumerate() {
        place.sql(&format!("CREATE TABLE t{number} (a int, b {name}); CREATE TABLE g{number} (a int)"));
    }
    let (mut holder, catalog) = place.hold();
    for table in &catalog.tables {
        let made = encoder(holder.connection(), table).unwrap().is_some();
        assert_eq!(made, table.name.name.starts_with('g'), "{table:?}");
        // Nor where the backup does not know the type: the server says it.
        let mut unknown = table.clone();
        unknown.columns.iter_mut().for_each(|column| column.type_oid = 0);
        assert_eq!(encoder(holder.connection(), &unknown).unwrap().is_some(), made, "{table:?}");
        unknown.columns[0].name = "other".to_owned();
        assert!(encoder(holder.connection(), &unknown).unwrap().is_none(), "a column that is not there");
    }
}
