//! Against real servers: logging in with each method and each protection, questions, COPY both ways.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use super::*;
use crate::conninfo::Surroundings;

/// A server with TLS and a user for each way to log in, and the files of its certificates.
struct Place {
    server: Server,
    files: tempfile::TempDir,
}

/// Returns the server that the tests of this process share.
fn place() -> Option<&'static Place> {
    static PLACE: OnceLock<Option<Place>> = OnceLock::new();
    let place = PLACE.get_or_init(|| Programs::newest_with_tls().map(|programs| Place::start(&programs)));
    if place.is_none() {
        println!("{SKIPPED}");
    }
    place.as_ref()
}

impl Place {
    fn start(programs: &Programs) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut authority = rcgen::CertificateParams::new([]).unwrap();
        authority.distinguished_name.push(rcgen::DnType::CommonName, "authority of the tests");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let root = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let client_key = rcgen::KeyPair::generate().unwrap();
        let mut client = rcgen::CertificateParams::new([]).unwrap();
        client.distinguished_name.push(rcgen::DnType::CommonName, "with_certificate");
        let client = client.signed_by(&client_key, &issuer).unwrap();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for (name, text) in [
            ("root.crt", root.pem()),
            ("server.crt", certificate.pem()),
            ("client.crt", client.pem()),
            ("client.key", client_key.serialize_pem()),
            ("other.crt", other.cert.pem()),
            ("empty.crt", String::new()),
        ] {
            fs::write(files.path().join(name), text).unwrap();
        }
        let access = [
            "host all with_scram all scram-sha-256",
            "host all with_md5 all md5",
            "host all with_plain all password",
            "hostssl all with_certificate all cert",
            "hostnossl all without_tls all trust",
            "host all without_tls all reject",
            "hostssl all only_tls all trust",
            "host all only_tls all reject",
        ];
        let settings = Settings {
            access: access.map(str::to_owned).to_vec(),
            configuration: vec![],
            certificate: Some((certificate.pem() + &root.pem(), key.serialize_pem())),
        };
        let server = Server::start(programs, &settings);
        server.sql("postgres", "SET password_encryption='md5'; CREATE ROLE with_md5 LOGIN PASSWORD 'pä ss'");
        for role in ["with_scram", "with_plain", "with_certificate", "without_tls", "only_tls"] {
            server.sql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD 'pä ss'"));
        }
        let folder = server.sql("postgres", "SHOW data_directory");
        let target = PathBuf::from(folder).join("root.crt");
        fs::copy(files.path().join("root.crt"), &target).unwrap();
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&target, readable).unwrap();
        server.sql("postgres", "ALTER SYSTEM SET ssl_ca_file TO 'root.crt'");
        server.sql("postgres", "SELECT pg_reload_conf()");
        Self { server, files }
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    fn open(&self, text: &str) -> Result<Connection> {
        self.open_with(text, &Options::default())
    }

    /// Connects by network, to `localhost`, unless the text says otherwise.
    fn open_with(&self, text: &str, options: &Options) -> Result<Connection> {
        let variable = |name: &str| match name {
            "PGHOST" => Some("localhost".to_owned()),
            "PGHOSTADDR" if !text.contains("host=") => Some("127.0.0.1".to_owned()),
            "PGPORT" => Some(self.server.port().to_string()),
            "PGDATABASE" => Some("postgres".to_owned()),
            _ => None,
        };
        let surroundings = Surroundings { variable: &variable, home: None, user: Some("postgres") };
        Connection::open(&ConnInfo::resolve(text, &surroundings)?, options)
    }

    fn connection(&self) -> Connection {
        self.open(&format!("host={}", self.server.socket_folder().display())).unwrap()
    }
}

fn one(connection: &mut Connection, sql: &str) -> String {
    connection.query(sql, &[]).unwrap().remove(0).remove(0).unwrap()
}

#[test]
fn every_way_to_log_in_works_with_tls_and_without() {
    let Some(place) = place() else { return };
    for (user, more) in [
        ("with_scram", "sslmode=disable"),
        ("with_scram", "sslmode=require"),
        ("with_scram", "sslmode=require channel_binding=require"),
        ("with_scram", "sslmode=require channel_binding=disable"),
        ("with_md5", "sslmode=disable"),
        ("with_plain", "sslmode=require"),
    ] {
        let mut connection = place.open(&format!("user={user} password='pä ss' {more}")).unwrap();
        assert_eq!(one(&mut connection, "SELECT current_user"), user, "{more}");
        assert_eq!(connection.is_protected(), more.contains("require"), "{more}");
    }
    let certificate = format!(
        "user=with_certificate sslmode=require sslcert={} sslkey={}",
        place.file("client.crt"),
        place.file("client.key")
    );
    let mut connection = place.open(&certificate).unwrap();
    assert_eq!(one(&mut connection, "SELECT current_user"), "with_certificate");
}

#[test]
fn certificate_of_the_server_is_checked_as_the_mode_says() {
    let Some(place) = place() else { return };
    let (root, server, other) = (place.file("root.crt"), place.file("server.crt"), place.file("other.crt"));
    for accepted in [
        format!("sslmode=verify-full sslrootcert={root}"),
        format!("sslmode=verify-ca sslrootcert={root} host=127.0.0.1"),
        format!("sslmode=verify-full sslrootcert={server}"),
        format!("sslmode=require sslrootcert={root}"),
        "sslmode=require".to_owned(),
    ] {
        assert!(place.open(&accepted).unwrap().is_protected(), "{accepted}");
    }
    for (refused, why) in [
        (format!("sslmode=verify-full sslrootcert={root} host=127.0.0.1"), "not valid for name"),
        (format!("sslmode=verify-ca sslrootcert={other}"), "UnknownIssuer"),
        (format!("sslmode=require sslrootcert={other}"), "UnknownIssuer"),
        ("sslmode=verify-full".to_owned(), "there is no root certificate to check the server's with"),
        (
            format!("sslmode=verify-ca sslrootcert={}", place.file("empty.crt")),
            "there is no certificate in it",
        ),
        ("sslmode=verify-ca sslrootcert=/nowhere.crt".to_owned(), "No such file"),
    ] {
        let error = place.open(&refused).unwrap_err();
        assert!(error.to_string().contains(why), "{refused}: {error}");
    }
}

#[test]
fn protection_is_given_up_only_where_the_mode_allows_it() {
    let Some(place) = place() else { return };
    assert!(place.open("user=postgres").unwrap().is_protected(), "prefer");
    assert!(!place.open("user=postgres sslmode=allow").unwrap().is_protected());
    assert!(!place.open("user=without_tls sslmode=prefer").unwrap().is_protected());
    assert!(place.open("user=only_tls sslmode=allow").unwrap().is_protected());
    let error = place.open("user=without_tls sslmode=require").unwrap_err();
    assert_eq!(error.code(), Some("28000"));
    assert_eq!(place.open("user=only_tls sslmode=disable").unwrap_err().code(), Some("28000"));
}

#[test]
fn refusals_say_why_and_never_the_password() {
    let Some(place) = place() else { return };
    let error = place.open("user=with_scram password=hunter2").unwrap_err();
    assert_eq!(error.code(), Some("28P01"));
    assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("hunter2"));
    assert!(error.hint().unwrap().starts_with("the password is wrong"));
    let error = place.open("user=with_scram").unwrap_err();
    assert!(error.to_string().contains("it wants a password, and none is known"), "{error}");
    assert_eq!(place.open("dbname=nowhere").unwrap_err().code(), Some("3D000"));
    let error =
        place.open("user=with_md5 password='pä ss' sslmode=require channel_binding=require").unwrap_err();
    assert!(error.to_string().contains("without the channel binding that is required"), "{error}");
    let error = place.open("user=postgres sslmode=require channel_binding=require").unwrap_err();
    assert!(error.to_string().contains("without the channel binding that is required"), "{error}");
    let error = place.open("host=localhost hostaddr=127.0.0.1 port=1").unwrap_err();
    assert_eq!(error.to_string(), "could not connect to localhost:1");
    assert!(error.hint().unwrap().starts_with("is the server running"));
    let error = place.open("host=/nowhere").unwrap_err();
    assert!(error.hint().unwrap().starts_with("no socket is there"), "{error}");
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let hangs_up = thread::spawn(move || (0..2).for_each(|_| drop(listener.accept().unwrap())));
    for mode in ["disable", "require"] {
        let error = place.open(&format!("host=localhost hostaddr=127.0.0.1 port={port} sslmode={mode}"));
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), format!("could not connect to localhost:{port}"));
        assert!(error.hint().unwrap().starts_with("somebody listens there and hangs up"), "{mode}");
    }
    hangs_up.join().unwrap();
}

#[test]
fn hosts_are_tried_until_one_is_of_the_kind_that_is_asked_for() {
    let Some(place) = place() else { return };
    let port = place.server.port();
    let several = format!("host=localhost,localhost hostaddr=127.0.0.1,127.0.0.1 port=1,{port}");
    for target in ["any", "read-write", "primary", "prefer-standby"] {
        let connection = place.open(&format!("{several} target_session_attrs={target}")).unwrap();
        assert_eq!(connection.host().port, port, "{target}");
    }
    for target in ["standby", "read-only"] {
        let error = place.open(&format!("{several} target_session_attrs={target}")).unwrap_err();
        assert!(matches!(error, Error::Target { .. }), "{target}: {error}");
    }
}

#[test]
fn answers_are_text_with_nulls_and_errors_leave_the_connection_usable() {
    let Some(place) = place() else { return };
    let mut connection = place.connection();
    let rows = connection
        .query("SELECT $1::text, $2::int + 1, NULL, ''", &[Some("it's \"ä\""), Some("41")])
        .unwrap();
    assert_eq!(rows, [[Some("it's \"ä\"".to_owned()), Some("42".to_owned()), None, Some(String::new())]]);
    let error = connection.query("SELECT * FROM nothing.here", &[]).unwrap_err();
    assert_eq!(error.code(), Some("42P01"));
    assert_eq!(connection.execute("SELECT 1; SELECT 1/0; SELECT 2").unwrap_err().code(), Some("22012"));
    assert_eq!(one(&mut connection, "SELECT 'still here'"), "still here");
    assert!(connection.parameter("server_version").is_some());
    assert_eq!(one(&mut connection, "SELECT pg_backend_pid()"), connection.process().to_string());
    let long = "x".repeat(3 << 20);
    assert_eq!(connection.query("SELECT $1", &[Some(&long)]).unwrap()[0][0].as_deref(), Some(long.as_str()));
}

/// Reads a COPY to its end, and the longest piece.
fn copy(connection: &mut Connection, sql: &str) -> Result<(Vec<u8>, usize)> {
    let (mut bytes, mut longest) = (Vec::new(), 0);
    let mut copy = connection.copy_out(sql)?;
    while let Some(piece) = copy.next_piece()? {
        bytes.extend_from_slice(piece);
        longest = longest.max(piece.len());
    }
    Ok((bytes, longest))
}

#[test]
fn copied_rows_arrive_as_they_are_however_long() {
    let Some(place) = place() else { return };
    for open in ["sslmode=disable", "sslmode=require"] {
        let mut connection = place.open(open).unwrap();
        for (rows, length) in [(0, 1), (1, 0), (100_000, 20), (5_000, 3_000), (3, 5 << 20)] {
            let sql =
                format!("COPY (SELECT n, repeat('x', {length}) FROM generate_series(1, {rows}) n) TO STDOUT");
            let (bytes, longest) = copy(&mut connection, &sql).unwrap();
            let filler = "x".repeat(length);
            let expected: String = (1..=rows).map(|number| format!("{number}\t{filler}\n")).collect();
            assert!(bytes == expected.as_bytes(), "{rows} rows of {length}");
            assert!(longest <= READ, "a piece is no longer than the buffer: {longest}");
        }
        assert_eq!(one(&mut connection, "SELECT 'still here'"), "still here");
    }
}

#[test]
fn copy_that_breaks_off_is_an_error_and_never_an_end() {
    let Some(place) = place() else { return };
    let mut connection = place.connection();
    let late = "COPY (SELECT 1 / (50000 - n) FROM generate_series(1, 100000) n) TO STDOUT";
    assert_eq!(copy(&mut connection, late).unwrap_err().code(), Some("22012"));
    assert_eq!(copy(&mut connection, "COPY nothing TO STDOUT").unwrap_err().code(), Some("42P01"));
    assert_eq!(one(&mut connection, "SELECT 'still here'"), "still here");
    let process = connection.process();
    let mut endless = connection.copy_out("COPY (SELECT generate_series(1, 1000000000)) TO STDOUT").unwrap();
    assert!(endless.next_piece().unwrap().is_some());
    place.server.sql("postgres", &format!("SELECT pg_terminate_backend({process})"));
    let ended = loop {
        match endless.next_piece() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a COPY that was cut is no end"),
            Err(error) => break error,
        }
    };
    assert!(ended.code() == Some("57P01") || matches!(ended, Error::Lost { .. }), "{ended}");
}

#[test]
fn rows_go_in_as_they_came_out() {
    let Some(place) = place() else { return };
    let mut connection = place.connection();
    connection.execute("CREATE TEMP TABLE t (n int PRIMARY KEY, s text)").unwrap();
    let rows: String = (0..50_000).map(|number| format!("{number}\tä\\t\\n{number}\n")).collect();
    let mut copy_in = connection.copy_in("COPY t FROM STDIN").unwrap();
    for piece in rows.as_bytes().chunks(70_001) {
        copy_in.write(piece).unwrap();
    }
    assert_eq!(copy_in.finish().unwrap(), 50_000);
    assert!(
        copy(&mut connection, "COPY (SELECT * FROM t ORDER BY n) TO STDOUT").unwrap().0 == rows.as_bytes()
    );
    for wrong in ["1\ttwice\n", "x\tno number\n", "50001\tone\ttoo many\n"] {
        let mut copy_in = connection.copy_in("COPY t FROM STDIN").unwrap();
        copy_in.write(wrong.as_bytes()).unwrap();
        assert!(matches!(copy_in.finish(), Err(Error::Server(_))), "{wrong:?}");
    }
    assert_eq!(connection.copy_in("COPY nothing FROM STDIN").unwrap_err().code(), Some("42P01"));
    assert_eq!(one(&mut connection, "SELECT count(*) FROM t"), "50000");
}

#[test]
fn copy_that_is_dropped_half_way_leaves_no_row() {
    let Some(place) = place() else { return };
    place.server.sql("postgres", "CREATE TABLE half (n int)");
    let mut connection = place.connection();
    let mut copy_in = connection.copy_in("COPY half FROM STDIN").unwrap();
    copy_in.write("1\n".repeat(200_000).as_bytes()).unwrap();
    assert!(connection.execute("SELECT 1").is_err(), "nothing else can be asked");
    drop(connection);
    let gone =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY half%' AND pid <> pg_backend_pid()";
    let mut watcher = place.connection();
    while one(&mut watcher, gone) != "0" {
        thread::yield_now();
    }
    assert_eq!(one(&mut watcher, "SELECT count(*) FROM half"), "0");
}

#[test]
fn stop_is_noticed_while_the_server_is_silent() {
    let Some(place) = place() else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let options = Options { stop: Arc::new(move || asked.load(Ordering::SeqCst)), ..Options::default() };
    let mut connection = place.open_with("sslmode=require", &options).unwrap();
    let asker = thread::spawn(move || connection.execute("SELECT pg_sleep(600)").unwrap_err());
    stop.store(true, Ordering::SeqCst);
    assert!(matches!(asker.join().unwrap(), Error::Stopped));
}

#[test]
fn statement_is_ended_from_outside_with_tls_and_without_and_the_connection_lives_on() {
    let Some(place) = place() else { return };
    for mode in ["disable", "require"] {
        let backends = Arc::new(Backends::default());
        let options = Options { backends: Some(backends.clone()), ..Options::default() };
        let text = format!("user=with_scram password='pä ss' sslmode={mode}");
        let mut connection = place.open_with(&text, &options).unwrap();
        assert_eq!(backends.processes(), [connection.process()]);
        let process = connection.process().to_string();
        let asleep = format!("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {process}");
        thread::scope(|scope| {
            let sleeper = scope.spawn(move || {
                let slept = connection.execute("SELECT pg_sleep(600)");
                (slept, connection)
            });
            while place.server.sql("postgres", &asleep) != "t" {
                thread::sleep(Duration::from_millis(20));
            }
            backends.cancel().unwrap();
            let (slept, mut connection) = sleeper.join().unwrap();
            assert_eq!(slept.unwrap_err().code(), Some("57014"), "{mode}");
            assert_eq!(one(&mut connection, "SELECT 1"), "1");
        });
        assert_eq!(backends.processes(), [0; 0], "nobody is there any more");
    }
}

#[test]
fn columns_of_an_answer_are_told_without_carrying_it_out() {
    let Some(place) = place() else { return };
    let mut connection = place.connection();
    let fields = connection.describe("SELECT relname, 1 / 0 AS never FROM pg_catalog.pg_class").unwrap();
    let told: Vec<(&str, u32, i16)> =
        fields.iter().map(|field| (field.name.as_str(), field.table, field.number)).collect();
    assert_eq!(told, [("relname", 1259, 2), ("never", 0, 0)]);
    assert_eq!(connection.describe("SELECT nothing FROM pg_class").unwrap_err().code(), Some("42703"));
    assert_eq!(one(&mut connection, "SELECT 1"), "1");
}
