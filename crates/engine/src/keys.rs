//! The keys of a repository: where passwords come from, generated keys, the sheet to keep.

mod sheet;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use dbkeep_repo::backend::{Backend, FileKind};
use dbkeep_repo::{Id, Secret, durable};
use jiff::Timestamp;

use crate::context::Context;
use crate::environment::Environment;
use crate::report::{KeyAddReport, KeyListReport, KeyRemoveReport, KeyRow};
use crate::repository::Store;
use crate::state::private_directory;
use crate::{Error, Result, trust};

pub use sheet::{RecoverySheet, recovery_sheet};

/// The letters and digits of a generated key: none can be taken for another one in handwriting.
const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";

/// How many of them a key has: 160 bits, in groups of four.
const LENGTH: usize = 32;

/// What the name of a key file begins with until the id of its key is known.
const PENDING: &str = "pending-";

/// Where a new key comes from.
#[derive(Clone, Debug)]
pub enum NewKey {
    /// Make one and write it to a key file.
    Generate,
    /// This password.
    Password(Secret),
    /// The password in this file.
    File(PathBuf),
}

/// Returns the keys of a repository, oldest first.
pub fn list(store: &Store) -> Result<KeyListReport> {
    let current = store.repository().key_id();
    let mut keys: Vec<KeyRow> = store
        .repository()
        .keys()?
        .into_iter()
        .map(|key| KeyRow {
            short_id: key.id.short(),
            created: key.created,
            user: key.username,
            host: key.hostname,
            current: key.id == current,
            id: key.id,
        })
        .collect();
    keys.sort_by_key(|key| (key.created, key.id));
    Ok(KeyListReport { keys })
}

/// Adds a key, so that one more password opens the repository.
pub fn add(store: &Store, new: &NewKey, now: Timestamp) -> Result<KeyAddReport> {
    let options = store.context().key_options();
    let secret = match new {
        NewKey::Generate => {
            let (pending, secret) = generate(&store.context().environment)?;
            let id = store.repository().add_key(&secret, &options, now)?;
            return Ok(KeyAddReport { id, key_file: Some(pending.name_after(&id)?) });
        }
        NewKey::Password(secret) => secret.clone(),
        NewKey::File(file) => {
            from_file(&store.context().environment.resolve_argument(file), "--new-password-file")?
        }
    };
    refuse_empty(&secret)?;
    let id = store.repository().add_key(&secret, &options, now)?;
    Ok(KeyAddReport { id, key_file: None })
}

/// Removes a key by the beginning of its id; never the last one or the one in use.
pub fn remove(store: &Store, prefix: &str) -> Result<KeyRemoveReport> {
    let keys = store.repository().keys()?;
    let fitting: Vec<Id> =
        keys.iter().map(|key| key.id).filter(|id| !prefix.is_empty() && id.starts_with(prefix)).collect();
    match fitting.as_slice() {
        [id] => {
            store.repository().remove_key(id)?;
            Ok(KeyRemoveReport { id: *id })
        }
        [] => Err(Error::usage(format!("no key {prefix:?}"), "`dbkeep key list` shows the keys")),
        _ => {
            Err(Error::usage(format!("{prefix:?} fits {} keys", fitting.len()), "give more digits of the id"))
        }
    }
}

/// Returns the passwords to try, from the first source that is there.
///
/// What was given itself, `--password-file`, `DBKEEP_PASSWORD_FILE`, `DBKEEP_PASSWORD`, the configuration, else the key
/// files of this repository that this user has.
pub(crate) fn passwords(
    context: &Context,
    backend: &dyn Backend,
    warn: &mut dyn FnMut(String),
) -> Result<Vec<Secret>> {
    let lent = lent(context);
    if lent.is_none()
        && let Some(secret) = named(context, warn)?
    {
        return Ok(vec![secret]);
    }
    let mut secrets = Vec::from_iter(lent.cloned());
    let directory = directory(&context.environment);
    let ids: Vec<Id> = backend.list(FileKind::Key)?.into_iter().map(|file| file.id).collect();
    if ids.is_empty() {
        return Err(dbkeep_repo::Error::NoKey.into());
    }
    let mut files: Vec<PathBuf> = ids.iter().map(|id| directory.join(id.to_string())).collect();
    files.extend(pending_files(&directory));
    for file in files.iter().filter(|file| file.exists()) {
        warn_if_lax(file, warn);
        secrets.push(from_file(file, "the configuration directory")?);
    }
    if secrets.is_empty() {
        return Err(Error::NoPassword { location: backend.location(), key_file: files.into_iter().next() });
    }
    Ok(secrets)
}

/// Returns the password for a repository that is made: the one that is named, for a copy without one of its own the
/// primary's.
pub(crate) fn given(context: &Context, warn: &mut dyn FnMut(String)) -> Result<Option<Secret>> {
    match lent(context) {
        Some(secret) => Ok(Some(secret.clone())),
        None => named(context, warn),
    }
}

/// Returns the password of the primary that a copy is opened with.
fn lent(context: &Context) -> Option<&Secret> {
    context.as_copy.as_ref()?.lent.as_ref()
}

/// Says whether nothing but a key file gives the password.
pub(crate) fn is_in_key_file(context: &Context) -> bool {
    password_source(context).is_none()
}

/// Keeps a key as the key file of a copy too, so that the copy can be opened when the primary is gone.
pub(crate) fn keep_for_copy(environment: &Environment, id: &Id, secret: &Secret) -> Result<()> {
    let directory = directory(environment);
    private_directory(&directory)?;
    let file = directory.join(id.to_string());
    let contents = zeroize::Zeroizing::new(format!("{}\n", secret.expose()));
    match durable::write_new(&file, contents.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        written => written.map_err(Error::io("write", &file)),
    }
}

/// Returns the password that the user or the configuration gives; `None` when nothing does.
fn named(context: &Context, warn: &mut dyn FnMut(String)) -> Result<Option<Secret>> {
    let secret = match password_source(context) {
        Some(Source::Given(secret)) => secret.clone(),
        Some(Source::File(file, named_by)) => {
            warn_if_lax(&file, warn);
            from_file(&file, named_by)?
        }
        Some(Source::Variable) => {
            Secret::new(context.environment.variable("DBKEEP_PASSWORD").unwrap_or_default().to_owned())
        }
        Some(Source::Command(words)) => from_command(&words, &context.config_base())?,
        None => return Ok(None),
    };
    refuse_empty(&secret)?;
    Ok(Some(secret))
}

/// Where a password comes from.
enum Source<'c> {
    /// Itself.
    Given(&'c Secret),
    /// A file, and what names it.
    File(PathBuf, &'static str),
    /// `DBKEEP_PASSWORD`.
    Variable,
    /// The command of the configuration.
    Command(Vec<String>),
}

/// Decides which source of a password counts.
fn password_source(context: &Context) -> Option<Source<'_>> {
    let environment = &context.environment;
    if let Some(secret) = &context.password {
        return Some(Source::Given(secret));
    }
    if let Some(file) = &context.password_file {
        return Some(Source::File(file.clone(), "--password-file"));
    }
    if let Some(file) = environment.variable("DBKEEP_PASSWORD_FILE") {
        return Some(Source::File(environment.resolve_argument(Path::new(file)), "DBKEEP_PASSWORD_FILE"));
    }
    if environment.variable("DBKEEP_PASSWORD").is_some() {
        return Some(Source::Variable);
    }
    let repository = &context.config.repository;
    if let Some(file) = &repository.password_file {
        return Some(Source::File(environment.resolve(file, &context.config_base()), "password-file"));
    }
    repository.password_command.as_ref().map(|command| Source::Command(command.words()))
}

/// Says in words where the password comes from; `None` when only key files can give it.
pub(crate) fn describe_source(context: &Context) -> Option<String> {
    Some(match password_source(context)? {
        Source::Given(_) => "given".to_owned(),
        Source::File(file, from) => format!("{from} {}", file.display()),
        Source::Variable => "DBKEEP_PASSWORD".to_owned(),
        Source::Command(words) => format!("password-command {}", words.first()?),
    })
}

/// Reads a password file as restic does.
fn from_file(file: &Path, named_by: &'static str) -> Result<Secret> {
    let missing = || Error::NoPasswordFile { path: file.to_owned(), named_by };
    let text = trust::read_named(file)?.ok_or_else(missing)?;
    Ok(Secret::from_file_contents(text))
}

/// Runs the password command, without a shell, and takes what it prints.
///
/// It may ask a person, so it keeps the terminal and its own errors.
fn from_command(words: &[String], directory: &Path) -> Result<Secret> {
    let failed = |why: String| Error::PasswordCommand { why };
    let (program, arguments) = words.split_first().ok_or_else(|| failed("it is empty".to_owned()))?;
    let output = std::process::Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(format!("could not run {program}: {error}")))?;
    if !output.status.success() {
        return Err(failed(format!("{program} ended with {}", output.status)));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| failed(format!("{program} printed no text")))?;
    let secret = Secret::from_file_contents(text);
    if secret.expose().is_empty() {
        return Err(failed(format!("{program} printed nothing")));
    }
    Ok(secret)
}

fn refuse_empty(secret: &Secret) -> Result<()> {
    match secret.expose().is_empty() {
        true => Err(Error::usage(
            "the password is empty",
            "an empty password protects nothing: choose another one",
        )),
        false => Ok(()),
    }
}

/// Warns of a file with a secret that others can read. The system's own ways of passing secrets may do so.
fn warn_if_lax(file: &Path, warn: &mut dyn FnMut(String)) {
    use std::os::unix::fs::PermissionsExt;
    let lax = std::fs::metadata(file)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o077 != 0);
    if lax {
        warn(format!("others can read {}: chmod 600 it", file.display()));
    }
}

/// Returns where key files are.
pub(crate) fn directory(environment: &Environment) -> PathBuf {
    environment.config_directory.join("keys")
}

/// Returns the key files whose keys have no name yet, because the process that made them was stopped.
fn pending_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PENDING))
        .map(|entry| entry.path())
        .collect()
}

/// A generated key, stored, that is not yet named after the id of its file in the repository.
#[derive(Debug)]
pub(crate) struct PendingKey {
    file: PathBuf,
}

impl PendingKey {
    /// Names the key file after its key. A crash before leaves it under its first name, where it is found too.
    pub(crate) fn name_after(self, id: &Id) -> Result<PathBuf> {
        let named = self.file.with_file_name(id.to_string());
        durable::rename_no_replace(&self.file, &named).map_err(Error::io("write", &named))?;
        Ok(named)
    }

    /// Removes a key that opens nothing, because no repository was made with it.
    pub(crate) fn discard(self) {
        let _ = std::fs::remove_file(self.file);
    }
}

/// Makes a key and stores it, durably, before anything can depend on it.
pub(crate) fn generate(environment: &Environment) -> Result<(PendingKey, Secret)> {
    let directory = directory(environment);
    private_directory(&directory)?;
    let secret = random_key()?;
    let unique: String =
        random_key()?.expose().chars().filter(|character| *character != '-').take(12).collect();
    let file = directory.join(format!("{PENDING}{unique}"));
    let contents = zeroize::Zeroizing::new(format!("{}\n", secret.expose()));
    durable::write_new(&file, contents.as_bytes()).map_err(Error::io("write", &file))?;
    Ok((PendingKey { file }, secret))
}

/// Returns 160 random bits as people can write them down.
fn random_key() -> Result<Secret> {
    use ring::rand::SecureRandom;
    let mut bytes = zeroize::Zeroizing::new([0u8; LENGTH]);
    ring::rand::SystemRandom::new()
        .fill(&mut bytes[..])
        .map_err(|_| Error::Repo(dbkeep_repo::Error::Random))?;
    let mut text = String::with_capacity(LENGTH + LENGTH / 4);
    for (position, byte) in bytes.iter().enumerate() {
        if position > 0 && position % 4 == 0 {
            text.push('-');
        }
        // 32 letters divide 256, so each is as likely as the others.
        text.push(char::from(LETTERS[usize::from(byte % 32)]));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::GlobalOptions;
    use std::os::unix::fs::PermissionsExt;

    fn context(root: &Path) -> Context {
        Context::load(Environment::isolated(root), &GlobalOptions::default()).unwrap()
    }

    fn password(context: &Context) -> Option<String> {
        given(context, &mut |_| {}).unwrap().map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn generated_keys_have_eight_groups_of_letters_that_cannot_be_confused() {
        let first = random_key().unwrap();
        let groups: Vec<&str> = first.expose().split('-').collect();
        assert_eq!(groups.len(), 8);
        assert!(groups.iter().all(|group| group.len() == 4));
        assert!(
            first.expose().chars().all(|character| character == '-' || LETTERS.contains(&(character as u8)))
        );
        assert!(!first.expose().contains(['i', 'l', 'o', '1']));
        assert_ne!(first, random_key().unwrap());
    }

    #[test]
    fn key_file_is_private_and_found_before_and_after_it_is_named() {
        let root = tempfile::tempdir().unwrap();
        let environment = Environment::isolated(root.path());
        let (pending, secret) = generate(&environment).unwrap();
        assert_eq!(pending_files(&directory(&environment)), std::slice::from_ref(&pending.file));
        assert_eq!(from_file(&pending.file, "test").unwrap(), secret);
        let named = pending.name_after(&Id::of(b"key")).unwrap();
        assert_eq!(named, directory(&environment).join(Id::of(b"key").to_string()));
        assert_eq!(from_file(&named, "test").unwrap(), secret);
        assert_eq!(std::fs::metadata(&named).unwrap().permissions().mode() & 0o777, 0o600);
        let above = std::fs::metadata(directory(&environment)).unwrap();
        assert_eq!(above.permissions().mode() & 0o777, 0o700);
        assert!(pending_files(&directory(&environment)).is_empty());
    }

    #[test]
    fn password_comes_from_the_first_source_that_is_there() {
        let root = tempfile::tempdir().unwrap();
        let mut context = context(root.path());
        assert_eq!(password(&context), None);
        let file = |name: &str| {
            let path = root.path().join(name);
            std::fs::write(&path, format!("{name}\r\n")).unwrap();
            path
        };
        context.config.repository.password_command =
            Some(crate::config::Command::Line("echo 'from command'".to_owned()));
        assert_eq!(password(&context).as_deref(), Some("from command"));
        context.config.repository.password_file = Some(file("configured"));
        assert_eq!(password(&context).as_deref(), Some("configured"));
        context.environment.variables.insert("DBKEEP_PASSWORD".to_owned(), "variable".to_owned());
        assert_eq!(password(&context).as_deref(), Some("variable"));
        file("named");
        context.environment.variables.insert("DBKEEP_PASSWORD_FILE".to_owned(), "named".to_owned());
        assert_eq!(password(&context).as_deref(), Some("named"));
        context.password_file = Some(file("argument"));
        assert_eq!(password(&context).as_deref(), Some("argument"));
        context.password = Some(Secret::new("typed".to_owned()));
        assert_eq!(password(&context).as_deref(), Some("typed"));
    }

    #[test]
    fn password_command_that_fails_says_how_and_not_what_it_printed() {
        let words = |line: &str| crate::config::Command::Line(line.to_owned()).words();
        let error = from_command(&words("sh -c 'echo hunter2; exit 3'"), Path::new("/")).unwrap_err();
        assert_eq!(error.to_string(), "the password command failed: sh ended with exit status: 3");
        assert_eq!(error.exit_code(), 12);
        let error = from_command(&words("true"), Path::new("/")).unwrap_err();
        assert_eq!(error.to_string(), "the password command failed: true printed nothing");
        assert!(from_command(&words("no-such-program-here"), Path::new("/")).is_err());
    }

    #[test]
    fn file_that_others_can_read_is_a_warning() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("password");
        std::fs::write(&file, "x").unwrap();
        let mut warnings = Vec::new();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        warn_if_lax(&file, &mut |warning| warnings.push(warning));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        warn_if_lax(&file, &mut |warning| warnings.push(warning));
        assert_eq!(warnings, [format!("others can read {}: chmod 600 it", file.display())]);
    }
}
