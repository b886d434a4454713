//! The programs of PostgreSQL that we run: `pg_dump` for what a database looks like, `pg_restore` to write that as text.
//!
//! A `pg_dump` reads servers of its own version and older ones, so the one to take is the oldest that is new enough: what
//! it writes then suits the server it came from. A program gets nothing of ours on its command line that is a secret; the
//! password goes through its environment, and no variable of libpq that happens to be set reaches it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::conninfo::{Address, ChannelBinding, ConnInfo, Host, Roots, TlsMode};
use crate::wire::{Options, Stop, silence_for_libpq};
use crate::{Error, Result};

/// Folders of programs, beside those of the PATH: each holds one for each version.
const FOLDERS: [(&str, &str, &str); 4] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
];

/// Where systems keep the certificates that they trust in one file, by what OpenSSL and others look for.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// From this version on programs know what `sslrootcert=system` means; to others it is the name of a file.
const KNOWS_SYSTEM: u32 = 16;

/// The first releases in which a crafted archive cannot make `pg_restore` run code ([`HOLE`]). Newer major versions begin
/// with it.
const SAFE: [(u32, u32); 5] = [(14, 25), (15, 20), (16, 16), (17, 12), (18, 7)];
/// The name of what they mend.
pub const HOLE: &str = "CVE-2026-116314";

/// The programs of one version of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    folder: PathBuf,
    /// The version, as `15.18`.
    pub version: String,
    /// The major version.
    pub major: u32,
}

impl Tools {
    /// Returns the programs for a server of a major version: those of `folder` if one is given, else the oldest that
    /// are new enough, from the PATH and from where systems put them. A `pg_dump` without a `pg_restore` is not enough.
    ///
    /// # Errors
    /// [`Error::NoTools`] when there are none that are new enough, and which of the two is missing.
    pub fn find(major: u32, folder: Option<&Path>, path: Option<&OsString>) -> Result<Self> {
        let folders = match folder {
            Some(folder) => vec![folder.to_owned()],
            None => usual_folders("pg_dump", path),
        };
        let found: Vec<Self> = folders.into_iter().filter_map(Self::in_folder).collect();
        let newest = found.iter().map(|tools| tools.major).max();
        let mut fitting: Vec<Self> = found.into_iter().filter(|tools| tools.major >= major).collect();
        if fitting.is_empty() {
            return Err(Error::NoTools { program: "pg_dump", server: major, newest });
        }
        // The first of several: the PATH comes first.
        fitting.sort_by_key(|tools| tools.major);
        let whole =
            fitting.into_iter().find(|tools| Self::told_by("pg_restore", tools.folder.clone()).is_some());
        whole.ok_or(Error::NoTools { program: "pg_restore", server: major, newest: None })
    }

    /// Returns the programs that make and run a server of a major version or a newer one, found as [`Self::find`] finds
    /// `pg_dump`.
    ///
    /// # Errors
    /// [`Error::NoServerPrograms`] when there are none that are new enough.
    pub fn find_server(major: u32, folder: Option<&Path>, path: Option<&OsString>) -> Result<Self> {
        let folders = folder.map(Path::to_owned).into_iter().chain(usual_folders("postgres", path));
        let of_server = folders.filter(|folder| folder.join("initdb").is_file());
        let found: Vec<Self> = of_server.filter_map(|folder| Self::told_by("postgres", folder)).collect();
        let newest = found.iter().map(|tools| tools.major).max();
        let fitting = found.into_iter().filter(|tools| tools.major >= major);
        fitting.min_by_key(|tools| tools.major).ok_or(Error::NoServerPrograms { server: major, newest })
    }

    /// Returns those for a server that is reached in some way, found as [`Self::find`] does: newer ones where older ones
    /// do not know where the system has its certificates.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_for(
        info: &ConnInfo,
        major: u32,
        folder: Option<&Path>,
        path: Option<&OsString>,
    ) -> Result<Self> {
        match info.tls.roots {
            Roots::System if major < KNOWS_SYSTEM => {
                Self::find(KNOWS_SYSTEM, folder, path).or_else(|_| Self::find(major, folder, path))
            }
            _ => Self::find(major, folder, path),
        }
    }

    fn in_folder(folder: PathBuf) -> Option<Self> {
        Self::told_by("pg_dump", folder)
    }

    fn told_by(program: &str, folder: PathBuf) -> Option<Self> {
        let program = folder.join(program);
        let output = Command::new(&program).arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version =
            text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
        let digits = version.split(|character: char| !character.is_ascii_digit()).next()?;
        Some(Self { folder, version: version.to_owned(), major: digits.parse().ok()? })
    }

    /// Returns the first release of the same major version that has the fix of a known hole ([`HOLE`]), as `15.20`, where
    /// these programs lack it; for a major version that never got it, the oldest one that did. Programs whose version
    /// cannot be read are not known to have it.
    pub fn lacks_fix(&self) -> Option<String> {
        lacks_fix(&self.version)
    }

    /// Prepares a program that reaches the server that answered a connection.
    pub fn command(&self, program: &str, info: &ConnInfo, host: &Host, options: &Options) -> Command {
        let mut command = self.offline(program);
        command.envs(environment(info, host, options));
        // Everything else is in the environment. A string in this place adds to that, and names no database.
        command.arg(format!("--dbname={}", silence_for_libpq()));
        if info.tls.roots == Roots::System && self.major < KNOWS_SYSTEM {
            command.env("PGSSLROOTCERT", bundle(std::env::var_os("SSL_CERT_FILE"), &BUNDLES));
        }
        command
    }

    /// Prepares a program that reaches no server.
    pub fn offline(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command
    }
}

fn lacks_fix(version: &str) -> Option<String> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    let digits = version.split(|character: char| !character.is_ascii_digit()).next().unwrap_or_default();
    let named = digits.parse().unwrap_or(0);
    let same_or_newer = SAFE.iter().copied().find(|(safe, _)| *safe >= named);
    let (safe, first) = same_or_newer.unwrap_or((named, 0));
    let is_there = major == Some(safe) && minor.is_some_and(|minor| minor >= first);
    (!is_there).then(|| format!("{safe}.{first}"))
}

/// Returns all folders that have a program.
fn usual_folders(program: &str, path: Option<&OsString>) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    for (parent, prefix, inner) in FOLDERS {
        folders.extend(of_versions(Path::new(parent), prefix, inner));
    }
    folders.retain(|folder| folder.join(program).is_file());
    folders
}

/// Returns the folders of programs in a folder that has one for each version.
fn of_versions(parent: &Path, prefix: &str, inner: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let versions = entries.filter(|entry| {
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix(prefix));
        version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
    });
    versions.map(|entry| entry.path().join(inner)).collect()
}

/// Returns the file with the certificates that the system trusts. Where there is none, programs say which they miss.
fn bundle(said: Option<OsString>, usual: &[&str]) -> PathBuf {
    let usual_one = || usual.iter().map(PathBuf::from).find(|path| path.is_file());
    let first = || usual.first().map(PathBuf::from).unwrap_or_default();
    said.map(PathBuf::from).or_else(usual_one).unwrap_or_else(first)
}

/// Returns the variables by which libpq reaches the same server in the same way.
fn environment(info: &ConnInfo, host: &Host, options: &Options) -> Vec<(&'static str, OsString)> {
    let timeout = info.connect_timeout.unwrap_or(options.connect_timeout).as_secs().max(2);
    let name = info.application_name.clone().unwrap_or_else(|| options.application_name.clone());
    let mut variables: Vec<(&'static str, OsString)> = vec![
        ("PGHOST", host.name().into()),
        ("PGPORT", host.port.to_string().into()),
        ("PGUSER", info.user.clone().into()),
        ("PGDATABASE", info.database.clone().into()),
        ("PGAPPNAME", name.into()),
        ("PGCONNECT_TIMEOUT", timeout.to_string().into()),
        // What the password file says is known already.
        ("PGPASSFILE", "/dev/null/none".into()),
        ("PGSSLMODE", mode(info.tls.mode).into()),
        ("PGCHANNELBINDING", binding(info.channel_binding).into()),
    ];
    if let Address::Network { address: Some(address), .. } = &host.address {
        variables.push(("PGHOSTADDR", address.to_string().into()));
    }
    if let Some(password) = &host.password {
        variables.push(("PGPASSWORD", password.expose().into()));
    }
    match &info.tls.roots {
        Roots::None => {}
        Roots::File(path) => variables.push(("PGSSLROOTCERT", path.clone().into())),
        Roots::System => variables.push(("PGSSLROOTCERT", "system".into())),
    }
    if let Some((certificate, key)) = &info.tls.certificate {
        variables.push(("PGSSLCERT", certificate.clone().into()));
        variables.push(("PGSSLKEY", key.clone().into()));
    }
    variables.extend(info.tls.direct.then(|| ("PGSSLNEGOTIATION", "direct".into())));
    variables.extend((!info.tls.server_name).then(|| ("PGSSLSNI", "0".into())));
    variables.extend(info.options.clone().map(|options| ("PGOPTIONS", options.into())));
    variables
}

fn mode(mode: TlsMode) -> &'static str {
    match mode {
        TlsMode::Disable => "disable",
        TlsMode::Allow => "allow",
        TlsMode::Prefer => "prefer",
        TlsMode::Require => "require",
        TlsMode::VerifyCa => "verify-ca",
        TlsMode::VerifyFull => "verify-full",
    }
}

fn binding(binding: ChannelBinding) -> &'static str {
    match binding {
        ChannelBinding::Disable => "disable",
        ChannelBinding::Prefer => "prefer",
        ChannelBinding::Require => "require",
    }
}

/// Runs a program to its end, with its output in a file. It is ended when somebody wants to stop. Returns what it had to
/// say nevertheless.
///
/// # Errors
/// [`Error::Tool`] with what it said, when it fails.
pub fn run(mut command: Command, output: fs::File, stop: &Stop) -> Result<String> {
    let program =
        Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |what: String| Error::Tool { program: program.clone(), what };
    let child = command.stdout(output).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|source| Error::System { what: "start a program", source })?;
    let errors = child.stderr.take();
    thread::scope(|scope| {
        let reader = thread::Builder::new().name("read errors".to_owned()).spawn_scoped(scope, move || {
            let mut text = Vec::new();
            if let Some(mut errors) = errors {
                // What could be read is what can be told.
                let _ = io::Read::read_to_end(&mut errors, &mut text);
            }
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        let reader = match reader {
            Ok(reader) => reader,
            Err(source) => {
                // Without its words it is not run.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::System { what: "start a thread", source });
            }
        };
        let status = wait(&mut child, stop)?;
        let said = reader.join().unwrap_or_default();
        if status { Ok(said) } else { Err(failed(shortened(&said))) }
    })
}

/// Returns the begin of what a program said: it may repeat a statement with the names of all tables.
fn shortened(text: &str) -> String {
    const MOST: usize = 2_000;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

/// Waits for a program. Returns whether it succeeded.
fn wait(child: &mut Child, stop: &Stop) -> Result<bool> {
    loop {
        let status =
            child.try_wait().map_err(|source| Error::System { what: "wait for a program", source })?;
        if let Some(status) = status {
            return Ok(status.success());
        }
        if stop() {
            // It may have ended in this moment.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Stopped);
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::conninfo::Surroundings;

    /// Makes programs that say they are of a version.
    fn program(folder: &Path, version: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        for name in ["pg_dump", "pg_restore"] {
            let path = folder.join(name);
            fs::write(&path, format!("#!/bin/sh\necho '{name} (PostgreSQL) {version} (Some 1)'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        folder.to_owned()
    }

    #[test]
    fn releases_with_the_fix_are_told_from_those_without() {
        for version in ["14.25", "15.20", "16.17", "17.12", "18.7", "18.12", "19.0", "19.1"] {
            assert_eq!(lacks_fix(version), None, "{version}");
        }
        for (version, first) in [
            ("9.6.24", "14.25"),
            ("13.23", "14.25"),
            ("14.24", "14.25"),
            ("15.9", "15.20"),
            ("16.15", "16.16"),
            ("17.4", "17.12"),
            ("18.6", "18.7"),
            ("18beta1", "18.7"),
            ("18", "18.7"),
            ("19beta1", "19.0"),
            ("x", "14.25"),
            ("", "14.25"),
        ] {
            assert_eq!(lacks_fix(version).as_deref(), Some(first), "{version}");
        }
    }

    #[test]
    fn pg_dump_without_pg_restore_is_passed_over_and_told_where_there_is_no_other() {
        let place = tempfile::tempdir().unwrap();
        let [half, whole] = ["98.1", "99.1"].map(|version| program(&place.path().join(version), version));
        let path = std::env::join_paths([&half, &whole]).unwrap();
        assert_eq!(Tools::find(98, None, Some(&path)).unwrap().version, "98.1");
        fs::remove_file(half.join("pg_restore")).unwrap();
        assert_eq!(Tools::find(98, None, Some(&path)).unwrap().version, "99.1");
        let error = Tools::find(98, Some(&half), Some(&path)).unwrap_err();
        assert_eq!(error.to_string(), "no pg_restore for PostgreSQL 98 was found");
        assert!(error.hint().unwrap().contains("postgresql-client-98"), "{error}");
        // It is there and does not run.
        fs::write(half.join("pg_restore"), "").unwrap();
        assert!(matches!(
            Tools::find(98, Some(&half), None),
            Err(Error::NoTools { program: "pg_restore", .. })
        ));
    }

    #[test]
    fn folder_with_one_for_each_version_is_known_by_how_it_names_them() {
        let place = tempfile::tempdir().unwrap();
        for name in ["16", "9.6", "pgsql-17", "pgsql-old", "postgresql@18", "common"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let found = |prefix: &str| {
            let mut found = of_versions(place.path(), prefix, "bin");
            found.sort_unstable();
            found
        };
        let at = |name: &str| place.path().join(name).join("bin");
        assert_eq!(found(""), [at("16"), at("9.6")]);
        assert_eq!(found("pgsql-"), [at("pgsql-17")]);
        assert_eq!(found("postgresql@"), [at("postgresql@18")]);
        assert_eq!(of_versions(&place.path().join("nowhere"), "", "bin"), Vec::<PathBuf>::new());
    }

    #[test]
    fn programs_in_the_usual_places_are_found_without_any_path() {
        // As Debian puts them; other systems are not at hand.
        let usual = of_versions(Path::new("/usr/lib/postgresql"), "", "bin");
        let whole = usual.into_iter().filter(|folder| folder.join("pg_restore").is_file());
        let installed: Vec<Tools> = whole.filter_map(Tools::in_folder).collect();
        if installed.is_empty() {
            return println!("skipped: no programs of PostgreSQL are in /usr/lib/postgresql");
        }
        for path in [None, Some(OsString::new()), Some("/nowhere".into())] {
            for tools in &installed {
                assert_eq!(Tools::find(tools.major, None, path.as_ref()).unwrap(), *tools, "{path:?}");
            }
        }
    }

    #[test]
    fn oldest_that_is_new_enough_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let folders =
            ["97.1", "99.4", "98beta1", "99.9"].map(|version| program(&place.path().join(version), version));
        let path = std::env::join_paths(folders).unwrap();
        let version = |major| Tools::find(major, None, Some(&path)).map(|tools| tools.version);
        assert_eq!(version(98).unwrap(), "98beta1");
        assert_eq!(version(99).unwrap(), "99.4", "the first of the PATH");
        let error = version(100).unwrap_err();
        assert!(
            matches!(error, Error::NoTools { program: "pg_dump", server: 100, newest: Some(99) }),
            "{error}"
        );
        let error = Tools::find(98, Some(&place.path().join("97.1")), Some(&path)).unwrap_err();
        assert!(
            matches!(error, Error::NoTools { program: "pg_dump", server: 98, newest: Some(97) }),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("postgresql-client-98"), "{error}");
    }

    #[test]
    fn server_is_made_by_programs_that_are_all_there_and_new_enough() {
        let place = tempfile::tempdir().unwrap();
        let folder = |version: &str, programs: &[&str]| {
            let folder = program(&place.path().join(version), version);
            for name in programs {
                fs::copy(folder.join("pg_dump"), folder.join(name)).unwrap();
            }
            folder
        };
        let only_client = folder("97.1", &[]);
        let without_initdb = folder("98.1", &["postgres"]);
        let whole = folder("99.1", &["postgres", "initdb"]);
        let path = std::env::join_paths([&only_client, &without_initdb, &whole]).unwrap();
        assert_eq!(Tools::find_server(97, None, Some(&path)).unwrap().version, "99.1");
        let newer = folder("98.5", &["postgres", "initdb"]);
        assert_eq!(Tools::find_server(97, Some(&newer), Some(&path)).unwrap().version, "98.5");
        let error = Tools::find_server(100, None, Some(&path)).unwrap_err();
        assert!(matches!(error, Error::NoServerPrograms { server: 100, newest: Some(99) }), "{error}");
        assert!(error.hint().unwrap().contains("--server"), "{error}");
    }

    #[test]
    fn secrets_are_in_the_environment_of_a_program_and_nothing_else_is() {
        let place = tempfile::tempdir().unwrap();
        let tools = Tools::in_folder(program(place.path(), "15.1")).unwrap();
        let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
        let text = "host=h hostaddr=127.0.0.1 port=7 user='-u' dbname='-d x=y' password=hunter2 sslmode=verify-full \
                    sslrootcert=/r.crt channel_binding=require options='-c x=y'";
        let info = ConnInfo::resolve(text, &surroundings).unwrap();
        let command = tools.command("pg_dump", &info, &info.hosts[0], &Options::default());
        let arguments: Vec<&str> = command.get_args().filter_map(|argument| argument.to_str()).collect();
        let silence = "keepalives=1 keepalives_idle=60 keepalives_interval=15 keepalives_count=9 tcp_user_timeout=195000";
        assert_eq!(arguments, [format!("--dbname={silence}")]);
        let set: Vec<String> = command
            .get_envs()
            .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?)))
            .collect();
        assert_eq!(
            set,
            [
                "LC_ALL=C",
                "PGAPPNAME=dbkeep",
                "PGCHANNELBINDING=require",
                "PGCONNECT_TIMEOUT=15",
                "PGDATABASE=-d x=y",
                "PGHOST=h",
                "PGHOSTADDR=127.0.0.1",
                "PGOPTIONS=-c x=y",
                "PGPASSFILE=/dev/null/none",
                "PGPASSWORD=hunter2",
                "PGPORT=7",
                "PGSSLMODE=verify-full",
                "PGSSLROOTCERT=/r.crt",
                "PGUSER=-u",
            ]
        );
    }

    #[test]
    fn certificates_of_the_system_are_found_by_programs_that_do_not_look_for_them() {
        let place = tempfile::tempdir().unwrap();
        let folders = ["14.2", "15.1", "17.3"].map(|version| program(&place.path().join(version), version));
        let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
        let resolved =
            |more: &str| ConnInfo::resolve(&format!("host=h user=u dbname=d {more}"), &surroundings).unwrap();
        let (system, other) = (resolved("sslrootcert=system"), resolved("sslrootcert=/r.crt"));
        let roots = |tools: &Tools, info: &ConnInfo| {
            let command = tools.command("pg_dump", info, &info.hosts[0], &Options::default());
            let set = command.get_envs().find(|(name, _)| *name == "PGSSLROOTCERT");
            set.unwrap().1.unwrap().to_str().unwrap().to_owned()
        };
        let found = |info: &ConnInfo, folders: &[PathBuf]| {
            let path = std::env::join_paths(folders).unwrap();
            Tools::find_for(info, 14, None, Some(&path)).unwrap()
        };
        let in_path = |tools: &Tools| tools.folder.starts_with(place.path());
        let newer = found(&system, &folders);
        assert!(newer.major >= 16, "{newer:?}");
        assert_eq!(roots(&newer, &system), "system");
        let usual = found(&other, &folders);
        assert_eq!((usual.version.as_str(), in_path(&usual)), ("14.2", true));
        let older = Tools::in_folder(folders[1].clone()).unwrap();
        assert_eq!(roots(&older, &other), "/r.crt");
        assert_eq!(
            roots(&older, &system),
            bundle(std::env::var_os("SSL_CERT_FILE"), &BUNDLES).to_str().unwrap()
        );
        // Named by their folder they are taken, whatever their age.
        let named = Tools::find_for(&system, 14, Some(&folders[1]), None).unwrap();
        assert_eq!(named, older);
    }

    #[test]
    fn file_of_certificates_is_the_one_that_was_named_or_the_first_that_is_there() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let there = place.path().to_str().unwrap();
        assert_eq!(bundle(None, &["/nowhere/a", there, "/etc"]), place.path());
        assert_eq!(bundle(Some("/said".into()), &[there]), Path::new("/said"));
        assert_eq!(bundle(None, &["/nowhere/a", "/nowhere/b"]), Path::new("/nowhere/a"));
    }

    #[test]
    fn program_that_fails_says_why_and_one_that_takes_too_long_is_ended() {
        let never: Stop = Arc::new(|| false);
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'pg_dump: error: no such table' >&2; exit 1"]);
        let error = run(command, tempfile::tempfile().unwrap(), &never).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: pg_dump: error: no such table");
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'é%.0s' $(seq 9000) >&2; exit 1"]);
        let error = run(command, tempfile::tempfile().unwrap(), &never).unwrap_err();
        assert_eq!(error.to_string().chars().count(), "sh failed: ".len() + 2_002);
        let mut command = Command::new("sleep");
        command.arg("600");
        let error = run(command, tempfile::tempfile().unwrap(), &(Arc::new(|| true) as Stop)).unwrap_err();
        assert!(matches!(error, Error::Stopped));
    }
}
