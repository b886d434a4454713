//! Backups of some schemas or tables of a database that is dressed as a hosted project: what they leave out is referred to
//! everywhere, and they come back even so, into new databases and in drills.

use std::fs;

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};
use serde_json::Value;

use crate::environment::TestEnvironment;

/// What belongs to the service, and what the project made in schemas of its own.
const PROJECT: &str = r#"
    CREATE ROLE anon; CREATE ROLE authenticated;
    CREATE SCHEMA auth; CREATE SCHEMA extensions; CREATE SCHEMA kinds; CREATE SCHEMA hooks; CREATE SCHEMA audit;
    CREATE EXTENSION "uuid-ossp" SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions;
    CREATE TABLE auth.users (id uuid PRIMARY KEY);
    INSERT INTO auth.users SELECT md5('p' || n)::uuid FROM generate_series(1, 20) n;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT current_setting('request.sub', true)::uuid $$;
    CREATE FUNCTION hooks.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TYPE kinds.kind AS ENUM ('note', 'page'); CREATE TABLE kinds.unused (n int); INSERT INTO kinds.unused VALUES (1);

    CREATE TABLE public.profiles (id uuid PRIMARY KEY DEFAULT extensions.uuid_generate_v4() REFERENCES auth.users,
        handle extensions.citext UNIQUE);
    CREATE TABLE public.posts (id serial PRIMARY KEY, author uuid REFERENCES public.profiles, kind kinds.kind, body text);
    INSERT INTO public.profiles SELECT md5('p' || n)::uuid, 'User ' || n FROM generate_series(1, 20) n;
    INSERT INTO public.posts (author, kind, body) SELECT md5('p' || 1 + n % 20)::uuid, 'page', repeat('text ', n)
        FROM generate_series(1, 200) n;
    ALTER TABLE public.profiles ENABLE ROW LEVEL SECURITY; ALTER TABLE public.profiles FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON public.profiles TO authenticated USING (id = auth.uid());
    CREATE POLICY seen ON public.profiles FOR SELECT TO anon USING (true);
    CREATE TRIGGER touch BEFORE UPDATE ON public.profiles FOR EACH ROW EXECUTE FUNCTION hooks.touch();
    CREATE VIEW public.people AS SELECT p.handle FROM public.profiles p JOIN auth.users USING (id);
    GRANT SELECT ON public.profiles, public.posts TO anon, authenticated;

    CREATE SEQUENCE audit.numbers; CREATE TABLE audit.other (n int);
    CREATE FUNCTION audit.stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.what := NEW.what || ''!''; RETURN NEW; END';
    CREATE TABLE audit.log (id bigint PRIMARY KEY DEFAULT nextval('audit.numbers'), kind kinds.kind, what text,
        who uuid REFERENCES public.profiles);
    CREATE TRIGGER stamp BEFORE INSERT ON audit.log FOR EACH ROW EXECUTE FUNCTION audit.stamp();
    INSERT INTO audit.log (kind, what) SELECT 'note', 'event ' || n FROM generate_series(1, 50) n;"#;

struct Narrowed {
    server: Server,
    environment: TestEnvironment,
    _scratch: tempfile::TempDir,
}

impl Narrowed {
    fn new(filter: &str) -> Option<Self> {
        let Some(programs) = Programs::newest_with_tls() else {
            eprintln!("{SKIPPED}");
            return None;
        };
        let server = Server::start(&programs, &Settings::default());
        server.create_database("project");
        server.sql("project", PROJECT);
        let (environment, scratch) = crate::drill::environment();
        let text = format!("[databases.project]\npostgres = \"{}\"\n{filter}\n", server.url("project"));
        fs::write(environment.path("dbkeep.toml"), text).unwrap();
        environment.ok(["backup"]);
        Some(Self { server, environment, _scratch: scratch })
    }

    /// Restores into a new database. Returns how many rows came, and what did not come.
    #[track_caller]
    fn restore(&self) -> (u64, Vec<String>) {
        let url = self.server.url("back");
        let restored = self.environment.ok_json(&["restore", "latest", "--to", &url]);
        assert_eq!(restored["verified"], true, "{restored:#}");
        (restored["rows"].as_u64().unwrap(), lost(&restored["notes"]))
    }

    /// Tries the snapshot on a server of its own, which has no role and no schema of the service.
    #[track_caller]
    fn drill(&self) -> (u64, Vec<String>) {
        let report = self.environment.ok_json(&["drill"]);
        let drill = &report["drills"][0];
        (drill["rows"].as_u64().unwrap(), lost(&drill["notes"]))
    }
}

fn lost(notes: &Value) -> Vec<String> {
    let all = notes.as_array().unwrap().iter().map(|note| note.as_str().unwrap());
    let mut lost: Vec<String> =
        all.filter_map(|note| note.strip_prefix("not restored: ")).map(str::to_owned).collect();
    lost.sort();
    lost
}

#[test]
fn schema_of_a_project_comes_back_without_the_schemas_of_its_service() {
    let Some(narrowed) = Narrowed::new("schemas = [\"public\"]") else { return };
    let expected = [
        "fk constraint public.profiles profiles_id_fkey (schema \"auth\" does not exist)",
        "policy public.profiles own (schema \"auth\" does not exist)",
        "trigger public.profiles touch (schema \"hooks\" does not exist)",
        "view public.people (relation \"auth.users\" does not exist)",
    ];
    assert_eq!(narrowed.restore(), (220, expected.map(str::to_owned).to_vec()));
    assert_eq!(narrowed.drill(), (220, expected.map(str::to_owned).to_vec()));
    let rows = "SELECT p FROM profiles p ORDER BY id; SELECT p FROM posts p ORDER BY id";
    let (server, back) = (&narrowed.server, "back");
    assert_eq!(server.sql(back, rows), server.sql("project", rows));
    assert_eq!(server.sql(back, "INSERT INTO profiles (handle) VALUES ('new') RETURNING id IS NULL"), "f");
    assert_eq!(server.sql(back, "INSERT INTO posts (kind) VALUES ('note') RETURNING id"), "201");
    let tables =
        "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND oid >= 16384";
    assert_eq!(
        server.sql(back, tables),
        "posts profiles",
        "no table of a schema that only types are needed of"
    );
    let granted = "SELECT has_table_privilege('anon', 'posts', 'SELECT'), relforcerowsecurity FROM pg_class WHERE relname = 'profiles'";
    assert_eq!(server.sql(back, granted), "t|t");
}

#[test]
fn table_comes_back_with_the_types_and_sequences_that_it_needs() {
    let Some(narrowed) = Narrowed::new("tables = [\"audit.log\"]") else { return };
    let expected =
        vec!["fk constraint audit.log log_who_fkey (relation \"public.profiles\" does not exist)".to_owned()];
    assert_eq!(narrowed.restore(), (50, expected.clone()));
    assert_eq!(narrowed.drill(), (50, expected));
    let rows = "SELECT l FROM audit.log l ORDER BY id";
    assert_eq!(narrowed.server.sql("back", rows), narrowed.server.sql("project", rows));
    let next = "INSERT INTO audit.log (what) VALUES ('next') RETURNING id, what";
    assert_eq!(narrowed.server.sql("back", next), "51|next!");
}

#[test]
fn database_comes_back_without_a_table_that_was_excluded() {
    let Some(narrowed) = Narrowed::new("exclude = [\"profiles\"]") else { return };
    let expected = [
        "fk constraint audit.log log_who_fkey (relation \"public.profiles\" does not exist)",
        "fk constraint public.posts posts_author_fkey (relation \"public.profiles\" does not exist)",
        "view public.people (relation \"public.profiles\" does not exist)",
    ];
    assert_eq!(narrowed.restore(), (271, expected.map(str::to_owned).to_vec()));
    assert_eq!(narrowed.drill(), (271, expected.map(str::to_owned).to_vec()));
    let rows = "SELECT p FROM posts p ORDER BY id; SELECT u FROM auth.users u ORDER BY id";
    assert_eq!(narrowed.server.sql("back", rows), narrowed.server.sql("project", rows));
}
