//! Images that are not sound, in ways that SQLite may not notice while it reads them.

use super::*;

const PAGE: usize = 512;

/// A page of an image, to be changed.
fn page(image: &mut [u8], number: usize) -> &mut [u8] {
    &mut image[(number - 1) * PAGE..number * PAGE]
}

fn put(image: &mut [u8], at: usize, number: u32) {
    image[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

fn get(image: &[u8], at: usize) -> usize {
    u32::from_be_bytes(image[at..at + 4].try_into().unwrap()) as usize
}

/// Returns the pages that begin with this byte.
fn pages_of_kind(image: &[u8], kind: u8) -> Vec<usize> {
    (2..=image.len() / PAGE).filter(|number| image[(number - 1) * PAGE] == kind).collect()
}

fn problem(comparison: &Comparison, table: &str) -> Option<String> {
    comparison.tables.iter().find(|one| one.name == table).unwrap().problem.clone()
}

/// Tells what SQLite finds wrong.
fn integrity(image: &[u8]) -> String {
    let connection = open_image(Arc::new(image.to_vec())).unwrap();
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

#[test]
fn overflow_that_is_on_the_list_of_free_pages_of_a_damaged_side_is_compared() {
    let sound = zoo::image(
        "PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE gone(v);
         INSERT INTO t SELECT value, hex(noise(value, 900)) FROM generate(20);
         INSERT INTO gone SELECT hex(noise(value, 900)) FROM generate(5); DROP TABLE gone",
    );
    // The second overflow page of the first row: its leaf stays as it is.
    let leaf = pages_of_kind(&sound, 0x0d)[0];
    let chain = (leaf + 1..=sound.len() / PAGE)
        .find(|number| get(&sound, (number - 1) * PAGE) == number + 1)
        .map(|first| first + 1)
        .unwrap();
    let mut damaged = sound.clone();
    page(&mut damaged, chain)[100] ^= 1;
    let changed = damaged.clone();
    // The list of free pages has it as well.
    let trunk = (get(&sound, 32) - 1) * PAGE;
    let count = get(&sound, trunk + 4);
    put(&mut damaged, trunk + 8 + 4 * count, u32::try_from(chain).unwrap());
    put(&mut damaged, trunk + 4, u32::try_from(count).unwrap() + 1);
    put(&mut damaged, 36, u32::try_from(get(&sound, 36)).unwrap() + 1);
    assert_eq!((integrity(&changed).as_str(), integrity(&damaged).contains("2nd reference")), ("ok", true));
    for (left, right) in [(&sound, &changed), (&sound, &damaged), (&damaged, &sound)] {
        assert_eq!(counts(&compared_in_every_way(left, right), "t"), [20, 20, 0, 0, 1]);
    }
}

/// A table whose tree has two levels of interior pages, and what becomes of it when one row changes under the last
/// of its upper ones; with the number of the root.
fn deep_trees() -> (Vec<u8>, Vec<u8>, usize) {
    let (left, right) = before_and_after(
        "PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE u(v);
         INSERT INTO t SELECT value, noise(value, 200) FROM generate(600)",
        "UPDATE t SET v = noise(id + 1000, 200) WHERE id = 590",
    );
    assert_eq!(pages_of_kind(&left, 0x05)[0], 2, "the root");
    (left, right, 2)
}

/// Makes the first child of the root a leaf, so that the tree seems to be less deep than it is.
fn without_first_level(image: &mut [u8], root: usize) {
    let child = |image: &mut [u8], number: usize| {
        let page = page(image, number);
        let cell = usize::from(u16::from_be_bytes([page[12], page[13]]));
        (cell, get(page, cell))
    };
    let (_, interior) = child(image, root);
    assert_eq!(page(image, interior)[0], 0x05);
    let (_, leaf) = child(image, interior);
    assert_eq!(page(image, leaf)[0], 0x0d);
    let (cell, _) = child(image, root);
    put(page(image, root), cell, u32::try_from(leaf).unwrap());
}

#[test]
fn interior_page_in_the_place_of_a_leaf_is_a_problem_of_its_table() {
    let (left, right, root) = deep_trees();
    assert_eq!(counts(&compared_in_every_way(&left, &right), "t"), [600, 600, 0, 0, 1]);
    let mut damaged = [left.clone(), right.clone()];
    damaged.iter_mut().for_each(|image| without_first_level(image, root));
    let [damaged_left, damaged_right] = damaged;
    for (left, right) in [(&damaged_left, &damaged_right), (&left, &damaged_right), (&damaged_left, &right)] {
        let comparison = compared(left, right, &Options::default());
        assert!(!comparison.is_same());
        assert!(problem(&comparison, "t").unwrap().contains("lies at another depth"), "{comparison:?}");
        assert_eq!(problem(&comparison, "u"), None);
    }
}

#[test]
fn page_in_two_trees_is_a_problem_of_one_of_them() {
    let (left, right) = before_and_after(
        "PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE u(id INTEGER PRIMARY KEY, v);
         INSERT INTO t SELECT value, noise(value, 200) FROM generate(20);
         INSERT INTO u SELECT value, noise(value, 200) FROM generate(20); CREATE TABLE other(a)",
        "INSERT INTO other VALUES(1)",
    );
    let mut damaged = right.clone();
    let (last, of_other) = (PAGE + 8, get(&right, 2 * PAGE + 8));
    put(&mut damaged, last, u32::try_from(of_other).unwrap());
    for force in [None, Some(Way::AllPages), Some(Way::Sql)] {
        let comparison = compared(&left, &damaged, &Options { force, ..Options::default() });
        let problems: Vec<String> =
            comparison.tables.iter().filter_map(|table| table.problem.clone()).collect();
        assert_eq!(problems.len(), 1, "{comparison:?}");
        assert!(problems[0].contains("is used twice"), "{problems:?}");
    }
}

#[test]
fn tree_that_is_a_maze_is_damage_and_not_an_endless_walk() {
    let sound = zoo::image("PRAGMA page_size=1024; CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    let mut maze = zoo::image(
        "PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, v);
         INSERT INTO t SELECT value, noise(value, 400) FROM generate(30)",
    );
    // Each page has sixty ways to the next one, and the last one is an empty leaf.
    for number in 2..=16usize {
        let next = u32::try_from(number + 1).unwrap();
        let page = page(&mut maze, number);
        page.fill(0);
        page[0] = 5;
        page[4] = 60;
        let content = PAGE - 60 * 5;
        page[5..7].copy_from_slice(&u16::try_from(content).unwrap().to_be_bytes());
        put(page, 8, next);
        for cell in 0..60 {
            let at = content + cell * 5;
            page[12 + 2 * cell..14 + 2 * cell].copy_from_slice(&u16::try_from(at).unwrap().to_be_bytes());
            put(page, at, next);
            page[at + 4] = 1;
        }
    }
    let leaf = page(&mut maze, 17);
    leaf.fill(0);
    leaf[..7].copy_from_slice(&[0x0d, 0, 0, 0, 0, 2, 0]);
    for (left, right) in [(&sound, &maze), (&maze, &sound)] {
        for force in [None, Some(Way::AllPages), Some(Way::Sql)] {
            let comparison = compared(left, right, &Options { force, ..Options::default() });
            assert!(problem(&comparison, "t").unwrap().contains("is used twice"), "{comparison:?}");
        }
    }
}

/// Returns a number in three bytes, as records have it.
fn three_bytes(number: u32) -> [u8; 3] {
    let seven = |shift: u32| u8::try_from(number >> shift & 0x7f).unwrap();
    [seven(14) | 0x80, seven(7) | 0x80, seven(0)]
}

#[test]
fn overflow_that_goes_round_is_damage_and_not_an_endless_chain() {
    const LENGTH: u32 = 90_000;
    let sound = zoo::image("PRAGMA page_size=1024; CREATE TABLE t(v)");
    let mut endless = zoo::image(
        "PRAGMA page_size=512; CREATE TABLE t(v); CREATE TABLE filler(v); INSERT INTO filler VALUES(zeroblob(90000))",
    );
    // Five rows, each of all bytes that fit into the image, in one page that is its own next one.
    let (cells, local) = (5u8, 84);
    let last = endless.len() / PAGE;
    put(&mut endless, (last - 1) * PAGE, u32::try_from(last).unwrap());
    let leaf = page(&mut endless, 2);
    let content = PAGE - usize::from(cells) * (4 + local + 4);
    leaf.fill(0);
    leaf[..8].copy_from_slice(&[0x0d, 0, 0, 0, cells, 0, 0, 0]);
    leaf[5..7].copy_from_slice(&u16::try_from(content).unwrap().to_be_bytes());
    for (cell, at) in (0..cells).zip((content..).step_by(4 + local + 4)) {
        let pointer = 8 + 2 * usize::from(cell);
        leaf[pointer..pointer + 2].copy_from_slice(&u16::try_from(at).unwrap().to_be_bytes());
        leaf[at..at + 3].copy_from_slice(&three_bytes(LENGTH));
        leaf[at + 3] = cell + 1;
        // A record of one blob.
        leaf[at + 4] = 4;
        leaf[at + 5..at + 8].copy_from_slice(&three_bytes(12 + 2 * (LENGTH - 4)));
        put(leaf, at + 4 + local, u32::try_from(last).unwrap());
    }
    let comparison = compared(&sound, &endless, &Options::default());
    assert!(problem(&comparison, "t").unwrap().contains("more than once"), "{comparison:?}");
}

#[test]
fn image_that_ends_within_a_page_is_damage_and_its_end_not_left_out() {
    let (left, right) = before_and_after(
        "PRAGMA page_size=512; CREATE TABLE t(v); INSERT INTO t VALUES(hex(zeroblob(600)))",
        "UPDATE t SET v = substr(v, 1, 1000) || 'Q' || substr(v, 1002)",
    );
    assert_eq!(counts(&compared_in_every_way(&left, &right), "t"), [1, 1, 0, 0, 1]);
    let end = left.len() - 10;
    assert!(compare(&side(&left[..end]), &side(&right[..end]), &Options::default()).is_err());
}

#[test]
fn counts_of_a_table_that_could_not_be_compared_are_not_told() {
    let (left, right) =
        before_and_after("CREATE TABLE t(a); INSERT INTO t VALUES(1)", "INSERT INTO t VALUES(2)");
    let counted =
        |image: &[u8], rows: u64| Side { rows: Some([("t".to_owned(), rows)].into()), ..side(image) };
    let comparison = compare(&counted(&left, 1), &counted(&right, 5), &Options::default()).unwrap();
    let expected = TableComparison {
        name: "t".to_owned(),
        exists: [true, true],
        problem: comparison.tables[0].problem.clone(),
        way: Some(Way::ChangedPages),
        ..TableComparison::default()
    };
    assert_eq!(comparison.tables, [expected]);
}

#[test]
fn table_without_a_tree_is_a_problem_and_no_virtual_table() {
    let (mut left, mut right) = before_and_after(
        "PRAGMA page_size=512; CREATE TABLE t(a); CREATE TABLE u(a); INSERT INTO t VALUES(1)",
        "INSERT INTO u VALUES(1)",
    );
    // The record of the schema ends in the root, a byte, and the SQL.
    for image in [&mut left, &mut right] {
        let sql = image[..PAGE].windows(17).position(|bytes| bytes == b"CREATE TABLE t(a)").unwrap();
        assert_eq!(image[sql - 1], 2);
        image[sql - 1] = 0;
    }
    match compare(&side(&left), &side(&right), &Options::default()) {
        // SQLite may refuse such a schema.
        Err(error) => assert!(!matches!(error, Error::Cancelled)),
        Ok(comparison) => assert!(problem(&comparison, "t").is_some(), "{comparison:?}"),
    }
}

/// Replaces some text wherever it stands.
fn replace(image: &mut [u8], from: &[u8], to: &[u8]) -> usize {
    let places: Vec<usize> =
        (0..=image.len() - from.len()).filter(|at| &image[*at..at + from.len()] == from).collect();
    places.iter().for_each(|at| image[*at..at + from.len()].copy_from_slice(to));
    places.len()
}

#[test]
fn names_that_differ_only_in_bytes_that_are_no_utf8_are_not_taken_for_one() {
    let (mut left, mut right) = before_and_after(
        "CREATE TABLE odd_one(a); CREATE TABLE odd_two(a); INSERT INTO odd_one VALUES(1)",
        "INSERT INTO odd_one VALUES(2)",
    );
    for image in [&mut left, &mut right] {
        assert!(replace(image, b"odd_one", b"odd\xffodd") > 0);
        assert!(replace(image, b"odd_two", b"odd\xfeodd") > 0);
    }
    // Which of the two differs cannot be told, but that something does.
    assert!(compare(&side(&left), &side(&right), &Options::default()).is_err());
}

#[test]
fn sql_that_differs_only_in_bytes_that_are_no_utf8_is_not_the_same() {
    let (mut left, _) = before_and_after(
        "CREATE TABLE t(a); INSERT INTO t VALUES(1); ALTER TABLE t ADD COLUMN b DEFAULT 'QRS'",
        "",
    );
    let mut right = left.clone();
    assert_eq!((replace(&mut left, b"QRS", b"Q\xffS"), replace(&mut right, b"QRS", b"Q\xfeS")), (1, 1));
    let comparison = compared(&left, &right, &Options::default());
    assert_eq!(comparison.schema.changed.len(), 1);
    assert!(problem(&comparison, "t").unwrap().contains("cannot be read"), "{comparison:?}");
}

#[test]
fn equal_pages_of_two_encodings_hold_other_texts() {
    let image = |encoding: &str, value: &str| {
        zoo::image(&format!("PRAGMA encoding='{encoding}'; CREATE TABLE t(v); INSERT INTO t VALUES({value})"))
    };
    let (left, right) = (image("UTF-8", "'a' || char(0)"), image("UTF-16le", "'a'"));
    assert_eq!(left[4096..], right[4096..], "otherwise the test shows nothing");
    assert_eq!(counts(&compared_in_every_way(&left, &right), "t"), [1, 1, 0, 0, 1]);
}
