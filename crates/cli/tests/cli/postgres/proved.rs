//! What `verified` means: every row of the snapshot is in the restored database and was compared. And what is told
//! where that is not so.

use dbkeep_testkit::postgres::Server;
use serde_json::{Value, json};

use super::Shop;

/// Makes the shop have an extension, with rows of the user's, that no other server has.
fn schedule(server: &Server) {
    server.sql(
        "shop",
        "CREATE SCHEMA cron; CREATE TABLE cron.job (id int PRIMARY KEY, command text); CREATE TABLE cron.idle (n int);
         INSERT INTO cron.job VALUES (1, 'vacuum'), (2, 'nothing');",
    );
    server.pretend_extension("shop", "clockwork", "cron", &["job", "idle"]);
}

#[test]
fn database_without_rows_of_an_extension_is_not_called_verified() {
    let Some(shop) = Shop::open() else { return };
    let environment = &shop.environment;
    schedule(&shop.server);
    let snapshot = shop.back_up();
    let missing = "2 rows of table cron.job are missing: the extension clockwork could not be restored";
    for verify in ["quick", "none"] {
        let (code, report) = environment.json(&["restore", "latest", "--to", verify, "--verify", verify]);
        assert_eq!(code, Some(4), "{report:#}");
        assert_eq!((&report["verified"], &report["rows"]), (&json!(false), &json!(20_250)), "{report:#}");
        assert_eq!((&report["integrity"], &report["left_out"]), (&json!(missing), &json!(2)), "{report:#}");
        let note = "not restored: 2 rows of table cron.job (the extension clockwork could not be restored)";
        assert_eq!(report["notes"][0], note, "{report:#}");
        assert!(report["notes"][1].as_str().unwrap().contains("extension clockwork"), "{report:#}");
        // Everything else is there.
        assert_eq!(shop.server.sql(verify, "SELECT count(*) FROM orders"), "20000");
    }
    let run = environment.run(["restore", "latest", "--to", "read by a person"]);
    run.expect(4);
    assert!(run.stdout.contains(missing) && run.stdout.contains("not verified"), "{}", run.stdout);
    assert!(run.stderr.contains("note: not restored: 2 rows of table cron.job"), "{}", run.stderr);

    // A drill has not tried those rows, and that says nothing against the snapshot.
    let (code, report) = environment.json(&["drill"]);
    let drill = &report["drills"][0];
    assert_eq!((code, &drill["status"], &drill["findings"]), (Some(4), &json!("failed"), &json!([missing])));
    let list = environment.ok_json(&["list"]);
    let row = &list["snapshots"][0];
    assert_eq!((&row["integrity"], &row["drilled"]), (&json!("ok"), &Value::Null), "{list:#}");
    let plan = environment.ok_json(&["restore", "latest", "--to", "again", "--dry-run"]);
    assert_eq!(plan["restores"][0]["snapshot"], json!(snapshot));
}

#[test]
fn drill_that_left_things_out_says_how_many() {
    let Some(shop) = Shop::open() else { return };
    let environment = &shop.environment;
    schedule(&shop.server);
    shop.server.sql("shop", "DELETE FROM cron.job");
    shop.back_up();
    let report = environment.ok_json(&["drill"]);
    let drill = &report["drills"][0];
    assert_eq!((&drill["status"], &drill["left_out"]), (&json!("ok"), &json!(1)), "{report:#}");
    assert!(
        drill["notes"][0].as_str().unwrap().starts_with("not restored: extension clockwork ("),
        "{drill:#}"
    );
    let run = environment.ok(["drill"]);
    assert!(run.stdout.contains("ok, 1 left out"), "{}", run.stdout);
    assert!(
        run.stdout.ends_with("1 drill passed, none failed; 1 thing could not be restored, as noted\n"),
        "{}",
        run.stdout
    );
    let report = environment.ok_json(&["restore", "latest", "--to", "whole"]);
    assert_eq!((&report["verified"], &report["left_out"]), (&json!(true), &json!(1)), "no row is missing");
}

/// Makes the shop such that a server which restores it runs `harm` in the new database when it makes an index.
fn plant(server: &Server, harm: &str) {
    server.sql(
        "shop",
        &format!(
            "CREATE TABLE trap (id int); INSERT INTO trap VALUES (1);
             CREATE FUNCTION harm() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {harm}; END $$;
             CREATE FUNCTION of(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
                 AS $$ BEGIN PERFORM public.harm(); RETURN $1; END $$;
             CREATE INDEX ON trap (of(id));"
        ),
    );
}

fn databases(server: &Server) -> String {
    server.sql(
        "postgres",
        "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate",
    )
}

#[test]
fn large_objects_are_read_again_before_a_restore_counts() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    plant(
        server,
        "PERFORM lo_put(100, 0, 'X') WHERE EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata WHERE oid = 100)",
    );
    server.sql("shop", "SELECT lo_from_bytea(100, 'something of the shop'), lo_create(101)");
    shop.back_up();
    let run = environment.run(["restore", "latest", "--to", "harmed"]);
    run.expect_failure(1, "large objects do not hold what those of the snapshot hold", "");
    assert_eq!(databases(server), "postgres shop", "nothing is called so");
    let report = environment.ok_json(&["restore", "latest", "--to", "harmed", "--verify", "none"]);
    assert_eq!(report["verified"], false);
    assert_eq!(server.sql("harmed", "SELECT convert_from(lo_get(100), 'UTF8')"), "Xomething of the shop");

    server.sql("shop", "DROP TABLE trap");
    server.sql("shop", "CREATE ROLE keeper; ALTER LARGE OBJECT 101 OWNER TO keeper; GRANT SELECT ON LARGE OBJECT 100 TO keeper");
    shop.back_up();
    let report = environment.ok_json(&["restore", "latest", "--to", "sound"]);
    assert_eq!((&report["verified"], &report["left_out"]), (&json!(true), &json!(0)), "{report:#}");
    let objects =
        "SELECT oid, pg_get_userbyid(lomowner), lomacl, lo_get(oid) FROM pg_largeobject_metadata ORDER BY 1";
    assert_eq!(server.sql("sound", objects), server.sql("shop", objects));

    // An object more than there were.
    server.sql("postgres", "UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'");
    server.sql("template0", "SELECT lo_create(777)");
    let run = environment.run(["restore", "latest", "--to", "more"]);
    run.expect_failure(1, "there are 3 large objects instead of 2", "");
    assert_eq!(databases(server), "harmed postgres shop sound");
}

#[test]
fn drill_calls_no_snapshot_damaged_for_what_a_server_did() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    plant(server, "DELETE FROM public.orders WHERE id = 7");
    server.sql("shop", "INSERT INTO orders (id, user_id, total) VALUES (7, 1, 2)");
    let snapshot = shop.back_up();
    let (code, report) = environment.json(&["drill"]);
    let drill = &report["drills"][0];
    assert_eq!(
        (code, &drill["status"], &drill["error"]),
        (Some(4), &json!("failed"), &Value::Null),
        "{report:#}"
    );
    let finding = "the restored database is not sound: table public.orders has 19999 rows instead of 20000; all that is \
                   stored is as its manifest says: it is the server that has it otherwise";
    assert_eq!(drill["findings"], json!([finding]));
    let list = environment.ok_json(&["list"]);
    let row = &list["snapshots"][0];
    assert_eq!((&row["integrity"], &row["drilled"]), (&json!("ok"), &Value::Null), "{list:#}");
    let latest = environment.ok_json(&["show", "latest"]);
    assert_eq!(latest["repository"]["id"], json!(snapshot), "it is still good");
    environment.ok(["verify"]);
}
