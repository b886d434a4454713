//! PostgreSQL through the binary, while everything goes on: transactions, DDL, killed processes, ended sessions, a
//! server that stops. Each backup that was acknowledged restores to one moment; each target is whole.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dbkeep_testkit::Rng;
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};
use dbkeep_testkit::process::{Outcome, Run};
use dbkeep_testkit::proxy::{Afterwards, Proxy};
use dbkeep_testkit::session::{Over, Session};

use crate::kill::steps_of;
use crate::space::{SmallDisk, expect_says_full, used};
use crate::{World, snapshot_of, times};

/// No command of these tests takes longer, whatever becomes of its connections.
const PATIENCE: Duration = Duration::from_secs(150);

/// A server with a bank, and a place to back it up to.
struct Bank {
    world: World,
    server: Server,
}

/// Money moves from one table to the other, and each transaction leaves its number in two more, one of eight in a large
/// object, too; and who moved it, with a number of its own that goes up by one. Some move money that they give back. `pad`
/// makes reading take a while.
const BANK: &str = "
    CREATE TABLE checking (id int PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE savings (id int PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE sent (number bigint PRIMARY KEY, amount bigint NOT NULL);
    CREATE TABLE received (number bigint PRIMARY KEY, amount bigint NOT NULL);
    CREATE TABLE moved (mover int, turn bigint, number bigint NOT NULL, PRIMARY KEY (mover, turn));
    CREATE TABLE pad (id int PRIMARY KEY, filler text);
    CREATE SEQUENCE numbers;
    CREATE UNLOGGED TABLE done ();
    INSERT INTO checking SELECT n, 1000 FROM generate_series(1, 50) n;
    INSERT INTO savings SELECT n, 1000 FROM generate_series(1, 50) n;
    INSERT INTO pad SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 20000) n;
    CREATE PROCEDURE give_back(mover int, turn bigint, n bigint) LANGUAGE plpgsql AS $$
    BEGIN
      UPDATE checking SET balance = balance - 100 WHERE id = 1 + n % 50;
      INSERT INTO sent VALUES (-n, 100);
      INSERT INTO moved VALUES (mover, turn, -n);
    END $$;
    CREATE PROCEDURE move(mover int, turn bigint, n bigint) LANGUAGE plpgsql AS $$
    BEGIN
      BEGIN
        UPDATE savings SET balance = balance + 100 WHERE id = 1 + n % 50;
        INSERT INTO received VALUES (-n, 100 / (n % 3));
      EXCEPTION WHEN division_by_zero THEN NULL;
      END;
      DELETE FROM received WHERE number = -n;
      IF FOUND THEN UPDATE savings SET balance = balance - 100 WHERE id = 1 + n % 50; END IF;
      UPDATE checking SET balance = balance - n % 7 WHERE id = 1 + n % 50;
      INSERT INTO sent VALUES (n, n % 7);
      UPDATE savings SET balance = balance + n % 7 WHERE id = 1 + n % 50;
      INSERT INTO received VALUES (n, n % 7);
      INSERT INTO moved VALUES (mover, turn, n);
      IF n % 8 = 0 THEN PERFORM lo_from_bytea(0, int8send(n)); END IF;
    END $$;
    CREATE PROCEDURE keep_moving(mover int) LANGUAGE plpgsql AS $$
    DECLARE
      n bigint;
      turn bigint := 0;
    BEGIN
      LOOP
        n := nextval('numbers');
        turn := turn + 1;
        IF n % 5 = 0 THEN
          CALL give_back(mover, turn, n);
          ROLLBACK;
        END IF;
        CALL move(mover, turn, n);
        COMMIT;
        EXIT WHEN EXISTS (SELECT FROM public.ended);
        PERFORM pg_sleep(0.001);
      END LOOP;
    END $$;
    CREATE TABLE ended (now bool);";

/// What is wrong with a bank; nothing when it is one consistent moment.
const WRONG: &str = "
    SELECT 'sum' WHERE (SELECT sum(balance) FROM checking) + (SELECT sum(balance) FROM savings) <> 100000
    UNION ALL SELECT 'sent' WHERE (SELECT sum(balance) FROM checking)
        <> 50000 - (SELECT coalesce(sum(amount), 0) FROM sent)
    UNION ALL SELECT 'received' WHERE (SELECT sum(balance) FROM savings)
        <> 50000 + (SELECT coalesce(sum(amount), 0) FROM received)
    UNION ALL SELECT 'only sent ' || count(*) FROM (TABLE sent EXCEPT TABLE received) one HAVING count(*) > 0
    UNION ALL SELECT 'only received ' || count(*) FROM (TABLE received EXCEPT TABLE sent) one HAVING count(*) > 0
    UNION ALL SELECT 'moved by nobody ' || count(*) FROM (SELECT number FROM sent EXCEPT SELECT number FROM moved) one
        HAVING count(*) > 0
    UNION ALL SELECT 'only moved ' || count(*) FROM (SELECT number FROM moved EXCEPT SELECT number FROM sent) one
        HAVING count(*) > 0
    UNION ALL SELECT 'of mover ' || mover || ' there are ' || count(*) || ' up to ' || max(turn) FROM moved
        GROUP BY mover HAVING count(*) <> max(turn) OR min(turn) <> 1
    UNION ALL SELECT 'order of mover ' || mover FROM
        (SELECT mover, number < lag(number) OVER (PARTITION BY mover ORDER BY turn) AS is_back FROM moved) one
        GROUP BY mover HAVING bool_or(is_back)
    UNION ALL SELECT 'numbers are behind' WHERE (SELECT last_value FROM numbers) < (SELECT max(number) FROM sent)
    UNION ALL SELECT 'large objects' FROM (
        (SELECT int8send(number) FROM sent WHERE number % 8 = 0)
        EXCEPT (SELECT lo_get(oid) FROM pg_largeobject_metadata)) lost HAVING count(*) > 0
    UNION ALL SELECT 'more large objects' WHERE (SELECT count(*) FROM pg_largeobject_metadata)
        <> (SELECT count(*) FROM sent WHERE number % 8 = 0)
    UNION ALL SELECT 'pad' WHERE (SELECT count(*) FROM pad) <> 20000";

impl Bank {
    fn open() -> Option<Self> {
        let Some(programs) = Programs::newest_with_tls() else {
            println!("{SKIPPED}");
            return None;
        };
        let configuration = vec!["max_prepared_transactions = 4".to_owned()];
        let server = Server::start(&programs, &Settings { configuration, ..Settings::default() });
        server.create_database("bank");
        server.sql("bank", BANK);
        Some(Self { world: World::new(), server })
    }

    fn run(&self, line: &[&str]) -> Run {
        self.world.dbkeep.run(line.iter().copied().chain(["--json"]))
    }

    fn backup(&self) -> Run {
        self.run(&["backup", &self.server.url("bank")])
    }

    /// Starts somebody who moves money until it is said to end.
    fn start_moving(&self, mover: usize) -> Child {
        self.psql(&format!("CALL keep_moving({mover})")).spawn().unwrap()
    }

    /// Moves money in two phases until it is said to end: each transaction is prepared, and then committed, or given back.
    fn move_in_two_phases(&self, mover: usize, is_over: &AtomicBool) {
        let mut session = Session::begin(&mut self.psql_of_lines());
        let mut turn = 0;
        while !is_over.load(Ordering::Relaxed) {
            turn += 1;
            for (call, end) in [("give_back", "ROLLBACK"), ("move", "COMMIT")] {
                session.run(&format!(
                    "BEGIN; CALL {call}({mover}, {turn}, nextval('numbers')); PREPARE TRANSACTION 'one';
                     SELECT pg_sleep(0.002);
                     {end} PREPARED 'one';"
                ));
            }
        }
        session.end();
        assert!(turn > 9, "{turn} turns in two phases");
    }

    fn psql(&self, sql: &str) -> Command {
        let mut command = self.psql_of_lines();
        command.args(["-c", sql]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn psql_of_lines(&self) -> Command {
        let mut command = Command::new(self.server.programs().program("psql"));
        command
            .arg("-Xq")
            .arg("-h")
            .arg(self.server.socket_folder())
            .args(["-p", &self.server.port().to_string()]);
        command.args(["-U", "postgres", "-v", "ON_ERROR_STOP=1", "-d", "bank"]);
        command
    }

    /// Restores a snapshot beside the original and makes sure that it is one moment. Returns how many transactions it
    /// has.
    #[track_caller]
    fn expect_one_moment(&self, snapshot: &str) -> u64 {
        let report = self.run(&["restore", snapshot, "--to", "restored"]).success().json();
        assert_eq!(report["verified"], true, "{report}");
        assert_eq!(self.server.sql("restored", WRONG), "");
        let count = self.server.sql("restored", "SELECT count(*) FROM sent").parse().unwrap();
        self.server.sql("postgres", "DROP DATABASE restored");
        count
    }

    /// Returns the ids of all snapshots that are listed.
    fn snapshots(&self) -> Vec<String> {
        let outcome = self.run(&["list"]).go();
        if outcome.code() == Some(10) {
            return Vec::new();
        }
        let rows = outcome.success().json();
        let id = |row: &serde_json::Value| row["id"].as_str().unwrap().to_owned();
        rows["snapshots"].as_array().unwrap().iter().map(id).collect()
    }

    /// Ends all our sessions at the server.
    fn end_sessions(&self) -> u64 {
        let ended = self.server.sql(
            "postgres",
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'dbkeep%'",
        );
        ended.parse().unwrap()
    }

    /// Expects a failure that says what happened: nothing is acknowledged.
    #[track_caller]
    fn expect_clear_failure(outcome: &Outcome) {
        assert_eq!(outcome.code(), Some(1), "{}", outcome.transcript());
        let error = outcome.json()["error"].clone();
        let message = error["message"].as_str().unwrap();
        assert!(!message.is_empty() && !outcome.stderr.contains("panicked"), "{}", outcome.transcript());
    }

    /// Returns the URL of a database through a proxy.
    fn through(proxy: &Proxy, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", proxy.port())
    }

    /// Returns whether there is a database of a name.
    fn has(&self, database: &str) -> bool {
        let sql = format!("SELECT count(*) FROM pg_database WHERE datname = '{database}'");
        self.server.sql("postgres", &sql) == "1"
    }

    /// Drops what unfinished and finished restores left beside the original.
    fn tidy(&self) {
        let others =
            "SELECT datname FROM pg_database WHERE datname LIKE 'bank\\_%' OR datname LIKE 'restored%'";
        for name in self.server.sql("postgres", others).lines() {
            self.server.sql("postgres", &format!("DROP DATABASE \"{name}\" WITH (FORCE)"));
        }
    }
}

/// Returns what takes everything of one transaction away.
fn undone(mover: u64, turn: u64) -> String {
    format!(
        "WITH one AS (DELETE FROM moved WHERE mover = {mover} AND turn = {turn} RETURNING number),
              back AS (DELETE FROM sent s USING one WHERE s.number = one.number RETURNING s.number, amount),
              away AS (DELETE FROM received r USING one WHERE r.number = one.number RETURNING r.number, amount),
              given AS (UPDATE checking SET balance = balance + amount FROM back WHERE id = 1 + number % 50),
              taken AS (UPDATE savings SET balance = balance - amount FROM away WHERE id = 1 + number % 50)
         SELECT FROM one, pg_largeobject_metadata o
         WHERE CASE WHEN lo_get(o.oid) = int8send(number) THEN lo_unlink(o.oid) < 0 END;"
    )
}

#[test]
fn postgres_bank_that_lacks_something_is_found_wrong() {
    let Some(bank) = Bank::open() else { return };
    let moves = "DO $$ BEGIN FOR turn IN 1..20 LOOP FOR mover IN 1..2 LOOP
            CALL move(mover, turn, nextval('numbers'));
        END LOOP; END LOOP; END $$";
    bank.server.sql("bank", moves);
    let wrong = |harm: &str| bank.server.sql("bank", &format!("BEGIN; {harm} {WRONG}; ROLLBACK"));
    assert_eq!(wrong(""), "");
    // One that begins later may end later, and not be there.
    assert_eq!(wrong(&undone(2, 20)), "");
    assert_eq!(wrong(&(undone(1, 20) + &undone(1, 19))), "");
    assert_eq!(wrong(&undone(1, 7)), "of mover 1 there are 19 up to 20");
    assert_eq!(wrong(&undone(2, 1)), "of mover 2 there are 19 up to 20");
    assert_eq!(wrong(&(undone(1, 20) + &undone(1, 18))), "of mover 1 there are 18 up to 19");
    // Number 24, which has a large object.
    assert_eq!(wrong(&undone(2, 12)), "of mover 2 there are 19 up to 20");
    let half = "DELETE FROM moved WHERE mover = 2 AND turn = 20;";
    assert_eq!(wrong(half), "moved by nobody 1");
    let half = "DELETE FROM sent WHERE number = 40; DELETE FROM received WHERE number = 40;";
    assert_eq!(wrong(half), "sent\nreceived\nonly moved 1\nmore large objects");
    let leaked = "CALL give_back(1, 21, 41);";
    assert_eq!(wrong(leaked), "sum\nonly sent 1\norder of mover 1");
    let exchanged = "UPDATE moved SET turn = -turn WHERE mover = 1 AND turn IN (3, 4);
        UPDATE moved SET turn = 7 + turn WHERE turn < 0;";
    assert_eq!(wrong(exchanged), "order of mover 1");
    assert_eq!(wrong("ALTER SEQUENCE numbers RESTART WITH 39;"), "numbers are behind");
}

#[test]
fn postgres_oracle_every_backup_under_load_is_one_moment() {
    let Some(bank) = Bank::open() else { return };
    let mut movers: Vec<Child> = (0..3).map(|mover| bank.start_moving(mover)).collect();
    let is_over = AtomicBool::new(false);
    let done = || -> u64 { bank.server.sql("bank", "SELECT count(*) FROM sent").parse().unwrap() };
    let snapshots = thread::scope(|scope| {
        let over = Over(&is_over);
        let in_two_phases = scope.spawn(|| bank.move_in_two_phases(3, &is_over));
        let mut snapshots = Vec::new();
        for number in 0..times(4, 200) {
            let line = ["backup", &bank.server.url("bank"), "--yield"];
            let before = done();
            let outcome = bank.run(&line[..if number % 2 == 0 { 2 } else { 3 }]).success();
            snapshots.push((snapshot_of(&outcome), before..=done()));
        }
        drop(over);
        in_two_phases.join().unwrap();
        snapshots
    });
    bank.server.sql("bank", "INSERT INTO ended VALUES (true)");
    for mover in &mut movers {
        assert!(mover.wait().unwrap().success(), "somebody who moved money failed");
    }
    let count = |(snapshot, during): &(String, RangeInclusive<u64>)| {
        let count = bank.expect_one_moment(snapshot);
        assert!(during.contains(&count), "{count} is not of the time of the backup, {during:?}");
        count
    };
    let counts: Vec<u64> = snapshots.iter().map(count).collect();
    assert!(counts.windows(2).all(|two| two[0] < two[1]), "the load went on: {counts:?}");
    println!("{} backups under load, with {counts:?} transactions", counts.len());
    bank.world.expect_sound();
}

#[test]
fn postgres_kill_during_a_backup_leaves_nothing_acknowledged_and_nothing_in_the_way() {
    let Some(bank) = Bank::open() else { return };
    let mut acknowledged = vec![snapshot_of(&bank.backup().success())];
    bank.server.sql("bank", "UPDATE pad SET filler = md5(filler)");
    let observed = bank.world.dbkeep.run(["backup", &bank.server.url("bank"), "--progress=json"]);
    let mut steps = steps_of(observed);
    steps.retain(|step| step.ends_with(":1"));
    let mut killed = 0;
    for step in &steps {
        bank.server.sql("bank", "UPDATE pad SET filler = md5(filler) WHERE id % 3 = 0");
        let before = bank.snapshots();
        let outcome = bank.backup().killed_at(step).go();
        killed += usize::from(outcome.was_killed());
        let after = bank.snapshots();
        // What was whole already may be there; what was acknowledged must be.
        assert!(before.iter().all(|id| after.contains(id)), "{step}");
        for new in after.iter().filter(|id| !before.contains(id)) {
            bank.expect_one_moment(new);
        }
        bank.world.expect_sound();
        let next = snapshot_of(&bank.backup().success());
        acknowledged.push(next);
    }
    assert!(killed >= 4, "{killed} of {steps:?}");
    let rng = &mut Rng::new(41);
    let usual = bank.backup().success().duration;
    for _ in 0..times(6, 500) {
        let after = Duration::from_micros(rng.below(usual.as_micros() as u64 * 5 / 4));
        bank.backup().killed_after(after).go();
    }
    bank.world.expect_sound();
    let listed = bank.snapshots();
    assert!(acknowledged.iter().all(|id| listed.contains(id)));
    bank.expect_one_moment(acknowledged.last().unwrap());
}

#[test]
fn postgres_lost_sessions_and_a_stopped_server_fail_a_backup_clearly() {
    let Some(bank) = Bank::open() else { return };
    bank.backup().success();
    let usual = bank.backup().success().duration;
    let rng = &mut Rng::new(42);
    let mut failed = 0;
    for number in 0..times(8, 400) {
        bank.server.sql("bank", "UPDATE pad SET filler = md5(filler) WHERE id % 5 = 0");
        let before = bank.snapshots();
        let running = bank.backup().start();
        thread::sleep(Duration::from_micros(rng.below(usual.as_micros() as u64)));
        if number % 3 == 2 {
            bank.server.crash();
        } else {
            bank.end_sessions();
        }
        let outcome = running.wait();
        if outcome.code() == Some(0) {
            bank.expect_one_moment(&snapshot_of(&outcome));
            continue;
        }
        failed += 1;
        Bank::expect_clear_failure(&outcome);
        assert_eq!(bank.snapshots(), before, "nothing is acknowledged, nothing is lost");
    }
    println!("{failed} backups failed");
    assert!(failed > 1, "only {failed} backups were hit");
    bank.expect_one_moment(&snapshot_of(&bank.backup().success()));
    bank.world.expect_sound();
}

/// Returns after how many bytes connections are cut, when `whole` pass where they are not: before the first one, behind
/// the last one, and between these near the begin, near the end, and anywhere.
fn cuts(rng: &mut Rng, whole: u64, count: usize) -> Vec<u64> {
    let near = |rng: &mut Rng| {
        let bits = rng.below(17);
        rng.below(2 << bits)
    };
    let mut cuts = vec![0, whole * 2];
    for number in 2..count as u64 {
        cuts.push(match number % 3 {
            0 => near(rng),
            1 => whole.saturating_sub(near(rng)),
            _ => (whole * number + rng.below(whole)) / count as u64,
        });
    }
    cuts
}

/// Returns whether the network is there again after a cut: it is for one half of each kind.
fn afterwards(number: usize) -> Afterwards {
    if number.is_multiple_of(2) { Afterwards::Down } else { Afterwards::Back }
}

#[test]
fn postgres_connections_cut_after_any_number_of_bytes_leave_a_backup_that_is_exact_or_none() {
    let Some(bank) = Bank::open() else { return };
    let proxy = Proxy::start(bank.server.port());
    let backup = || bank.run(&["backup", &Bank::through(&proxy, "bank")]).within(PATIENCE);
    backup().success();
    proxy.mend();
    backup().success();
    let whole = proxy.passed();
    let (mut failed, mut acknowledged) = (0, 0);
    for (number, cut) in cuts(&mut Rng::new(44), whole, times(14, 400)).into_iter().enumerate() {
        let afterwards = afterwards(number);
        let what = format!("cut after {cut} of {whole} bytes, {afterwards:?}");
        bank.server.sql("bank", "UPDATE pad SET filler = reverse(filler) WHERE id % 5 = 0");
        let before = bank.snapshots();
        proxy.cut_after(cut, afterwards);
        let outcome = backup().go();
        if outcome.code() == Some(0) {
            acknowledged += 1;
            bank.run(&["restore", &snapshot_of(&outcome), "--to", &bank.server.url("restored")]).success();
            assert_eq!(bank.server.contents("restored"), bank.server.contents("bank"), "{what}");
            bank.tidy();
        } else {
            failed += 1;
            Bank::expect_clear_failure(&outcome);
            assert_eq!(bank.snapshots(), before, "{what}: {}", outcome.transcript());
        }
    }
    println!("{failed} backups failed, {acknowledged} were acknowledged");
    assert!(failed > 4 && acknowledged > 0, "{failed} failed, {acknowledged} were acknowledged");
    proxy.mend();
    backup().success();
    bank.world.expect_sound();
}

#[test]
fn postgres_connections_cut_after_any_number_of_bytes_leave_a_restored_database_that_is_exact_or_none() {
    let Some(bank) = Bank::open() else { return };
    let expected = bank.server.contents("bank");
    let snapshot = snapshot_of(&bank.backup().success());
    let proxy = Proxy::start(bank.server.port());
    let to = Bank::through(&proxy, "restored");
    let restore = || bank.run(&["restore", &snapshot, "--to", &to]).within(PATIENCE);
    restore().success();
    let whole = proxy.passed();
    bank.tidy();
    let (mut failed, mut acknowledged) = (0, 0);
    for (number, cut) in cuts(&mut Rng::new(45), whole, times(14, 400)).into_iter().enumerate() {
        let afterwards = afterwards(number);
        let what = format!("cut after {cut} of {whole} bytes, {afterwards:?}");
        proxy.cut_after(cut, afterwards);
        let outcome = restore().go();
        let is_there = bank.has("restored");
        if outcome.code() == Some(0) {
            acknowledged += 1;
            assert!(is_there, "{what}");
        } else {
            failed += 1;
            Bank::expect_clear_failure(&outcome);
            // The answer to the last step did not come, and nobody could be asked: that is what it says.
            let is_undecided = outcome.stdout.contains("took the name");
            assert!(!is_there || is_undecided, "{what}: {}", outcome.transcript());
            assert!(!is_undecided || afterwards == Afterwards::Down, "{what}: {}", outcome.transcript());
        }
        if is_there {
            assert_eq!(bank.server.contents("restored"), expected, "{what}");
        }
        bank.tidy();
    }
    println!("{failed} restores failed, {acknowledged} were acknowledged");
    assert!(failed > 4 && acknowledged > 0, "{failed} failed, {acknowledged} were acknowledged");
    proxy.mend();
    restore().success();
    assert_eq!(bank.server.contents("restored"), expected);
    bank.world.expect_sound();
}

#[test]
fn postgres_restore_over_the_original_that_is_cut_leaves_the_old_or_the_new_one() {
    let Some(bank) = Bank::open() else { return };
    let new = bank.server.contents("bank");
    let snapshot = snapshot_of(&bank.backup().success());
    bank.server.sql("bank", "DELETE FROM pad WHERE id % 2 = 0; INSERT INTO sent VALUES (1, 2)");
    let old = bank.server.contents("bank");
    let line = ["restore", &snapshot, "--in-place", "--yes"];
    let to_old = || {
        bank.tidy();
        bank.server.sql("postgres", "DROP DATABASE bank WITH (FORCE)");
        bank.server.create_database("bank");
        bank.server.sql("bank", BANK);
        bank.server.sql("bank", "DELETE FROM pad WHERE id % 2 = 0; INSERT INTO sent VALUES (1, 2)");
        assert_eq!(bank.server.contents("bank"), old);
    };
    let usual = bank.run(&line).success().duration;
    assert_eq!(bank.server.contents("bank"), new);
    to_old();
    let check = |outcome: &Outcome, what: &str| {
        let found = bank.server.contents("bank");
        if outcome.code() == Some(0) {
            assert!(found == new, "{what}: it was restored");
        } else {
            assert!(found == old || found == new, "{what}: neither old nor new");
        }
        if found == new {
            to_old();
        }
        bank.tidy();
    };
    let steps = ["begun", "safety-backup", "staged", "rows-written", "objects-made", "promoted"];
    for step in steps {
        let outcome = bank.run(&line).killed_at(&format!("restore.{step}")).go();
        assert!(outcome.was_killed(), "{step}: {}", outcome.transcript());
        assert_eq!(bank.server.contents("bank") == new, step == "promoted", "{step}");
        check(&outcome, step);
    }
    let rng = &mut Rng::new(43);
    let mut failed = 0;
    for number in 0..times(6, 300) {
        let running = bank.run(&line).start();
        thread::sleep(Duration::from_micros(rng.below(usual.as_micros() as u64)));
        let what = if number % 3 == 2 {
            bank.server.crash();
            "crash"
        } else {
            bank.end_sessions();
            "ended sessions"
        };
        let outcome = running.wait();
        if outcome.code() != Some(0) {
            Bank::expect_clear_failure(&outcome);
            failed += 1;
        }
        check(&outcome, what);
    }
    assert!(failed > 1, "only {failed} restores were hit");
    bank.run(&line).success();
    assert_eq!(bank.server.contents("bank"), new);
    bank.world.expect_sound();
}

#[test]
fn postgres_ddl_storm_gives_a_right_backup_or_a_clear_failure() {
    let Some(bank) = Bank::open() else { return };
    // After each of these there are a hundred rows, as before.
    let storm = "
        CREATE PROCEDURE storm() LANGUAGE plpgsql AS $$
        BEGIN
          LOOP
            TRUNCATE victim; INSERT INTO victim SELECT n FROM generate_series(1, 100) n; COMMIT;
            DROP TABLE victim CASCADE; CREATE TABLE victim (id int);
            INSERT INTO victim SELECT n FROM generate_series(1, 100) n;
            CREATE MATERIALIZED VIEW seen AS SELECT * FROM victim; COMMIT;
            ALTER TABLE victim ADD COLUMN chance float DEFAULT random(); COMMIT;
            REFRESH MATERIALIZED VIEW seen; COMMIT;
            ALTER TABLE victim ALTER chance TYPE numeric; COMMIT;
            EXIT WHEN EXISTS (SELECT FROM public.ended);
            PERFORM pg_sleep(random() * (SELECT longest FROM public.pause)); COMMIT;
          END LOOP;
        END $$;
        CREATE TABLE victim (id int); INSERT INTO victim SELECT n FROM generate_series(1, 100) n;
        CREATE TABLE pause AS SELECT 0.4 AS longest; CREATE MATERIALIZED VIEW seen AS SELECT * FROM victim;";
    bank.server.sql("bank", storm);
    let mut storming = bank.psql("CALL storm()").spawn().unwrap();
    let mut outcomes = Vec::new();
    let url = bank.server.url("bank");
    // How often a strict one gets through between two changes is chance: a slow machine needs more of them, and longer
    // pauses.
    let one_got_through = |outcomes: &[(usize, Outcome)]| {
        outcomes.iter().any(|(mode, outcome)| *mode == 0 && outcome.code() == Some(0))
    };
    while outcomes.len() < times(8, 400) || (!one_got_through(&outcomes) && outcomes.len() < 100) {
        let mode = outcomes.len() % 2;
        let line = ["backup", &url, "--yield"];
        outcomes.push((mode, bank.run(&line[..2 + mode]).go()));
        if outcomes.len() >= times(8, 400) {
            bank.server.sql("bank", "UPDATE pause SET longest = longest * 1.1");
        }
    }
    bank.server.sql("bank", "INSERT INTO ended VALUES (true)");
    assert!(storming.wait().unwrap().success(), "the storm went on to its end");
    let mut good = [0, 0];
    for (mode, outcome) in &outcomes {
        if outcome.code() != Some(0) {
            Bank::expect_clear_failure(outcome);
            continue;
        }
        good[*mode] += 1;
        let snapshot = snapshot_of(outcome);
        bank.run(&["restore", &snapshot, "--to", "restored"]).success();
        assert_eq!(bank.server.sql("restored", "SELECT count(*) FROM victim"), "100");
        assert_eq!(bank.server.sql("restored", "SELECT count(*) FROM seen"), "100");
        assert_eq!(bank.server.sql("restored", WRONG), "");
        bank.server.sql("postgres", "DROP DATABASE restored");
    }
    println!(
        "of {} backups in a storm {} strict and {} yielding ones were made",
        outcomes.len(),
        good[0],
        good[1]
    );
    assert!(good[0] > 0, "{}", outcomes[0].1.transcript());
    bank.world.expect_sound();
}

#[test]
fn postgres_full_disk_of_the_server_leaves_no_database_behind() {
    let Some(bank) = Bank::open() else { return };
    let snapshot = snapshot_of(&bank.backup().success());
    let folder = bank.server.socket_folder().join("small");
    let Some(disk) = SmallDisk::mount(&folder, 64 << 10) else { return };
    let owner = std::fs::metadata(bank.server.socket_folder()).unwrap();
    std::os::unix::fs::chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    bank.server.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", folder.display()));
    // A new database goes where its template is.
    bank.server.sql("postgres", "ALTER DATABASE template0 SET TABLESPACE small");
    let empty = used(&folder);
    let mut full = 0;
    for number in 0..times(6, 40) as u64 {
        disk.resize(empty + 4096 + number * 6000);
        let outcome = bank.run(&["restore", &snapshot, "--to", "restored"]).go();
        let found = bank.server.sql("postgres", "SELECT datname FROM pg_database ORDER BY 1");
        if outcome.code() == Some(0) {
            assert_eq!(found, "bank\npostgres\nrestored\ntemplate0\ntemplate1");
            break;
        }
        assert_eq!(outcome.code(), Some(1), "{}", outcome.transcript());
        assert_eq!(found, "bank\npostgres\ntemplate0\ntemplate1", "{}", outcome.transcript());
        let error = &outcome.json()["error"];
        assert!(error["message"].as_str().unwrap().contains("No space left on device"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("disk of the server is full"), "{error}");
        full += 1;
    }
    assert!(full > 2, "only {full} sizes were too small");
    bank.server.sql("postgres", "DROP DATABASE IF EXISTS restored");
    disk.resize(256 << 10);
    bank.expect_one_moment(&snapshot);
}

#[test]
fn postgres_full_disk_of_temporary_files_is_told_with_what_to_do() {
    let Some(bank) = Bank::open() else { return };
    let snapshot = snapshot_of(&bank.backup().success());
    let folder = bank.server.socket_folder().join("temporary");
    let Some(disk) = SmallDisk::mount(&folder, 4) else { return };
    let url = bank.server.url("bank");
    let lines: [&[&str]; 4] = [
        &["backup", &url],
        &["restore", &snapshot, "--to", "restored"],
        &["verify", &snapshot],
        &["compare", &snapshot, "current"],
    ];
    for line in lines {
        let fits = (1..=64).find(|pages| {
            disk.resize(4 * pages);
            let outcome = bank.run(line).with("TMPDIR", &folder).go();
            if outcome.code() == Some(0) {
                return true;
            }
            assert_eq!(outcome.code(), Some(1), "{}", outcome.transcript());
            let error = &outcome.json()["error"];
            let (message, hint) = (error["message"].as_str().unwrap(), error["hint"].as_str().unwrap());
            // Some versions of pg_dump do not notice that their last bytes have no place.
            assert!(message.contains("No space left on device") || message.contains("is cut off"), "{error}");
            assert!(format!("{message} {hint}").contains(folder.to_str().unwrap()), "{error}");
            assert!(hint.contains("free some space there") && hint.contains("TMPDIR"), "{error}");
            let databases = bank.server.sql("postgres", "SELECT datname FROM pg_database ORDER BY 1");
            assert_eq!(databases, "bank\npostgres\ntemplate0\ntemplate1", "{line:?}");
            false
        });
        assert!(fits.is_some_and(|pages| pages > 1), "{line:?} fits into {fits:?} pages");
        assert_eq!(used(&folder), 0, "{line:?} leaves nothing");
        bank.server.sql("postgres", "DROP DATABASE IF EXISTS restored");
    }
    assert_eq!(bank.snapshots().len(), 2, "none but those that were acknowledged");
    // Nothing is missing from the one that just found room.
    let objects =
        |snapshot: &str| bank.run(&["show", snapshot]).success().json()["postgres"]["objects"].clone();
    assert!(objects("latest").is_string() && objects("latest") == objects(&snapshot));
    bank.expect_one_moment("latest");
    bank.world.expect_sound();
}

#[test]
fn postgres_drill_on_a_full_disk_of_temporary_files_is_not_tried_and_says_why() {
    let Some(bank) = Bank::open() else { return };
    // More than all rows, and made last.
    bank.server.sql(
        "bank",
        "CREATE MATERIALIZED VIEW wide AS SELECT n, (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 250) i)
            FROM generate_series(1, 3000) n",
    );
    let snapshot = snapshot_of(&bank.backup().success());
    let folder = bank.server.socket_folder().join("temporary");
    let Some(disk) = SmallDisk::mount(&folder, 4) else { return };
    // The server of a drill does not belong to root.
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1777)).unwrap();
    // Too little for a folder, for a server, for one that starts, for a database, for its rows.
    let starting = (36 << 10..44 << 10).step_by(8192 / times(16, 100));
    let sizes = [4, 12, 12 << 10, 30 << 10].into_iter().chain(starting);
    let sizes = sizes.chain((44 << 10..400 << 10).step_by(4 << 10));
    let mut full = 0;
    for size in sizes {
        disk.resize(size);
        let outcome = bank.run(&["drill"]).with("TMPDIR", &folder).go();
        assert_eq!(used(&folder), 0, "{size} KiB leave nothing");
        let drilled = &outcome.json()["drills"][0];
        if outcome.code() == Some(0) {
            assert_eq!(drilled["left_out"], 0, "{size} KiB: {}", outcome.transcript());
            break;
        }
        full += 1;
        let error = &drilled["error"];
        assert_eq!(error["kind"], "no-space", "{size} KiB: {}", outcome.transcript());
        assert!(error["message"].as_str().unwrap().contains(folder.to_str().unwrap()), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("TMPDIR"), "{error}");
        assert_eq!(drilled["findings"], serde_json::json!([]), "{drilled}");
    }
    assert!(full > 3, "only {full} sizes were too small");
    disk.resize(400 << 10);
    bank.run(&["drill"]).with("TMPDIR", &folder).success();
    bank.expect_one_moment(&snapshot);
}

#[test]
fn postgres_full_disk_under_the_repository_loses_nothing() {
    let Some(bank) = Bank::open() else { return };
    let repository = bank.world.repository();
    let Some(disk) = SmallDisk::mount(&repository, 64 << 10) else { return };
    let first = snapshot_of(&bank.backup().success());
    let at_rest = used(&repository);
    bank.server.sql(
        "bank",
        "UPDATE pad SET filler = (SELECT string_agg(md5(id::text || n), '') FROM generate_series(1, 8) n)",
    );
    let (mut full, mut made) = (0, BTreeSet::from([first.clone()]));
    for number in 0..times(4, 40) as u64 {
        disk.resize(at_rest + 16 + number * 400);
        let outcome = bank.backup().go();
        if outcome.code() == Some(0) {
            made.insert(snapshot_of(&outcome));
            break;
        }
        assert_eq!(outcome.code(), Some(1), "{}", outcome.transcript());
        expect_says_full(&outcome, &repository);
        full += 1;
    }
    assert!(full > 2, "only {full} sizes were too small");
    assert_eq!(BTreeSet::from_iter(bank.snapshots()), made, "none but those that were acknowledged");
    for snapshot in &made {
        bank.expect_one_moment(snapshot);
    }
    disk.resize(64 << 10);
    bank.expect_one_moment(&snapshot_of(&bank.backup().success()));
    bank.world.expect_sound();
}
