//! The files that libpq reads beside a connection string: services and passwords.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{ConnInfoError, Password, Settings, Surroundings, quoted};

/// Where distributions keep the services of all users.
const SYSTEM_FOLDERS: [&str; 3] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc"];

/// Returns the settings of a service: from the file of the user, else from that of the system.
pub(super) fn service(
    name: &str,
    file: Option<&str>,
    surroundings: &Surroundings<'_>,
) -> Result<Settings, ConnInfoError> {
    for path in service_files(file, surroundings) {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(ConnInfoError::new(format!("could not read {}: {error}", path.display())));
            }
        };
        if let Some(found) = service_in(&text, name, &path)? {
            return Ok(found);
        }
    }
    Err(ConnInfoError::new(format!("no service {}", quoted(name)))
        .with_hint("services stand in ~/.pg_service.conf, or in the file that PGSERVICEFILE names"))
}

fn service_files(file: Option<&str>, surroundings: &Surroundings<'_>) -> Vec<PathBuf> {
    let of_user = match file.map(PathBuf::from).or_else(|| surroundings.path("PGSERVICEFILE")) {
        Some(path) => Some(path),
        None => surroundings.home.map(|home| home.join(".pg_service.conf")),
    };
    let of_system = match surroundings.path("PGSYSCONFDIR") {
        Some(folder) => vec![folder],
        None => SYSTEM_FOLDERS.iter().map(PathBuf::from).collect(),
    };
    of_user.into_iter().chain(of_system.iter().map(|folder| folder.join("pg_service.conf"))).collect()
}

/// Returns what stands below `[name]`.
fn service_in(text: &str, name: &str, path: &Path) -> Result<Option<Settings>, ConnInfoError> {
    let mut found: Option<Settings> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let wrong = |what: &str| ConnInfoError::new(format!("{}:{}: {what}", path.display(), number + 1));
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if section.strip_suffix(']') == Some(name) {
                found = Some(Settings { is_password_apart: true, ..Settings::default() });
            }
        } else if let Some(settings) = &mut found {
            let (key, value) = line.split_once('=').ok_or_else(|| wrong("this line has no `=`"))?;
            if key == "service" {
                return Err(wrong("a service cannot name another one"));
            }
            settings.set_known(key, value.to_owned()).map_err(|error| wrong(&error.to_string()))?;
        }
    }
    Ok(found)
}

/// Returns the password for a connection from a password file.
pub(super) fn password(path: &Path, wanted: [&str; 4]) -> Result<Option<Password>, ConnInfoError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(ConnInfoError::new(format!(
            "{} can be read by others, so it is not used",
            path.display()
        ))
        .with_hint(format!("chmod 600 {}", path.display())));
    }
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    Ok(text.lines().find_map(|line| password_in(line, wanted)))
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConnInfoError {
    ConnInfoError::new(format!("could not read {}: {error}", path.display()))
}

/// Returns the password of a line `host:port:database:user:password` that fits; `*` fits everything.
fn password_in(line: &str, wanted: [&str; 4]) -> Option<Password> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for wanted in wanted {
        let (field, after) = read_field(rest, true)?;
        if field != wanted && !(field == "*" && rest.starts_with("*:")) {
            return None;
        }
        rest = after;
    }
    read_field(rest, false).map(|(password, _)| Password::from(password))
}

/// Returns a field without its backslashes, and what follows its colon. The last field needs none.
fn read_field(text: &str, needs_colon: bool) -> Option<(String, &str)> {
    let mut characters = text.char_indices();
    let mut field = String::new();
    while let Some((place, character)) = characters.next() {
        match character {
            '\\' => field.extend(characters.next().map(|(_, escaped)| escaped)),
            ':' => return Some((field, &text[place + 1..])),
            other => field.push(other),
        }
    }
    (!needs_colon).then_some((field, ""))
}
