//! Where copies go, and how the repository there is opened or made.
//!
//! A copy is a repository like any other, with a key of its own. It opens with the password that is configured for it,
//! else with the primary's. It is made without being asked under the rules of the primary: only where nothing is and
//! nothing was ever seen.

use std::fs;
use std::path::{Path, PathBuf};

use dbkeep_repo::Repository;
use jiff::Timestamp;

use crate::config::CopyConfig;
use crate::context::{AsCopy, Context, Watch, directory};
use crate::repository::{self, Store};
use crate::state::plain;
use crate::suggest::nearest;
use crate::{Error, ErrorKind, Result, keys};

/// A place that holds copies, or will.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The configured name, else the location.
    pub(crate) name: String,
    context: Context,
}

/// Returns the configured places, in their order; none where another repository than the configured one is in use.
///
/// A place whose location makes no sense, or is that of another one, is an error of its own, with its name.
pub(crate) fn configured(context: &Context) -> Vec<(String, Result<Place>)> {
    if !is_configured_repository(context) {
        return Vec::new();
    }
    let mut places: Vec<(String, Result<Place>)> = Vec::new();
    for copy in &context.config.copies {
        let place = Place::of_config(context, copy).and_then(|place| place.unlike(&places));
        places.push((copy.name.clone(), place));
    }
    places
}

/// Returns the name of the configured copy that the repository in use is.
pub(crate) fn of_location(context: &Context) -> Option<&str> {
    let is_here = |copy: &&CopyConfig| is_at(context, &copy.location);
    context.config.copies.iter().find(is_here).map(|copy| copy.name.as_str())
}

/// Returns the configured places that may stand in for the repository in use: all, or for a copy those after it.
pub(crate) fn behind(context: &Context) -> Vec<Result<Place>> {
    let all = configured(context.as_copy.as_ref().map_or(context, |copy| &*copy.primary));
    let first = match context.copy_name() {
        None => 0,
        Some(name) => all.iter().position(|(other, _)| other == name).map_or(all.len(), |place| place + 1),
    };
    all.into_iter().skip(first).map(|(_, place)| place).collect()
}

impl Context {
    /// Returns the context of a configured copy.
    pub fn of_copy(&self, name: &str) -> Option<Self> {
        if self.copy_name() == Some(name) {
            return Some(self.clone());
        }
        let mut places = configured(self).into_iter().filter_map(|(_, place)| place.ok());
        places.find(|place| place.name == name).map(|place| place.context)
    }
}

/// Says whether the repository in use is the one that the configuration speaks of: `--repo` may name another one, and
/// its snapshots have no business in the copies. Where the configuration names none, it is any that is no copy.
pub(crate) fn is_configured_repository(context: &Context) -> bool {
    if context.as_copy.is_some() {
        return false;
    }
    match &context.config.repository.location {
        Some(location) => is_at(context, location),
        None => of_location(context).is_none(),
    }
}

/// Says whether a location of the configuration is where the repository in use is.
fn is_at(context: &Context, location: &str) -> bool {
    directory(&context.environment, location, &context.config_base())
        .is_ok_and(|location| is_same(&location, &context.location))
}

impl Place {
    /// Returns the place that is meant: the name of a configured copy, else a directory.
    pub(crate) fn named(context: &Context, to: &str, password_file: Option<&Path>) -> Result<Self> {
        let place = Self::find(context, to)?;
        let Some(file) = password_file else { return Ok(place) };
        let mut place = place;
        place.use_password(Some(context.environment.resolve_argument(file)), None);
        Ok(place)
    }

    fn find(context: &Context, to: &str) -> Result<Self> {
        let copies = &context.config.copies;
        if let Some(copy) = copies.iter().find(|copy| copy.name == to) {
            return Self::of_config(context, copy);
        }
        let location = plain(&directory(&context.environment, to, &context.environment.working_directory)?);
        let is_path = to.contains('/') || to.starts_with(['.', '~']);
        if to.is_empty() || !is_path && !location.join("config").is_file() {
            let near = nearest(to, copies.iter().map(|copy| copy.name.as_str()));
            return Err(Error::usage(
                format!("no copy called {to:?} is configured"),
                match near {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => {
                        "give the name of one of [[copies]], or a directory with a slash in it, as ./copy"
                            .to_owned()
                    }
                },
            ));
        }
        for copy in copies {
            let place = Self::of_config(context, copy)?;
            if is_same(place.location(), &location) {
                return Ok(place);
            }
        }
        Ok(Self::at(context, location.display().to_string(), location))
    }

    fn of_config(context: &Context, copy: &CopyConfig) -> Result<Self> {
        let location = directory(&context.environment, &copy.location, &context.config_base())
            .map_err(|error| at(&copy.name, error))?;
        let mut place = Self::at(context, copy.name.clone(), location);
        if copy.password_file.is_some() || copy.password_command.is_some() {
            place.use_password(copy.password_file.clone(), copy.password_command.clone());
        }
        Ok(place)
    }

    /// Refuses a place that one of these has already, under whatever path: what one of them drops the other one keeps.
    fn unlike(self, others: &[(String, Result<Self>)]) -> Result<Self> {
        let others = others.iter().filter_map(|(_, place)| place.as_ref().ok());
        match others.into_iter().find(|other| is_same(other.location(), self.location())) {
            None => Ok(self),
            Some(other) => Err(Error::usage(
                format!("copies {:?} and {:?} are at the same place", other.name, self.name),
                "give each a directory of its own",
            )),
        }
    }

    fn at(context: &Context, name: String, location: PathBuf) -> Self {
        let mut own = context.clone();
        own.location = location;
        own.location_from = format!("copy {name}");
        own.config.copies.clear();
        // Nothing is asked for: a copy has a password, or the primary's.
        own.environment.terminal = false;
        own.as_copy = Some(AsCopy {
            name: name.clone(),
            primary: Box::new(context.clone()),
            has_own_password: false,
            lent: None,
            chunker_polynomial: None,
        });
        Self { name, context: own }
    }

    /// Makes this the only source of the password: what is said for the primary is not meant for this place.
    fn use_password(&mut self, file: Option<PathBuf>, command: Option<crate::config::Command>) {
        let context = &mut self.context;
        context.password = None;
        context.password_file = None;
        for variable in ["DBKEEP_PASSWORD", "DBKEEP_PASSWORD_FILE"] {
            context.environment.variables.remove(variable);
        }
        context.config.repository.password_file = file;
        context.config.repository.password_command = command;
        if let Some(copy) = &mut context.as_copy {
            copy.has_own_password = true;
        }
    }

    /// Returns where it is.
    pub(crate) fn location(&self) -> &Path {
        &self.context.location
    }

    /// Opens the repository there without the primary.
    pub(crate) fn open_alone(&self, now: Timestamp, watch: &Watch) -> Result<Store> {
        repository::open(&self.context, now, watch).map_err(|error| at(&self.name, error))
    }

    /// Opens the repository there, which is not the primary; there must be one.
    pub(crate) fn open_existing(&self, primary: &Store, now: Timestamp, watch: &Watch) -> Result<Store> {
        self.refuse_primary(primary)?;
        let opened = self.context_beside(primary).and_then(|context| repository::open(&context, now, watch));
        self.another(primary, opened.map_err(|error| at(&self.name, error))?)
    }

    /// Opens the repository there; `None` where none was ever made, which the next copy does.
    pub(crate) fn open_if_made(
        &self,
        primary: &Store,
        now: Timestamp,
        watch: &Watch,
    ) -> Result<Option<Store>> {
        if !self.exists()? && self.may_be_made(primary).is_ok() {
            return Ok(None);
        }
        self.open_existing(primary, now, watch).map(Some)
    }

    /// Opens the repository there, or makes it where that is safe.
    pub(crate) fn open_or_make(&self, primary: &Store, now: Timestamp, watch: &Watch) -> Result<Store> {
        self.refuse_primary(primary)?;
        let opened = self.context_beside(primary).and_then(|context| {
            let (store, _) = repository::open_or_init(&context, false, now, watch)?;
            self.keep_key(primary, &context, &store)?;
            Ok(store)
        });
        self.another(primary, opened.map_err(|error| at(&self.name, error))?)
    }

    /// Refuses the primary itself under another path.
    fn another(&self, primary: &Store, store: Store) -> Result<Store> {
        if store.repository().id() == primary.repository().id() {
            return Err(self.is_primary("it is the same repository, or one that was duplicated file by file"));
        }
        Ok(store)
    }

    /// Says whether a repository could be opened or made there, for a plan that makes none.
    pub(crate) fn may_be_made(&self, primary: &Store) -> Result<()> {
        self.refuse_primary(primary)?;
        repository::may_be_made(&self.context).map_err(|error| at(&self.name, error))
    }

    /// Says whether there is a repository.
    pub(crate) fn exists(&self) -> Result<bool> {
        repository::exists(&self.context).map_err(|error| at(&self.name, error))
    }

    /// Returns the context of the copy, with what the primary gives to it.
    fn context_beside(&self, primary: &Store) -> Result<Context> {
        let mut context = self.context.clone();
        if let Some(copy) = context.as_copy.as_mut() {
            copy.chunker_polynomial = Some(primary.repository().chunker_polynomial().to_owned());
            if !copy.has_own_password {
                copy.lent = Some(primary.password()?);
            }
        }
        Ok(context)
    }

    /// Keeps the primary's key file as the copy's too, so that the copy can be opened when the primary is gone.
    fn keep_key(&self, primary: &Store, context: &Context, store: &Store) -> Result<()> {
        let lent = context.as_copy.as_ref().and_then(|copy| copy.lent.as_ref());
        let Some(secret) = lent.filter(|_| keys::is_in_key_file(primary.context())) else { return Ok(()) };
        let id = store.repository().key_id();
        if keys::directory(&context.environment).join(id.to_string()).exists() {
            return Ok(());
        }
        // Another key of this user may have opened it.
        let backend = store.repository().backend().clone();
        match Repository::open(backend, std::slice::from_ref(secret)) {
            Ok(opened) if opened.key_id() == id => keys::keep_for_copy(&context.environment, &id, secret),
            _ => Ok(()),
        }
    }

    /// Refuses a place that is the primary, or in it, or around it: what harms the one would harm the other.
    fn refuse_primary(&self, primary: &Store) -> Result<()> {
        let (here, there) = (resolved(&primary.context().location), resolved(self.location()));
        if here == there {
            return Err(self.is_primary("that is its own place"));
        }
        if there.starts_with(&here) || here.starts_with(&there) {
            return Err(self.is_primary("one lies within the other"));
        }
        Ok(())
    }

    fn is_primary(&self, why: &str) -> Error {
        let location = self.location().display();
        Error::usage(
            format!("the repository cannot be copied to {location}: {why}"),
            "a copy needs a place of its own, best on another disk",
        )
    }
}

/// Says that it is about a copy.
pub(crate) fn at(copy: &str, error: Error) -> Error {
    match error {
        Error::Cancelled | Error::AtCopy { .. } => error,
        error if error.kind() == ErrorKind::Interrupted => Error::Cancelled,
        error => Error::AtCopy { copy: copy.to_owned(), source: Box::new(error) },
    }
}

/// Says whether two paths are the same place.
fn is_same(one: &Path, other: &Path) -> bool {
    plain(one) == plain(other) || resolved(one) == resolved(other)
}

/// Returns a path with the links in what exists of it followed.
fn resolved(path: &Path) -> PathBuf {
    let path = plain(path);
    let existing = path.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
    match existing {
        Some((above, real)) => real.join(path.strip_prefix(above).unwrap_or(Path::new(""))),
        None => path,
    }
}
