//! Passwords that one program adds and the other uses.

use dbkeep_repo::{Error, KeyOptions, Secret};
use jiff::Timestamp;

use crate::stock::{Stock, complaint};

#[test]
fn password_that_restic_adds_opens_for_us() {
    let Some(stock) = Stock::find() else { return };
    stock.init_theirs();
    std::fs::write(stock.path("second"), "second password\r\n\n").unwrap();
    stock.run(&["key", "add", "--new-password-file", stock.path("second").to_str().unwrap()]);
    let file = std::fs::read_to_string(stock.path("second")).unwrap();
    let opened = stock.open(Secret::from_file_contents(file).expose()).unwrap();
    assert_eq!(opened.keys().unwrap().len(), 2);
    assert!(matches!(stock.open("third"), Err(Error::WrongPassword)));

    let listed = stock.json(&["key", "list"]);
    let ids: Vec<_> = opened.keys().unwrap().iter().map(|key| key.id.short()).collect();
    for key in listed.as_array().unwrap() {
        assert!(ids.iter().any(|id| id.starts_with(key["id"].as_str().unwrap())), "{key}");
    }
}

#[test]
fn password_that_we_add_and_remove_opens_for_restic_and_does_not() {
    let Some(stock) = Stock::find() else { return };
    let ours = stock.init_ours();
    let options = KeyOptions { username: Some("ann".to_owned()), ..KeyOptions::default() };
    let key = ours.add_key(&Secret::from("sécond \"x\""), &options, Timestamp::now()).unwrap();
    assert!(stock.attempt("sécond \"x\"", &["snapshots"]).status.success());
    let listed = stock.json(&["key", "list"]);
    assert!(listed.as_array().unwrap().iter().any(|key| key["userName"] == "ann"), "{listed}");

    ours.remove_key(&key).unwrap();
    let output = stock.attempt("sécond \"x\"", &["snapshots"]);
    assert!(complaint(&output).contains("wrong password"), "{output:?}");
    stock.run(&["snapshots"]);
}
