//! Verifying a PostgreSQL database in a snapshot: its rows are counted and summed up again, whatever its manifest says.

use std::sync::Arc;

use dbkeep_engine::jiff::Timestamp;
use dbkeep_engine::keeper::{Keeper, Report, Settings, VerifyOptions};
use dbkeep_engine::manifest::{Identity, Manifest, PostgresFacts, Selection, ServerIdentity, TableProof};
use dbkeep_engine::report::{Engine, VerifyStatus};
use dbkeep_engine::{ErrorKind, Id, KeyCost, Unobserved, show};
use dbkeep_postgres::catalog::{Catalog, Name, Table};
use dbkeep_postgres::facts::Facts;
use dbkeep_postgres::large_objects;
use dbkeep_postgres::rows::RowSummer;
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::Tree;
use dbkeep_repo::index::Index;
use dbkeep_repo::write::{NodeMeta, WriterOptions};

use crate::fixture::{Fixture, of};

const OBJECTS: &str = "CREATE TABLE public.users ();\n";

/// The begin of an archive of a version that is not known: nothing more is read of it.
const A_LATER_ONE: &[u8] = b"PGDMP\x01\x63\0";
/// The session whose snapshot has none.
const NO_ARCHIVE: &str = "no-archive";

/// The rows of two tables and of large objects, as COPY writes them.
fn stored() -> [(Name, &'static str); 3] {
    let name = |name: &str| Name { schema: "public".to_owned(), name: name.to_owned() };
    [(name("orders"), "1\tone\n2\ttwo\n3\tthree\n"), (name("users"), "7\tann\n"), {
        (large_objects::contents().name, "16400\t0\t\\\\x01\n")
    }]
}

/// A repository with a database of a server that nobody asked, because all of its parts are stored one by one.
struct Place(Fixture);

impl Place {
    fn new() -> Self {
        let fixture = Fixture::new();
        drop(fixture.database("app.db", 3));
        fixture.backup(&of(&["app.db"])).unwrap();
        Self(fixture)
    }

    /// Stores a snapshot of the session `session`, of whose tables the manifest says what `claims` makes of the truth.
    fn store(&self, session: &str, claims: impl Fn(&mut TableProof)) {
        let store = self.0.open().unwrap();
        let mut manifest = show::run(&store, "latest", Some("app"), self.0.now()).unwrap().manifest.unwrap();
        let repository = store.repository();
        let lock = repository.lock_shared(self.0.now()).unwrap();
        let index = Index::load(repository, &Unobserved).unwrap();
        let options = WriterOptions::default();
        let mut writer = repository.writer(&lock, index, &options, Arc::new(Unobserved)).unwrap();
        let meta = NodeMeta { mode: 0o600, mtime: Timestamp::UNIX_EPOCH, ..NodeMeta::default() };

        let (mut nodes, mut proofs) = (Vec::new(), Vec::new());
        for (name, rows) in stored() {
            let file = format!("{}.{}.copy", name.schema, name.name);
            let node = writer.save_file(&file, rows.as_bytes(), &meta).unwrap();
            writer.flush().unwrap();
            let mut summer = RowSummer::default();
            summer.update(rows.as_bytes());
            let sum = summer.finish().unwrap();
            let mut proof = TableProof {
                schema: name.schema,
                name: name.name,
                file,
                rows: sum.rows,
                hash: sum.hash.to_string(),
                size: rows.len() as u64,
                chunk_size: 16 << 10,
                root: writer.reader().image_of(&node).unwrap().root(),
            };
            claims(&mut proof);
            nodes.push(node);
            proofs.push(proof);
        }
        let large_objects = proofs.split_off(2);
        let tables = stored().into_iter().take(2).map(|(name, _)| Table { name, ..Table::default() });
        let catalog = Catalog { tables: tables.collect(), large_objects: 1, ..Catalog::default() };
        let mut nodes = vec![meta.directory("data", writer.save_tree(&Tree { nodes }).unwrap())];
        pretend_server(&mut manifest, session, proofs, large_objects);
        for (file, text) in [
            ("schema.sql", OBJECTS.as_bytes()),
            ("schema.dump", if session == NO_ARCHIVE { b"anything" } else { A_LATER_ONE }),
            ("globals.sql", b""),
            ("settings.sql", b""),
            ("README.txt", b""),
            ("catalog.json", &serde_json::to_vec(&catalog).unwrap()),
            ("manifest.json", &manifest.encode()),
        ] {
            nodes.push(writer.save_file(file, text, &meta).unwrap());
        }
        let tree = writer.save_tree(&Tree { nodes }).unwrap();
        let root = writer.save_tree(&Tree { nodes: vec![meta.directory("shop", tree)] }).unwrap();
        let tags = [&format!("session={session}"), "database=shop", "engine=postgres", "integrity=ok"];
        writer
            .commit(Snapshot {
                paths: vec!["/shop".to_owned()],
                tags: tags.map(str::to_owned).to_vec(),
                ..Snapshot::new(self.0.now(), root)
            })
            .unwrap();
    }

    /// Returns what `verify` finds in the snapshot of a session; none when it is as its manifest says.
    #[track_caller]
    fn findings(&self, session: &str) -> Vec<String> {
        let settings = Settings::new(self.0.path("backups"), self.0.path("state"));
        let keeper = Keeper::open(settings.password("secret").key_cost(KeyCost::Cheap)).unwrap();
        match keeper.verify(&VerifyOptions::new().session(session)) {
            Ok(report) => {
                assert_eq!((report.ok, report.checked[0].integrity.as_str()), (1, "ok"));
                Vec::new()
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                let Some(Report::Verify(report)) = error.report() else { panic!("{error:?}") };
                assert_eq!(report.checked[0].status, VerifyStatus::Damaged);
                report.checked[0].findings.clone()
            }
        }
    }
}

/// Makes the manifest of a file that of a database of a server.
fn pretend_server(
    manifest: &mut Manifest,
    session: &str,
    tables: Vec<TableProof>,
    large_objects: Vec<TableProof>,
) {
    session.clone_into(&mut manifest.session);
    "shop".clone_into(&mut manifest.database);
    manifest.engine = Engine::Postgres;
    manifest.identity = Identity::Server(ServerIdentity {
        server: "db.example.org:5432".to_owned(),
        system: None,
        database: "shop".to_owned(),
        oid: 16384,
    });
    manifest.sqlite = None;
    manifest.postgres = Some(PostgresFacts {
        server: Facts::default(),
        tools: "16.4".to_owned(),
        objects: Id::of(OBJECTS.as_bytes()),
        tables,
        large_objects,
        not_covered: Vec::new(),
        selection: Selection::default(),
    });
}

#[test]
fn rows_of_a_server_that_are_not_what_the_manifest_says_are_damage_of_their_table() {
    let place = Place::new();
    place.store("true", |_| {});
    assert_eq!(place.findings("true"), [""; 0]);

    place.store(NO_ARCHIVE, |_| {});
    assert_eq!(
        place.findings(NO_ARCHIVE),
        ["could not read the archive of objects: it is no archive of pg_dump"]
    );

    let of = |proof: &TableProof, table: &str| proof.name == table;
    place.store("more-rows", |proof| proof.rows += u64::from(of(proof, "orders")));
    assert_eq!(place.findings("more-rows"), ["table public.orders has 3 rows, the manifest says 4"]);

    let other_hash = |proof: &mut TableProof| {
        proof.hash = proof.hash.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect();
    };
    place.store("other-hash", |proof| {
        if of(proof, "users") {
            other_hash(proof);
        }
    });
    assert_eq!(
        place.findings("other-hash"),
        ["the rows of public.users have another hash than the manifest says"]
    );

    place.store("all", other_hash);
    let mut all = place.findings("all");
    all.sort();
    let name = large_objects::contents().name;
    let mut tables =
        ["public.orders".to_owned(), "public.users".to_owned(), format!("{}.{}", name.schema, name.name)]
            .map(|table| format!("the rows of {table} have another hash than the manifest says"));
    tables.sort();
    assert_eq!(all, tables);
}
