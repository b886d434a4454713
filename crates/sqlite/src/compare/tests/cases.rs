//! One case each.

use super::*;

/// Compares in every way and returns the counts of table `t`.
fn of_t(before: &str, after: &str) -> [u64; 5] {
    let (left, right) = before_and_after(before, after);
    counts(&compared_in_every_way(&left, &right), "t")
}

fn table(comparison: &Comparison, name: &str) -> TableComparison {
    comparison.tables.iter().find(|table| table.name == name).unwrap().clone()
}

#[test]
fn values_are_the_same_only_when_type_and_bytes_are() {
    let cases = [
        ("1", "1.0", 1),
        ("'1'", "1", 1),
        ("'a'", "x'61'", 1),
        ("0.0", "-0.0", 1),
        ("NULL", "0", 1),
        ("NULL", "NULL", 0),
        ("9e999", "-9e999", 1),
        ("9e999 - 9e999", "NULL", 0),
        ("CAST(x'ff' AS TEXT)", "CAST(x'fe' AS TEXT)", 1),
        ("CAST(x'ff' AS TEXT)", "CAST(x'ff' AS TEXT)", 0),
        ("'a' || char(0) || 'b'", "'a' || char(0) || 'c'", 1),
        ("9223372036854775807", "9223372036854775807.0", 1),
        ("x''", "''", 1),
    ];
    for (one, other, changed) in cases {
        let before = format!("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, {one})");
        let after = format!("UPDATE t SET v = {other}");
        assert_eq!(of_t(&before, &after), [1, 1, 0, 0, changed], "{one} {other}");
    }
}

#[test]
fn whole_numbers_in_a_column_of_real_ones_are_read_as_sqlite_reads_them() {
    let (left, right) = before_and_after(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v REAL); INSERT INTO t VALUES(1, 5), (2, 5.5)",
        "UPDATE t SET v = 6 WHERE id = 1",
    );
    let comparison = compared_in_every_way(&left, &right);
    let listed = table(&comparison, "t").listed;
    assert_eq!(listed[0].columns[0].left, Some(Value::Real(5.0)));
    assert_eq!(listed[0].columns[0].right, Some(Value::Real(6.0)));
}

#[test]
fn rows_without_a_key_are_the_same_after_vacuum_renumbered_them() {
    let rows = "CREATE TABLE t(a, b); INSERT INTO t SELECT value, value % 7 FROM generate(500);
                DELETE FROM t WHERE rowid % 3 = 0";
    assert_eq!(of_t(rows, "VACUUM"), [334, 334, 0, 0, 0]);
    assert_eq!(of_t(rows, "VACUUM; INSERT INTO t VALUES(1, 1); DELETE FROM t WHERE a = 2")[2..4], [1, 1]);
    // Twins count: each row has one counterpart.
    assert_eq!(
        of_t("CREATE TABLE t(a); INSERT INTO t VALUES(1), (1), (1)", "DELETE FROM t WHERE rowid = 2"),
        [3, 2, 0, 1, 0]
    );
    assert_eq!(
        of_t("CREATE TABLE t(a); INSERT INTO t VALUES(1), (2)", "UPDATE t SET a = 3 - a"),
        [2, 2, 0, 0, 0]
    );
    assert_eq!(
        of_t("CREATE TABLE t(a); INSERT INTO t VALUES(1), (2)", "UPDATE t SET a = 7 WHERE a = 2"),
        [2, 2, 0, 0, 1]
    );
}

#[test]
fn declared_key_tells_rows_apart_whatever_their_rowids() {
    let words = "CREATE TABLE t(k TEXT PRIMARY KEY, v); INSERT INTO t VALUES('a', 1), ('b', 2), ('c', 3)";
    assert_eq!(of_t(words, "DELETE FROM t WHERE k = 'a'; INSERT INTO t VALUES('a', 1)"), [3, 3, 0, 0, 0]);
    assert_eq!(of_t(words, "DELETE FROM t WHERE k = 'a'; INSERT INTO t VALUES('a', 7)"), [3, 3, 0, 0, 1]);
    assert_eq!(of_t(words, "UPDATE t SET k = 'A' WHERE k = 'a'"), [3, 3, 1, 1, 0]);
    let folded = "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, v); INSERT INTO t VALUES('a', 1)";
    assert_eq!(of_t(folded, "UPDATE t SET k = 'A'"), [1, 1, 0, 0, 1]);
    let trimmed = "CREATE TABLE t(k TEXT COLLATE RTRIM, j, v, PRIMARY KEY(k DESC, j)) WITHOUT ROWID;
                   INSERT INTO t VALUES('a', 1, 1)";
    assert_eq!(of_t(trimmed, "UPDATE t SET k = 'a  '"), [1, 1, 0, 0, 1]);
    // NULL is no key, though SQLite lets it stand in one.
    let nulls = "CREATE TABLE t(k PRIMARY KEY, v); INSERT INTO t VALUES(NULL, 1), (NULL, 1), (2, 2)";
    assert_eq!(of_t(nulls, "DELETE FROM t WHERE rowid = 1"), [3, 2, 0, 1, 0]);
    let real = "CREATE TABLE t(k PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO t VALUES(1, 1)";
    assert_eq!(of_t(real, "UPDATE t SET k = 1.0"), [1, 1, 0, 0, 1]);
}

#[test]
fn integer_primary_key_in_descending_order_is_no_other_name_of_the_rowid() {
    let rows = "CREATE TABLE t(id INTEGER PRIMARY KEY DESC, v); INSERT INTO t VALUES(5, 1), (6, 2)";
    assert_eq!(of_t(rows, "DELETE FROM t WHERE id = 5; INSERT INTO t VALUES(5, 1)"), [2, 2, 0, 0, 0]);
    assert_eq!(of_t(rows, "UPDATE t SET v = 9 WHERE id = 6"), [2, 2, 0, 0, 1]);
}

#[test]
fn renamed_column_is_compared_under_both_names() {
    let (left, right) = before_and_after(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b); INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 2)",
        "ALTER TABLE t RENAME COLUMN a TO z; ALTER TABLE t RENAME COLUMN id TO number;
         UPDATE t SET z = 'q' WHERE number = 2",
    );
    let comparison = compared_in_every_way(&left, &right);
    let t = table(&comparison, "t");
    let renamed = [("id", "number"), ("a", "z")].map(|(one, other)| (one.to_owned(), other.to_owned()));
    assert_eq!((t.renamed.as_slice(), t.key.as_slice()), (&renamed[..], &["number".to_owned()][..]));
    assert_eq!(counts(&comparison, "t"), [2, 2, 0, 0, 1]);
    assert_eq!(t.listed[0].columns[0].name, "z");
    assert_eq!((comparison.schema.changed.len(), comparison.is_same()), (1, false));
}

#[test]
fn column_that_one_side_lacks_is_named_and_the_others_are_compared() {
    let (left, right) = before_and_after(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t SELECT value, value, 'b' FROM generate(300)",
        "ALTER TABLE t ADD COLUMN c TEXT DEFAULT 'q'; UPDATE t SET c = 'r' WHERE id < 100;
         UPDATE t SET a = 0 WHERE id = 5",
    );
    let comparison = compared_in_every_way(&left, &right);
    assert_eq!(table(&comparison, "t").columns, [vec![], vec!["c".to_owned()]]);
    assert_eq!(counts(&comparison, "t"), [300, 300, 0, 0, 1]);
    assert!(!comparison.is_same());
    let gone = "ALTER TABLE t DROP COLUMN a";
    let (left, right) =
        before_and_after("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 2, 3)", gone);
    let comparison = compared_in_every_way(&left, &right);
    assert_eq!((counts(&comparison, "t"), comparison.is_same()), ([1, 1, 0, 0, 0], false));
}

#[test]
fn rows_older_than_a_column_hold_its_default() {
    let defaults = [
        "DEFAULT 7",
        "DEFAULT -7.5",
        "DEFAULT 'it''s'",
        "DEFAULT x'00ff'",
        "",
        "DEFAULT (7)",
        "DEFAULT true",
        "DEFAULT word",
    ];
    for (declared, default) in
        ["", "TEXT", "INT", "REAL"].into_iter().flat_map(|one| defaults.map(|other| (one, other)))
    {
        for table in ["t(id INTEGER PRIMARY KEY, a)", "t(id INT PRIMARY KEY, a) WITHOUT ROWID"] {
            // Rows are written anew, with all their columns.
            let before = format!(
                "CREATE TABLE {table}; INSERT INTO t SELECT value, value FROM generate(20);
                 ALTER TABLE t ADD COLUMN c {declared} {default}"
            );
            let after = "UPDATE t SET a = a WHERE id < 5; UPDATE t SET a = a + 1 WHERE id = 7";
            assert_eq!(of_t(&before, after), [20, 20, 0, 0, 1], "{table} {declared} {default}");
        }
    }
}

#[test]
fn rows_older_than_a_column_change_with_its_default() {
    let changed = of_t(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t SELECT value, value FROM generate(20);
         ALTER TABLE t ADD COLUMN c DEFAULT 7; INSERT INTO t VALUES(21, 21, 7)",
        "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql=replace(sql, 'DEFAULT 7', 'DEFAULT 8');
         PRAGMA writable_schema=RESET",
    );
    assert_eq!(changed, [21, 21, 0, 0, 20]);
}

#[test]
fn table_with_as_many_columns_as_there_may_be_is_compared() {
    let columns: Vec<String> = (2..=2000).map(|number| format!("c{number}")).collect();
    let table = format!("CREATE TABLE t(c1 INTEGER PRIMARY KEY, {})", columns.join(", "));
    let before = format!("{table}; INSERT INTO t(c1, c2000) VALUES(1, 'a'), (2, 'b')");
    assert_eq!(of_t(&before, "UPDATE t SET c2000 = 'c', c1000 = 5 WHERE c1 = 2"), [2, 2, 0, 0, 1]);
}

#[test]
fn column_that_is_in_its_key_twice_is_compared() {
    let table = "CREATE TABLE t(a, b, PRIMARY KEY(a COLLATE NOCASE, a COLLATE BINARY)) WITHOUT ROWID;
                 INSERT INTO t VALUES('a', 1), ('A', 2), ('b', 3)";
    assert_eq!(of_t(table, "UPDATE t SET b = 9 WHERE a = 'A'; DELETE FROM t WHERE a = 'b'"), [3, 2, 0, 1, 1]);
}

#[test]
fn tables_that_come_go_and_change_their_names() {
    let (left, right) = before_and_after(
        "CREATE TABLE gone(a PRIMARY KEY); INSERT INTO gone VALUES(1), (2);
         CREATE TABLE old(a); INSERT INTO old VALUES(1);
         CREATE VIEW v AS SELECT 1; CREATE INDEX i ON old(a);
         CREATE TRIGGER tr AFTER INSERT ON old BEGIN SELECT 1; END",
        "DROP TABLE gone; ALTER TABLE old RENAME TO new; CREATE TABLE \"a \"\"b'\"(\"x y\");
         INSERT INTO \"a \"\"b'\" VALUES(5);
         DROP VIEW v; CREATE VIEW v AS SELECT 2; DROP TRIGGER tr",
    );
    let comparison = compared_in_every_way(&left, &right);
    assert_eq!(counts(&comparison, "gone"), [2, 0, 0, 2, 0]);
    assert_eq!(counts(&comparison, "old"), [1, 0, 0, 1, 0]);
    assert_eq!(counts(&comparison, "new"), [0, 1, 1, 0, 0]);
    assert_eq!(counts(&comparison, "a \"b'"), [0, 1, 1, 0, 0]);
    let listed = &table(&comparison, "a \"b'").listed[0];
    assert_eq!((listed.change, listed.columns[0].name.as_str()), (Change::Added, "x y"));
    let names = |objects: &[SchemaObject]| {
        objects.iter().map(|object| format!("{} {}", object.kind, object.name)).collect::<Vec<_>>()
    };
    assert_eq!(names(&comparison.schema.added), ["table a \"b'", "table new"]);
    assert_eq!(names(&comparison.schema.removed), ["table gone", "table old", "trigger tr"]);
    assert_eq!(names(&comparison.schema.changed), ["index i", "view v"]);
}

#[test]
fn tables_that_swap_their_names_keep_none_of_their_rows() {
    let (left, right) = before_and_after(
        "CREATE TABLE a(id INTEGER PRIMARY KEY, v); INSERT INTO a SELECT value, 'a' FROM generate(1000);
         CREATE TABLE b(id INTEGER PRIMARY KEY, v); INSERT INTO b SELECT value, 'b' FROM generate(1000)",
        "ALTER TABLE a RENAME TO c; ALTER TABLE b RENAME TO a; ALTER TABLE c RENAME TO b",
    );
    let comparison = compared_in_every_way(&left, &right);
    assert_eq!(counts(&comparison, "a"), [1000, 1000, 0, 0, 1000]);
    assert_eq!(counts(&comparison, "b"), [1000, 1000, 0, 0, 1000]);
}

#[test]
fn schema_alone_can_differ() {
    for after in [
        "CREATE INDEX i ON t(a)",
        "PRAGMA user_version = 7",
        "PRAGMA application_id = 7",
        "CREATE VIEW v AS SELECT 1",
    ] {
        let (left, right) = before_and_after("CREATE TABLE t(a); INSERT INTO t VALUES(1)", after);
        let comparison = compared_in_every_way(&left, &right);
        assert!(!comparison.is_same(), "{after}");
        assert_eq!(counts(&comparison, "t"), [1, 1, 0, 0, 0]);
    }
}

#[test]
fn only_the_tables_that_are_asked_for_are_compared() {
    let (left, right) = before_and_after(
        "CREATE TABLE t(a); CREATE TABLE u(a); CREATE VIEW v AS SELECT 1; CREATE VIRTUAL TABLE f USING fts5(x)",
        "INSERT INTO t VALUES(1); INSERT INTO u VALUES(1); CREATE INDEX i ON t(a); CREATE INDEX j ON u(a)",
    );
    let wanted = |name: &str| {
        let tables = [name.to_owned()];
        compare(&side(&left), &side(&right), &Options { tables: &tables, ..Options::default() })
    };
    let comparison = wanted("T").unwrap();
    assert_eq!((comparison.tables.len(), comparison.schema.added.len()), (1, 1));
    assert_eq!(comparison.schema.added[0].name, "i");
    assert!(matches!(wanted("w"), Err(Error::NoSuchTable { .. })));
    assert!(matches!(wanted("v"), Err(Error::NotATable { .. })));
    assert!(matches!(wanted("f"), Err(Error::NotATable { .. })));
    assert!(wanted("f_content").unwrap().is_same());
}

#[test]
fn encodings_and_page_sizes_may_differ() {
    let database = |pragmas: &str, value: &str| {
        zoo::image(&format!(
            "{pragmas}; CREATE TABLE t(k TEXT PRIMARY KEY, v); CREATE TABLE n(v);
             INSERT INTO t SELECT 'clé ' || value, {value} FROM generate(100);
             INSERT INTO n SELECT {value} FROM generate(100)"
        ))
    };
    let plain = database("PRAGMA page_size = 512", "'naïve ' || value");
    for pragmas in [
        "PRAGMA page_size = 4096",
        "PRAGMA encoding = 'UTF-16le'",
        "PRAGMA encoding = 'UTF-16be'; PRAGMA page_size = 512",
    ] {
        let other = database(pragmas, "'naïve ' || value");
        assert!(compared(&plain, &other, &Options::default()).is_same(), "{pragmas}");
        let other = database(pragmas, "'naïve ' || max(value, 3)");
        let comparison = compared(&plain, &other, &Options { list: 5, ..Options::default() });
        assert_eq!(counts(&comparison, "t"), [100, 100, 0, 0, 2], "{pragmas}");
        assert_eq!(counts(&comparison, "n"), [100, 100, 0, 0, 2], "{pragmas}");
        let listed = table(&comparison, "t").listed;
        assert_eq!(listed[0].columns[0].left, Some(Value::Text("naïve 1".into())), "{pragmas}");
    }
}

#[test]
fn texts_in_utf16_are_told_in_utf8() {
    let (left, right) = before_and_after(
        "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(k TEXT PRIMARY KEY COLLATE NOCASE, v) WITHOUT ROWID;
         INSERT INTO t VALUES('Ärger 🙂', 'é')",
        "UPDATE t SET v = 'è'",
    );
    let listed = table(&compared_in_every_way(&left, &right), "t").listed;
    assert_eq!(listed[0].key, [("k".to_owned(), Value::Text("Ärger 🙂".into()))]);
    assert_eq!(listed[0].columns[0].right, Some(Value::Text("è".into())));
}

#[test]
fn rows_that_a_key_does_not_tell_apart_are_listed_with_their_rowids() {
    let listed = |columns: &str| {
        let (left, right) = before_and_after(
            &format!(
                "CREATE TABLE t(k PRIMARY KEY, v{columns}); INSERT INTO t(k, v) VALUES(NULL, 1), (NULL, 2), (3, 3)"
            ),
            "UPDATE t SET v = 9 WHERE v > 1",
        );
        let listed = table(&compared_in_every_way(&left, &right), "t").listed;
        listed.into_iter().map(|row| row.key).collect::<Vec<_>>()
    };
    let rowid = ("rowid".to_owned(), Value::Integer(2));
    let null = ("k".to_owned(), Value::Null);
    let plain = vec![("k".to_owned(), Value::Integer(3))];
    assert_eq!(listed(""), [vec![null.clone(), rowid], plain.clone()]);
    // That name is another column's.
    assert_eq!(listed(", rowid"), [vec![null], plain]);
}

#[test]
fn texts_that_differ_where_they_are_no_utf16_are_listed_as_a_changed_column() {
    let (left, right) = before_and_after(
        "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(id INTEGER PRIMARY KEY, v);
         INSERT INTO t VALUES(1, CAST(x'00d8' AS TEXT))",
        "UPDATE t SET v = CAST(x'01d8' AS TEXT)",
    );
    let comparison = compared_in_every_way(&left, &right);
    assert_eq!(counts(&comparison, "t"), [1, 1, 0, 0, 1]);
    assert_eq!(table(&comparison, "t").listed[0].columns[0].name, "v");
}

#[test]
fn only_changed_pages_are_read() {
    struct Counting {
        image: Vec<u8>,
        read: std::sync::atomic::AtomicUsize,
    }
    impl PageSource for Counting {
        fn size(&self) -> u64 {
            self.image.len() as u64
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            self.read.fetch_add(buffer.len(), std::sync::atomic::Ordering::Relaxed);
            self.image.read_at(offset, buffer)
        }
    }
    let (left, right) = before_and_after(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t SELECT value, noise(value, 200) FROM generate(40000);
         CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO w SELECT id, v FROM t; CREATE INDEX i ON t(v)",
        "UPDATE t SET v = x'00' WHERE id = 7000; DELETE FROM w WHERE k = 9",
    );
    let same = same(&left, &right, 4096);
    let sources = [left, right].map(|image| Arc::new(Counting { image, read: 0.into() }));
    let rows = Some([("t".to_owned(), 40000), ("w".to_owned(), 40000)].into());
    let left = Side { pages: Arc::clone(&sources[0]) as Arc<_>, rows };
    let right = Side { pages: Arc::clone(&sources[1]) as Arc<_>, rows: None };
    let comparison = compare(&left, &right, &Options { same: &same, ..Options::default() }).unwrap();
    assert_eq!(counts(&comparison, "t"), [40000, 40000, 0, 0, 1]);
    assert_eq!(counts(&comparison, "w"), [40000, 39999, 0, 1, 0]);
    let read: usize =
        sources.iter().map(|source| source.read.load(std::sync::atomic::Ordering::Relaxed)).sum();
    let size: usize = sources.iter().map(|source| source.image.len()).sum();
    assert!(read * 10 < size, "{read} of {size} bytes");
}

#[test]
fn counted_rows_that_do_not_add_up_are_no_comparison() {
    let (left, right) =
        before_and_after("CREATE TABLE t(a); INSERT INTO t VALUES(1)", "INSERT INTO t VALUES(2)");
    let counted =
        |image: &[u8], rows: u64| Side { rows: Some([("t".to_owned(), rows)].into()), ..side(image) };
    let compared = |rows: [u64; 2]| {
        compare(&counted(&left, rows[0]), &counted(&right, rows[1]), &Options::default()).unwrap()
    };
    assert_eq!(counts(&compared([1, 2]), "t"), [1, 2, 1, 0, 0]);
    for rows in [[1, 1], [2, 2], [1, 3], [0, 2]] {
        let t = table(&compared(rows), "t");
        assert!(t.problem.unwrap().contains("do not add up"), "{rows:?}");
    }
}

#[test]
fn damaged_pages_are_a_problem_of_their_table_and_never_the_same() {
    let (left, right) = before_and_after(
        "PRAGMA page_size = 512; CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE u(v);
         INSERT INTO t SELECT value, noise(value, 100) FROM generate(200); INSERT INTO u VALUES(1)",
        "INSERT INTO u VALUES(2)",
    );
    let header = |image: &[u8], page: usize| image[page * 512..page * 512 + 8].to_vec();
    let mut met = 0;
    for page in 1..left.len() / 512 {
        let mut damaged = right.clone();
        // One cell less, as if a row had been deleted.
        damaged[page * 512 + 4] = damaged[page * 512 + 4].wrapping_sub(1);
        if header(&right, page)[0] != 0x0d && header(&right, page)[0] != 0x05 {
            continue;
        }
        met += 1;
        for force in [None, Some(Way::AllPages)] {
            let comparison = compared(&left, &damaged, &Options { force, ..Options::default() });
            assert!(!comparison.is_same());
            let problems = comparison.tables.iter().filter(|table| table.problem.is_some()).count();
            assert_eq!(problems, 1, "page {page}: {comparison:?}");
        }
    }
    assert!(met > 20);
}

#[test]
fn bits_that_flip_never_panic_and_are_never_the_same_as_other_rows() {
    let sql = "PRAGMA page_size = 512; CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE INDEX i ON t(v);
               CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID;
               INSERT INTO t SELECT value, noise(value, 700) FROM generate(30); INSERT INTO w SELECT id, v FROM t";
    let (left, right) =
        before_and_after(sql, "UPDATE t SET v = x'01' WHERE id = 3; DELETE FROM w WHERE k = 4");
    let mut seed = 7u64;
    for _ in 0..3000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut damaged = right.clone();
        let at = usize::try_from(seed >> 20).unwrap() % damaged.len();
        damaged[at] ^= 1 << (seed >> 60 & 7);
        for same in [same(&left, &damaged, 512), Vec::new()] {
            if let Ok(found) = compare(
                &side(&left),
                &side(&damaged),
                &Options { same: &same, list: 3, ..Options::default() },
            ) {
                assert!(!found.is_same(), "byte {at}");
            }
        }
    }
}

#[test]
fn table_whose_columns_cannot_be_asked_for_is_a_problem_and_not_the_same() {
    let (mut left, mut right) = before_and_after(
        "CREATE TABLE odd_name(a, b); INSERT INTO odd_name VALUES(1, 2); CREATE TABLE t(a)",
        "UPDATE odd_name SET a = 5",
    );
    // A name that is no UTF-8 cannot be given to a query as text.
    for image in [&mut left, &mut right] {
        let places: Vec<usize> =
            (0..image.len() - 8).filter(|at| &image[*at..*at + 8] == b"odd_name").collect();
        places.into_iter().for_each(|at| image[at + 3] = 0xff);
    }
    let comparison = compared(&left, &right, &Options::default());
    let odd = comparison.tables.iter().find(|table| table.name.starts_with("odd")).unwrap();
    assert!(odd.problem.as_ref().unwrap().contains("cannot be read"), "{odd:?}");
    assert!(!comparison.is_same());
}
