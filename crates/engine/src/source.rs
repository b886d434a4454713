//! What a *SOURCE* of the command line means: a configured name, a file, a directory, a URL, `env:NAME`.

pub(crate) mod server;

use std::path::{Path, PathBuf};

use crate::config::DatabaseConfig;
use crate::context::Context;
use crate::report::Engine;
use crate::suggest::nearest;
use crate::{Error, Result, name};

pub(crate) use server::Server;
use server::redact;

/// A database that can be backed up.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// What it is called in the repository.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) place: Place,
    /// The same for people; secrets are redacted.
    pub(crate) shown: String,
    /// The label of the configuration.
    pub(crate) environment: Option<String>,
}

/// Where a database is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL server.
    Server(Box<Server>),
}

impl Source {
    /// Returns its engine.
    pub(crate) fn engine(&self) -> Engine {
        match self.place {
            Place::File(_) => Engine::Sqlite,
            Place::Server(_) => Engine::Postgres,
        }
    }

    /// Returns the file of a SQLite database.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            Place::Server(_) => None,
        }
    }

    /// Turns it into a source that leads nowhere.
    pub(crate) fn unreadable(self, error: Error) -> Unresolved {
        Unresolved { engine: self.engine(), name: self.name, shown: self.shown, error: Box::new(error) }
    }
}

/// A source that leads to no database.
#[derive(Debug)]
pub(crate) struct Unresolved {
    /// What it would be called.
    pub(crate) name: String,
    /// What its engine would be.
    pub(crate) engine: Engine,
    /// What was given; secrets are redacted.
    pub(crate) shown: String,
    /// Why it leads nowhere.
    pub(crate) error: Box<Error>,
}

/// Finds out what each of `given` means; none given means all of the configuration.
///
/// A source that leads nowhere does not hold back the others. The same file given twice counts once; two
/// files that would have one name are an error, before anything is read.
pub(crate) fn resolve(
    context: &Context,
    given: &[String],
    called: Option<&str>,
) -> Result<Vec<Result<Source, Unresolved>>> {
    let mut sources = match given {
        [] => configured(context)?,
        _ => given.iter().flat_map(|text| meaning(context, text)).collect(),
    };
    drop_repeated(&mut sources);
    if let Some(called) = called {
        rename(&mut sources, called)?;
    }
    refuse_same_names(&sources)?;
    Ok(sources)
}

/// Returns all databases of the configuration.
fn configured(context: &Context) -> Result<Vec<Result<Source, Unresolved>>> {
    if context.config.databases.is_empty() {
        return Err(Error::usage(
            "nothing to back up: no source is given and none is configured",
            "give a path, as `dbkeep backup app.db`, or add [databases.app] to dbkeep.toml",
        ));
    }
    let databases = context.config.databases.iter();
    Ok(databases.map(|(name, database)| from_configuration(context, name, database)).collect())
}

/// Returns what one word of the command line means; a directory means several databases.
fn meaning(context: &Context, text: &str) -> Vec<Result<Source, Unresolved>> {
    if let Some(database) = context.config.databases.get(text) {
        return vec![from_configuration(context, text, database)];
    }
    if let Some(variable) = text.strip_prefix("env:") {
        return vec![from_variable(context, variable, &context.environment.working_directory, None)];
    }
    if server::is_url(text) {
        return vec![server::from_text(context, text, text)];
    }
    let of_url = sqlite_path(text);
    // A file may be called like a secret.
    let shown = if of_url.is_some() { redact(text) } else { text.to_owned() };
    let path = context.environment.resolve_argument(&of_url.unwrap_or_else(|| PathBuf::from(text)));
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => directory(context, &shown, &path),
        Ok(_) => vec![Ok(file(context, &path, &shown))],
        Err(_) if sqlite_path(text).is_none() && server::is_connection_string(text) => {
            vec![server::from_text(context, text, text)]
        }
        Err(_) if is_other_url(text) => vec![Err(other_url(text))],
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => vec![Err(unknown(context, &shown))],
        Err(error) => vec![Err(unresolved(text, Error::io("read", &path)(error)))],
    }
}

/// Returns every database in a directory, found by content.
fn directory(context: &Context, text: &str, path: &Path) -> Vec<Result<Source, Unresolved>> {
    let found = match dbkeep_sqlite::identify::find_databases(path) {
        Ok(found) => found,
        Err(error) => return vec![Err(unresolved(text, error.into()))],
    };
    if found.is_empty() {
        return vec![Err(unresolved(text, Error::NoDatabases { path: path.to_owned() }))];
    }
    let shown = |file: &Path| match file.strip_prefix(path) {
        Ok(inner) => Path::new(text).join(inner).display().to_string(),
        Err(_) => file.display().to_string(),
    };
    found.iter().map(|path| Ok(file(context, path, &shown(path)))).collect()
}

/// Returns the database in a file. A file of the configuration has the name it has there.
fn file(context: &Context, path: &Path, shown: &str) -> Source {
    let base = context.config_base();
    let same = |database: &DatabaseConfig| {
        let configured =
            database.sqlite.as_deref().map(|file| context.environment.resolve(Path::new(file), &base));
        configured.is_some_and(|configured| is_same_file(&configured, path))
    };
    let configured = context.config.databases.iter().find(|(_, database)| same(database));
    let (name, environment) = match configured {
        Some((name, database)) => (name.clone(), database.environment.clone()),
        None => (stem(path), None),
    };
    Source { name, place: Place::File(path.to_owned()), shown: name::printable(shown), environment }
}

/// Returns the database of a part of the configuration.
fn from_configuration(
    context: &Context,
    name: &str,
    database: &DatabaseConfig,
) -> Result<Source, Unresolved> {
    let base = context.config_base();
    let text = database.sqlite.as_ref().or(database.postgres.as_ref()).map_or("", String::as_str);
    let source = match (text.strip_prefix("env:"), &database.sqlite) {
        (Some(variable), _) => from_variable(context, variable, &base, Some(name)),
        (None, None) => server::from_text(context, text, text),
        (None, Some(_)) => {
            let path = context.environment.resolve(Path::new(text), &base);
            match redact(text) == text || path.exists() {
                true => Ok(Source {
                    name: name.to_owned(),
                    place: Place::File(path),
                    shown: name::printable(text),
                    environment: None,
                }),
                false => Err(other_url(text)),
            }
        }
    };
    let source = source.map_err(|unresolved| Unresolved { name: name.to_owned(), ..unresolved })?;
    let mut source = Source { name: name.to_owned(), environment: database.environment.clone(), ..source };
    if let Place::Server(server) = &mut source.place
        && let Err(error) = server.configure(context, database)
    {
        return Err(source.unreadable(error));
    }
    Ok(source)
}

/// Returns the database that a variable names, as `DATABASE_URL` does.
fn from_variable(
    context: &Context,
    variable: &str,
    base: &Path,
    called: Option<&str>,
) -> Result<Source, Unresolved> {
    let shown = name::printable(&format!("env:{}", redact(variable)));
    let nowhere = |engine: Engine, error: Error| Unresolved {
        name: called.map_or_else(|| redact(variable), str::to_owned),
        engine,
        shown: shown.clone(),
        error: Box::new(error),
    };
    let Some(value) = context.environment.value(variable) else {
        let error = Error::NoVariable { name: redact(variable), hint: variable_hint(context) };
        return Err(nowhere(Engine::Postgres, error));
    };
    if server::is_url(value) || server::is_connection_string(value) {
        return server::from_text(context, value, &shown);
    }
    if ["http://", "https://"].iter().any(|scheme| value.starts_with(scheme)) {
        let what = format!("{shown} leads to a web page or an API, and to no database");
        return Err(nowhere(Engine::Postgres, Error::Unsupported { what, hint: variable_hint(context) }));
    }
    let path = sqlite_path(value).unwrap_or_else(|| PathBuf::from(value));
    let path = context.environment.resolve(&path, base);
    // Whatever the variable holds may be a secret, so its value is shown nowhere, and not as a path either.
    if !path.exists() {
        return Err(nowhere(Engine::Sqlite, Error::LeadsNowhere { shown: shown.clone() }));
    }
    let name = called.map_or_else(|| stem(&path), str::to_owned);
    Ok(Source { name, place: Place::File(path), shown, environment: None })
}

/// Says where a connection string is when only other variables of a hosted database are set.
fn variable_hint(context: &Context) -> Option<String> {
    let hosted = context.environment.value("SUPABASE_URL").is_some();
    Some(match hosted {
        true => "SUPABASE_URL is the address of the API; the connection string is in the dashboard of the project under Connect".to_owned(),
        false => "set it to a connection string, also in a `.env` file of the working directory".to_owned(),
    })
}

fn unknown(context: &Context, text: &str) -> Unresolved {
    let looks_like_path = text.contains(['/', '.']);
    let error = if looks_like_path {
        Error::Sqlite(dbkeep_sqlite::Error::Missing {
            path: context.environment.resolve_argument(Path::new(text)),
        })
    } else {
        let names = context.config.databases.keys().map(String::as_str);
        Error::UnknownSource { name: text.to_owned(), suggestion: nearest(text, names).map(str::to_owned) }
    };
    unresolved(text, error)
}

/// Says whether this is a URL of something else, or one that holds a password where no file has one.
fn is_other_url(text: &str) -> bool {
    let address = text.split('?').next().unwrap_or_default();
    match sqlite_path(text) {
        Some(_) => redact(address) != address,
        None => text.contains("://"),
    }
}

fn other_url(text: &str) -> Unresolved {
    let what = format!("{} is no URL of a database that is known here", name::printable(&redact(text)));
    let hint =
        "give a URL that begins with postgresql:// or sqlite:, or the path of a SQLite file".to_owned();
    unresolved(text, Error::Unsupported { what, hint: Some(hint) })
}

fn unresolved(text: &str, error: Error) -> Unresolved {
    let shown = redact(text);
    Unresolved {
        name: stem(Path::new(&shown)),
        engine: Engine::Sqlite,
        shown: name::printable(&shown),
        error: Box::new(error),
    }
}

/// Keeps the first of the sources that mean the same database.
fn drop_repeated(sources: &mut Vec<Result<Source, Unresolved>>) {
    let mut seen: Vec<Place> = Vec::new();
    sources.retain(|source| {
        let Ok(source) = source else { return true };
        if seen.iter().any(|earlier| is_same_place(earlier, &source.place)) {
            return false;
        }
        seen.push(source.place.clone());
        true
    });
}

/// Says whether two places are known to be one. Nothing is opened.
fn is_same_place(left: &Place, right: &Place) -> bool {
    match (left, right) {
        (Place::File(left), Place::File(right)) => is_same_file(left, right),
        (Place::Server(left), Place::Server(right)) => left.is_same(right),
        _ => false,
    }
}

/// Gives the only source the name the user wants.
fn rename(sources: &mut [Result<Source, Unresolved>], called: &str) -> Result<()> {
    name::check(called).map_err(|why| Error::usage(why, "choose another --name"))?;
    match sources {
        [one] => {
            match one {
                Ok(source) => source.name = called.to_owned(),
                Err(source) => source.name = called.to_owned(),
            }
            Ok(())
        }
        _ => Err(Error::usage(
            format!("--name goes with one source, not with {}", sources.len()),
            "give the others names in the configuration",
        )),
    }
}

fn refuse_same_names(sources: &[Result<Source, Unresolved>]) -> Result<()> {
    let found: Vec<&Source> = sources.iter().flatten().collect();
    for (position, source) in found.iter().enumerate() {
        name::check(&source.name).map_err(|why| {
            Error::usage(
                format!("{}: {why}", source.shown),
                "give it a name with --name or in the configuration",
            )
        })?;
        if let Some(earlier) = found[..position].iter().find(|earlier| earlier.name == source.name) {
            return Err(Error::SameName {
                name: source.name.clone(),
                first: earlier.shown.clone(),
                second: source.shown.clone(),
            });
        }
    }
    Ok(())
}

/// Says whether two paths lead to one file. Nothing is opened.
fn is_same_file(left: &Path, right: &Path) -> bool {
    match (std::fs::canonicalize(left), std::fs::canonicalize(right)) {
        (Ok(left), Ok(right)) => left == right,
        _ => left == right,
    }
}

/// Returns the default name of a database file.
fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| "database".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// Returns the path in a URL of SQLite, as SQLAlchemy (`sqlite:///app.db`, `sqlite:////srv/app.db`), sqlx
/// (`sqlite:app.db`) and Prisma (`file:./app.db`) write it.
fn sqlite_path(text: &str) -> Option<PathBuf> {
    let (scheme, rest) = text.split_once(':')?;
    let engine = scheme.split('+').next().unwrap_or_default();
    if !engine.eq_ignore_ascii_case("sqlite") && !scheme.eq_ignore_ascii_case("file") {
        return None;
    }
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = match scheme.eq_ignore_ascii_case("file") {
        // In a `file:` URL the path begins after an empty host and keeps its slash.
        true => path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path),
        false => path.strip_prefix("///").or_else(|| path.strip_prefix("//")).unwrap_or(path),
    };
    (!path.is_empty()).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::GlobalOptions;
    use crate::environment::Environment;

    fn context(root: &Path, config: &str) -> Context {
        let file = root.join("dbkeep.toml");
        std::fs::write(&file, config).unwrap();
        let options = GlobalOptions { config: Some(file), ..GlobalOptions::default() };
        Context::load(Environment::isolated(root), &options).unwrap()
    }

    fn resolved(context: &Context, given: &[&str]) -> Vec<Result<Source, Unresolved>> {
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        resolve(context, &given, None).unwrap()
    }

    fn database(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = b"SQLite format 3\0".to_vec();
        bytes.resize(4096, 0);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn urls_of_sqlite_lead_to_files() {
        let cases = [
            ("sqlite:///app.db", Some("app.db")),
            ("sqlite:////srv/app.db", Some("/srv/app.db")),
            ("sqlite+aiosqlite:///a.db?mode=ro", Some("a.db")),
            ("sqlite:a.db", Some("a.db")),
            ("file:./dev.db?connection_limit=1", Some("./dev.db")),
            ("file:///srv/a.db", Some("/srv/a.db")),
            ("/srv/a:b.db", None),
        ];
        for (url, path) in cases {
            assert_eq!(sqlite_path(url), path.map(PathBuf::from), "{url}");
        }
    }

    #[test]
    fn configured_file_has_its_configured_name_however_it_is_given() {
        let root = tempfile::tempdir().unwrap();
        database(&root.path().join("data/app.db"));
        let context = context(
            root.path(),
            "[databases.shop]\nsqlite = \"data/app.db\"\nenvironment = \"production\"\n",
        );
        for given in ["shop", "data/app.db", "./data/../data/app.db"] {
            let found = resolved(&context, &[given]);
            let source = found[0].as_ref().unwrap();
            assert_eq!(
                (source.name.as_str(), source.environment.as_deref()),
                ("shop", Some("production")),
                "{given}"
            );
        }
        assert_eq!(resolved(&context, &["shop", "data/app.db"]).len(), 1, "one file counts once");
        assert_eq!(resolved(&context, &[])[0].as_ref().unwrap().name, "shop");
    }

    #[test]
    fn two_files_of_one_name_are_refused_before_anything_is_read() {
        let root = tempfile::tempdir().unwrap();
        database(&root.path().join("a/app.db"));
        database(&root.path().join("b/app.db"));
        let context = context(root.path(), "");
        let given = ["a/app.db".to_owned(), "b/app.db".to_owned()];
        let error = resolve(&context, &given, None).unwrap_err();
        assert_eq!(error.to_string(), "two databases would be called \"app\": a/app.db and b/app.db");
        assert_eq!(error.exit_code(), 2);
        let error = resolve(&context, &given, Some("x")).unwrap_err();
        assert_eq!(error.to_string(), "--name goes with one source, not with 2");
    }

    #[test]
    fn source_that_leads_nowhere_says_why_and_leaves_the_others() {
        let root = tempfile::tempdir().unwrap();
        database(&root.path().join("app.db"));
        std::fs::create_dir(root.path().join("empty")).unwrap();
        let mut context = context(root.path(), "[databases.clinic]\nsqlite = \"clinic.db\"\n");
        context.environment.env_file.insert("LOCAL".to_owned(), "sqlite:///app.db".to_owned());
        context.environment.env_file.insert("HOSTED".to_owned(), "postgres://u:hunter2@h/shop".to_owned());
        let given =
            ["app.db", "clinik", "gone.db", "empty", "env:NOPE", "env:HOSTED", "postgresql://u:hunter2@h/d"];
        let found = resolved(&context, &given);
        assert_eq!(found[0].as_ref().unwrap().name, "app");
        let kinds: Vec<_> =
            found[1..5].iter().map(|one| one.as_ref().unwrap_err().error.kind().word()).collect();
        assert_eq!(kinds, ["unknown-source", "missing", "no-databases", "no-variable"]);
        assert_eq!(found[1].as_ref().unwrap_err().error.hint().as_deref(), Some("did you mean \"clinic\"?"));
        assert!(!format!("{found:?}").contains("hunter2"));
        assert_eq!(resolved(&context, &["env:LOCAL"])[0].as_ref().unwrap().shown, "env:LOCAL");
    }

    /// Returns everything that is shown of a source, and of why it leads nowhere.
    fn everything(found: &Result<Source, Unresolved>) -> String {
        let error =
            found.as_ref().err().map(|one| format!("{} {:?}", one.error.full_message(), one.error.hint()));
        format!("{found:?} {}", error.unwrap_or_default())
    }

    #[test]
    fn no_password_shows_however_a_source_is_written() {
        let root = tempfile::tempdir().unwrap();
        let mut context = context(root.path(), "");
        let forms = [
            "postgres://u:{}@h/d?sslmod=x",
            "postgres://u:{}@h/d",
            "postgres://u@h/d?password={}",
            "application_name=x host=h password={}",
            "connect_timeout=5 host=h password  = {}",
            "host=/tmp dbname=d password={}/x",
            "Server=h;Password={}",
            "mysql://u:{}@h/d",
            "postgre://u:{}@h/d",
            "postgres//u:{}@h/d",
            "u:{}@h/d",
            "'postgres://u:{}@h/d'",
            "sqlite+pysqlcipher://:{}@/app.db",
            "file:app.db?_pragma_key={}",
        ];
        for form in forms {
            for middle in ["", "@", "/", "?", "#", ":", "%", " ", "'", "\"", "\\", "&", "=", "/a@b?", "://"] {
                let text = form.replace("{}", &format!("hun1{middle}ter2"));
                context.environment.env_file.insert("URL".to_owned(), text.clone());
                let config = DatabaseConfig { postgres: Some(text.clone()), ..DatabaseConfig::default() };
                context.config.databases.insert("shop".to_owned(), config);
                let config = DatabaseConfig { sqlite: Some(text.clone()), ..DatabaseConfig::default() };
                context.config.databases.insert("file".to_owned(), config);
                for given in [text.as_str(), "env:URL", &format!("env:{text}"), "shop", "file"] {
                    for found in resolved(&context, &[given]) {
                        let shown = everything(&found);
                        let is_hidden = !shown.contains("hun1") && !shown.contains("ter2");
                        assert!(is_hidden, "{given} {text}: {shown}");
                    }
                }
            }
        }
    }

    #[test]
    fn value_of_a_variable_that_leads_nowhere_is_not_shown() {
        let root = tempfile::tempdir().unwrap();
        let mut context = context(root.path(), "[databases.shop]\nsqlite = \"env:TOKEN\"\n");
        context.environment.env_file.insert("TOKEN".to_owned(), "hunter2".to_owned());
        for (given, name) in [("env:TOKEN", "TOKEN"), ("shop", "shop")] {
            let found = resolved(&context, &[given]);
            let unresolved = found[0].as_ref().unwrap_err();
            assert_eq!((unresolved.name.as_str(), unresolved.error.kind().word()), (name, "missing"));
            assert_eq!(unresolved.error.to_string(), "env:TOKEN leads to no file");
            assert!(!everything(&found[0]).contains("hunter2"));
        }
    }

    #[test]
    fn configured_database_keeps_its_name_where_its_url_cannot_be_read() {
        let root = tempfile::tempdir().unwrap();
        let mut context = context(
            root.path(),
            "[databases.shop]\npostgres = \"postgres://h:x/d\"\n[databases.clinic]\npostgres = \"env:URL\"\n",
        );
        context.environment.env_file.insert("URL".to_owned(), "postgres://h/d?sslmode=x".to_owned());
        let names: Vec<String> =
            resolved(&context, &[]).into_iter().map(|one| one.unwrap_err().name).collect();
        assert_eq!(names, ["clinic", "shop"]);
    }
}
