//! The one-time set-up of a project: repository, configuration, `.gitignore`, first backup.
//!
//! What is there already is left as it is, so it may be run again after an error.

use std::path::{Path, PathBuf};

use dbkeep_repo::durable;
use dbkeep_sqlite::identify;
use jiff::Timestamp;

use crate::backup::{self, BackupRequest};
use crate::config;
use crate::context::{Context, Watch};
use crate::report::{InitReport, SetupItem};
use crate::repository::{self, InitRequest};
use crate::{Error, Result, trust};

/// The directory, below the working directory, where databases are looked for too.
const DATA: &str = "data";

/// Makes the repository, a commented configuration with the databases that are found, an entry in
/// `.gitignore`, and the first backup.
pub fn run(context: &Context, request: &InitRequest, now: Timestamp, watch: &Watch) -> Result<InitReport> {
    let mut report = repository::init(context, request, now, watch)?;
    report.setup.push(SetupItem { path: context.location.clone(), made: true });
    let mut context = context.clone();
    report.setup.push(configure(&mut context)?);
    report.setup.extend(ignore(&context)?);
    if !context.config.databases.is_empty() {
        let backup = backup::run(&context, &BackupRequest::default(), now, watch)?;
        report.backup = Some(Box::new(backup));
    }
    Ok(report)
}

/// Writes a configuration where there is none, and takes it into force.
fn configure(context: &mut Context) -> Result<SetupItem> {
    if let Some(file) = &context.config_file {
        return Ok(SetupItem { path: file.clone(), made: false });
    }
    let file = context.environment.working_directory.join("dbkeep.toml");
    let text = configuration(context)?;
    durable::write_new(&file, text.as_bytes()).map_err(Error::io("write", &file))?;
    context.config = config::parse(&text, &file, &mut context.warnings)?;
    context.config_file = Some(file.clone());
    Ok(SetupItem { path: file, made: true })
}

/// Returns the example, with the repository and the databases of the working directory filled in.
fn configuration(context: &Context) -> Result<String> {
    let base = &context.environment.working_directory;
    let relative = |path: &Path| {
        let path = path.strip_prefix(base).unwrap_or(path);
        toml::Value::String(path.to_string_lossy().into_owned()).to_string()
    };
    let mut text = format!("[repository]\nlocation = {}\n", relative(&context.location));
    let mut names = std::collections::BTreeSet::new();
    for path in databases(base)? {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = unused(&stem, &names);
        let quoted = toml::Value::String(name.clone()).to_string();
        text.push_str(&format!("\n[databases.{quoted}]\nsqlite = {}\n", relative(&path)));
        names.insert(name);
    }
    Ok(format!("{text}\n{}", config::example()))
}

/// Returns the databases of the working directory and its `data`, found by content.
fn databases(base: &Path) -> Result<Vec<PathBuf>> {
    let mut found = identify::find_databases(base)?;
    let data = base.join(DATA);
    if data.is_dir() {
        found.extend(identify::find_databases(&data)?);
    }
    Ok(found)
}

/// Returns `stem`, with a number where that name is taken.
fn unused(stem: &str, names: &std::collections::BTreeSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{stem}-{number}"));
    let candidates = std::iter::once(stem.to_owned()).chain(numbered);
    candidates.into_iter().find(|name| !names.contains(name)).unwrap_or_else(|| stem.to_owned())
}

/// Keeps git from taking the repository in, where it lies below the working directory.
fn ignore(context: &Context) -> Result<Option<SetupItem>> {
    let base = &context.environment.working_directory;
    let Some(inner) = context.location.strip_prefix(base).ok().filter(|inner| !inner.as_os_str().is_empty())
    else {
        return Ok(None);
    };
    let entry = format!("/{}/", inner.to_string_lossy());
    let path = base.join(".gitignore");
    let mut text = trust::read_named(&path)?.unwrap_or_default();
    let variants =
        [entry.as_str(), entry.trim_matches('/'), entry.trim_end_matches('/'), entry.trim_start_matches('/')];
    if text.lines().any(|line| variants.contains(&line.trim())) {
        return Ok(Some(SetupItem { path, made: false }));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("{entry}\n"));
    durable::replace(&path, text.as_bytes()).map_err(Error::io("write", &path))?;
    Ok(Some(SetupItem { path, made: true }))
}
