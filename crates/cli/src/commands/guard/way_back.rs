//! The way back by hand: the line that brings a database back as it stands now, found by planning it.

use dbkeep_engine::report::GuardedDatabase;
use dbkeep_engine::restore::{self, RestoreRequest};
use dbkeep_engine::{Context, Error, ErrorKind, Id, repository};

use crate::app::{App, short};
use crate::human;

/// Says how a database that has changed is brought back.
pub(super) fn show(app: &App, context: &Context, snapshot: &Id, one: &GuardedDatabase) {
    let way = Way { app, context, snapshot: short(snapshot) };
    match way.find(one) {
        Ok(words) => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let line = app.command_line(context, &words);
            app.output.note(format_args!("   back to how it was before with:\n     {line}"));
        }
        Err(error) => {
            let name = human::visible(&one.name);
            let snapshot = short(snapshot);
            app.output.note(format_args!(
                "   {name} is in snapshot {snapshot}; how it goes back in its place cannot be said: {}",
                human::visible(&error.full_message())
            ));
            if let Some(hint) = error.hint() {
                app.output.note(format_args!("   {}", human::visible(&hint)));
            }
        }
    }
}

struct Way<'w> {
    app: &'w App,
    context: &'w Context,
    snapshot: String,
}

impl Way<'_> {
    /// Returns the words of a restore that can begin, or why there is none.
    fn find(&self, one: &GuardedDatabase) -> Result<Vec<String>, Error> {
        let words = |more: &[&str]| {
            ["restore", &self.snapshot].into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
        };
        let in_place = RestoreRequest { in_place: true, ..RestoreRequest::default() };
        match self.plan(&in_place) {
            // Another file or database has its name now.
            Err(error) if error.kind() == ErrorKind::Refused => {
                self.plan(&RestoreRequest { force: true, ..in_place })?;
                Ok(words(&["--in-place", "--force"]))
            }
            // It was dropped.
            Err(error) if error.kind() == ErrorKind::Missing => {
                let name = database_of(&one.source).ok_or(error)?;
                self.plan(&RestoreRequest { to: Some(name.to_owned()), ..RestoreRequest::default() })?;
                Ok(words(&["--to", name]))
            }
            Err(error) if [ErrorKind::Usage, ErrorKind::UnknownSource].contains(&error.kind()) => Err(error),
            // What else is in the way may be gone when somebody types it.
            _ => Ok(words(&["--in-place"])),
        }
    }

    fn plan(&self, request: &RestoreRequest) -> Result<(), Error> {
        let store = repository::open(self.context, self.app.now(), &self.app.observer())?;
        let request = RestoreRequest { snapshot: Some(self.snapshot.clone()), ..request.clone() };
        restore::plan(&store, &request, self.app.now()).map(drop)
    }
}

/// Returns the name of the database in a URL.
fn database_of(source: &str) -> Option<&str> {
    let (_, place) = source.split_once("://")?;
    let path = place.split(['?', '#']).next()?;
    path.rsplit_once('/').map(|(_, name)| name).filter(|name| !name.is_empty() && !name.contains('%'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_database_is_the_last_part_of_its_url() {
        assert_eq!(database_of("postgresql://ada@host:5432/shop?sslmode=require"), Some("shop"));
        for none in
            ["postgresql://host", "postgresql://host/", "env:DATABASE_URL", "app.db", "postgresql://h/a%20b"]
        {
            assert_eq!(database_of(none), None, "{none}");
        }
    }
}
