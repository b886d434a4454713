//! A snapshot without us: `restic restore`, and then what README.txt says, with the tools of PostgreSQL.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Shop;
use crate::environment::{TestEnvironment, restic};

#[test]
fn readme_of_a_snapshot_brings_the_database_back_with_stock_tools() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    server.sql(
        "shop",
        "CREATE TABLE \"Odd, name\" (\"a b\" int, \"select\" text);
         INSERT INTO \"Odd, name\" VALUES (1, NULL), (2, ''), (3, E'line\\nend');
         CREATE TABLE large (id int PRIMARY KEY, payload text);
         INSERT INTO large SELECT n, repeat(md5(n::text), 40) FROM generate_series(1, 60000) n;",
    );
    let snapshot = shop.back_up();
    let Some(mut restic) = restic(environment) else { return };
    let target = environment.path("out");
    let output = restic.arg("restore").arg(&snapshot).arg("--target").arg(&target).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = target.join("shop");
    let readme = fs::read_to_string(folder.join("README.txt")).unwrap();
    // Only the commands are indented and come before the list of tables.
    let steps = readme.split("\nTables:\n").next().unwrap();
    let steps: Vec<&str> = steps.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(steps.iter().any(|step| step.contains("\\copy")), "{readme}");
    assert!(readme.contains("settings.sql has what is set for the database itself"), "{readme}");
    assert!(readme.contains("under its old name \"shop\""), "{readme}");
    assert!(folder.join("data/public.large.copy.parts").is_dir(), "a large table is in parts");
    expect_verified_as_files(environment, &folder);
    join_parts(&folder.join("data"));

    let catalog: Value = serde_json::from_slice(&fs::read(folder.join("catalog.json")).unwrap()).unwrap();
    let run = |step: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", step]).current_dir(&folder).env("PGUSER", "postgres");
        command.env("PGHOST", server.socket_folder()).env("PGPORT", server.port().to_string());
        let path = std::env::var("PATH").unwrap();
        let programs = server.programs().program("");
        command.env("PATH", format!("{}:{path}", programs.display()));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let mut copied = 0;
    for step in steps {
        if !step.contains("\\copy") {
            run(step);
            continue;
        }
        for table in catalog["tables"].as_array().unwrap() {
            let Some(copy) = copy_of(table, &folder) else { continue };
            fs::write(folder.join("one.sql"), format!("{copy}\n")).unwrap();
            run("psql --dbname=restored --set=ON_ERROR_STOP=1 --file=one.sql");
            copied += 1;
        }
        for sequence in catalog["sequences"].as_array().unwrap() {
            run(&position_of(sequence));
        }
    }
    assert_eq!(copied, 5);
    shop.expect_same("shop", server, "restored");
}

/// Verifies the restored files as they lie there, and finds what is done to them.
fn expect_verified_as_files(environment: &TestEnvironment, folder: &Path) {
    let verify = || {
        let (code, document) = environment.json(&["verify", "out"]);
        let checked = document["checked"].as_array().unwrap();
        assert_eq!(checked.len(), 1, "{document:#}");
        (code, checked[0].clone())
    };
    let (code, checked) = verify();
    assert_eq!((code, &checked["status"]), (Some(0), &"ok".into()), "{checked:#}");
    let large = checked["tables"].as_array().unwrap().iter().find(|table| table["name"] == "public.large");
    assert_eq!(large.unwrap()["rows"], 60000, "{checked:#}");
    let notes = checked["notes"].to_string();
    assert!(
        notes.contains("schema.dump and catalog.json were read, globals.sql and settings.sql were not"),
        "{notes}"
    );

    let parts = folder.join("data/public.large.copy.parts");
    let last = fs::read_dir(&parts).unwrap().map(|entry| entry.unwrap().path()).max().unwrap().join("part");
    let broken = |path: &Path, change: &dyn Fn(&[u8]) -> Option<Vec<u8>>, finding: &str| {
        let whole = fs::read(path).unwrap();
        match change(&whole) {
            Some(changed) => fs::write(path, changed).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let (code, checked) = verify();
        assert_eq!((code, &checked["status"]), (Some(4), &"damaged".into()), "{checked:#}");
        assert!(checked["findings"].to_string().contains(finding), "{finding}: {checked:#}");
        fs::write(path, whole).unwrap();
    };
    broken(&last, &|whole| Some(whole[..whole.len() / 2].to_vec()), "large");
    broken(&folder.join("schema.dump"), &|whole| Some(whole[..whole.len() / 2].to_vec()), "schema.dump: ");
    broken(&folder.join("schema.dump"), &|_| Some(b"-- nothing".to_vec()), "schema.dump: ");
    broken(
        &folder.join("catalog.json"),
        &|whole| Some(whole[..whole.len() / 2].to_vec()),
        "catalog.json cannot be read",
    );
    broken(&folder.join("globals.sql"), &|_| None, "globals.sql is not there");
    broken(&folder.join("settings.sql"), &|_| None, "settings.sql is not there");
    assert_eq!(verify().0, Some(0));
}

/// Puts the parts of files together, as README.txt says.
fn join_parts(data: &Path) {
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(whole) = name.strip_suffix(".parts") {
            let step = format!("cat '{name}'/*/part > '{whole}'");
            assert!(Command::new("sh").args(["-c", &step]).current_dir(data).status().unwrap().success());
        }
    }
}

/// Returns the command for the rows of a table of `catalog.json`.
fn copy_of(table: &Value, folder: &Path) -> Option<String> {
    let quoted = |name: &Value| format!("\"{}\"", name.as_str().unwrap().replace('"', "\"\""));
    let (schema, name) = (&table["name"]["schema"], &table["name"]["name"]);
    let columns = table["columns"].as_array().unwrap().iter();
    let columns: Vec<String> =
        columns.filter(|column| column["generated"] != true).map(|column| quoted(&column["name"])).collect();
    let encoded = name.as_str().unwrap().replace(',', "%2C");
    let file = [name.as_str().unwrap(), &encoded]
        .map(|name| format!("data/{}.{name}.copy", schema.as_str().unwrap()))
        .into_iter()
        .find(|file| folder.join(file).is_file())?;
    Some(format!("\\copy {}.{} ({}) from '{file}'", quoted(schema), quoted(name), columns.join(", ")))
}

/// Returns the command that puts a sequence of `catalog.json` where it stood.
fn position_of(sequence: &Value) -> String {
    let name = format!(
        "{}.{}",
        sequence["name"]["schema"].as_str().unwrap(),
        sequence["name"]["name"].as_str().unwrap()
    );
    format!(
        "psql --dbname=restored --command=\"SELECT setval('{name}', {}, {})\"",
        sequence["last-value"], sequence["is-called"]
    )
}
