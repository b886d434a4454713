//! Documents of ours and of other programs, whole and damaged.

use super::*;

fn problem_of(text: &str) -> Option<String> {
    document(&mut text.as_bytes()).unwrap().problem
}

#[test]
fn rows_are_counted_and_compared_with_the_metadata() {
    let text = r#"{"metadata":{"format":"dbkeep json 1","row_counts":{"a":2,"b":0}},"tables":{"a":[{"x":1},{"x":{"$blob":"AA=="}}],"b":[]}}"#;
    let read = document(&mut text.as_bytes()).unwrap();
    assert_eq!(read.problem, None);
    let tables: Vec<(&str, u64)> = read.tables.iter().map(|t| (t.name.as_str(), t.rows)).collect();
    assert_eq!(tables, [("a", 2), ("b", 0)]);
    let fewer = text.replace(r#"{"x":1},"#, "");
    assert_eq!(problem_of(&fewer).unwrap(), "table \"a\" has 1 rows, its metadata says 2");
    assert!(problem_of(&text[..text.len() - 1]).unwrap().contains("not valid JSON"));
    assert!(problem_of(&text.replace("AA==", "A!==")).unwrap().contains("cannot be read"));
    assert!(problem_of(&format!("{text} x")).is_some());
    assert!(problem_of(&text.replace("\"b\":[]", "\"c\":[]")).is_some());
    assert!(problem_of(&text.replace("\"b\":[]", "\"a\":[]")).unwrap().contains("is there twice"));
    assert!(problem_of(&text.replace("\"b\":[]", "\"b\":7")).is_some());
    assert!(problem_of(&text.replace("row_counts", "row_sounts")).unwrap().contains("does not say"));
    let twice = text.replace("\"tables\"", "\"metadata\":{},\"tables\"");
    assert!(problem_of(&twice).unwrap().contains("the metadata is there twice"));
    let foreign = r#"{"data":{"a":{"rowCount":3,"rows":[{}]}}}"#;
    assert_eq!(problem_of(foreign).unwrap(), "table \"a\" has 1 rows, the document itself says 3");
    let foreign = r#"{"tables":{"a":[{}]},"statistics":{"a":{"count":2}}}"#;
    assert_eq!(problem_of(foreign).unwrap(), "table \"a\" has 1 rows, the document itself says 2");
}

#[test]
fn documents_of_other_programs_are_read_for_what_they_have() {
    let tables = |text: &str| -> Vec<(String, u64)> {
        let read = document(&mut text.as_bytes()).unwrap();
        assert_eq!(read.problem, None, "{text}");
        read.tables.into_iter().map(|table| (table.name, table.rows)).collect()
    };
    let users = |rows: u64| vec![("users".to_owned(), rows)];
    let text = r#"{"exported":"today","users":[{"id":1}],"stats":{"users":1},"tags":[1,2],"x":{"y":[{}]}}"#;
    assert_eq!(tables(text), users(1));
    assert_eq!(tables(r#"{"metadata":{"database":7},"tables":{"users":[{},{"$blob":"-"}]}}"#), users(2));
    assert_eq!(tables(r#"{"tables":["users","orders"],"users":[{}]}"#), users(1));
    assert_eq!(tables(r#"{"tables":{"users":{"rows":[{}],"columns":["id"]}}}"#), users(1));
    assert_eq!(tables(r#"{"data":{"users":{"count":2,"data":[{},{}]}},"timestamp":"t"}"#), users(2));
    assert_eq!(tables(r#"{"data":{"users":[{}]},"statistics":{"users":1,"total":7}}"#), users(1));
    assert_eq!(tables(r#"{"tables":{"users":{"rows":1,"data":[{}]}}}"#), users(1));
    assert_eq!(tables(r#"{"tables":{"users":{"indexes":[{}]}}}"#), []);
    assert_eq!(tables(r#"{"statistics":[{}],"users":[{}]}"#).len(), 2, "a table may be called so");
}

#[test]
fn row_that_would_fill_the_memory_is_refused_and_many_rows_are_not() {
    let row = format!("{{\"x\":\"{}\"}}", "y".repeat(300));
    let rows = vec![row; 100].join(",");
    let text = format!("{{\"a\":[{rows}],\"b\":[{rows}]}}");
    let read = document_of(&mut text.as_bytes(), 1000).unwrap();
    assert_eq!((read.problem, read.tables.len(), read.tables[1].rows), (None, 2, 100));
    let text = format!("{{\"a\":[{{\"x\":\"{}\"}}]}}", "y".repeat(2000));
    let error = document_of(&mut text.as_bytes(), 1000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    let error = lines_of(&mut text.as_bytes(), "t", 1000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(lines_of(&mut text.as_bytes(), "t", 3000).unwrap().tables[0].rows, 1);
}

#[test]
fn lines_without_their_end_are_told() {
    let text = "{\"metadata\":{\"row_counts\":{\"a\":1,\"b\":0}}}\n{\"table\":\"a\",\"row\":{\"x\":1}}\n{\"end\":{\"tables\":2,\"rows\":1}}\n";
    let read = |text: &str| lines(&mut text.as_bytes(), "t").unwrap();
    assert_eq!(read(text).problem, None);
    let cut: String = text.split_inclusive('\n').take(2).collect();
    assert!(read(&cut).problem.unwrap().contains("breaks off"));
    assert!(read(&format!("{text}{{}}")).problem.unwrap().contains("more behind the end"));
    assert!(read(&text.replace("\"tables\":2", "\"tables\":3")).problem.is_some());
    assert!(read(&text.replace("\"row\"", "\"raw\"")).problem.unwrap().contains("no row of a table"));
    assert!(read("{\"x\":1}\n{\"x\"").problem.unwrap().starts_with("line 2: it is not valid JSON"));
    assert_eq!(read("{\"x\":1}\n{\"x\":2}\n").tables, [TableRows { name: "t".to_owned(), rows: 2 }]);
}

#[test]
fn lines_of_other_programs_may_have_any_columns() {
    let text = "{\"metadata\":{\"a\":1},\"end\":\"x\"}\n{\"table\":\"u\",\"row\":{}}\n{\"end\":{\"rows\":1}}\n{\"metadata\":{}}\n";
    let read = lines(&mut text.as_bytes(), "t").unwrap();
    assert_eq!(read.problem, None);
    assert_eq!(read.tables, [TableRows { name: "t".to_owned(), rows: 4 }]);
}
