//! The sheet to print and keep: what restores the backups when this machine and dbkeep are gone.

use serde::Serialize;

use crate::repository::Store;
use crate::{Error, Result};

/// Everything that is needed to restore without this machine.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RecoverySheet {
    /// Where the repository is.
    pub location: String,
    /// What it is called inside.
    pub id: String,
    /// The host that made the sheet.
    pub host: String,
    /// The key: whoever has it and the repository can read every backup.
    pub key: String,
    /// The commands of stock restic that restore.
    pub commands: Vec<String>,
}

impl std::fmt::Debug for RecoverySheet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("RecoverySheet")
            .field("location", &self.location)
            .field("key", &"***")
            .finish_non_exhaustive()
    }
}

/// Returns the sheet and remembers that it was shown.
pub fn recovery_sheet(store: &Store) -> Result<RecoverySheet> {
    let secret = store.password()?;
    let location = std::path::absolute(&store.context().location)
        .map_err(Error::io("find", &store.context().location))?;
    let location = location.display().to_string();
    let quoted = quote(&location);
    let commands = [
        "export RESTIC_PASSWORD='the key above'".to_owned(),
        format!("restic -r {quoted} snapshots"),
        format!("restic -r {quoted} check"),
        format!("restic -r {quoted} restore SNAPSHOT --target restored"),
        format!("restic -r {quoted} dump SNAPSHOT /DATABASE/DATABASE.db > restored.db"),
    ];
    let sheet = RecoverySheet {
        location,
        id: store.repository().id().to_owned(),
        host: store.context().environment.host.clone(),
        key: secret.expose().to_owned(),
        commands: commands.to_vec(),
    };
    store.mark_sheet_shown();
    Ok(sheet)
}

/// Writes a word for a shell.
fn quote(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+:@".contains(character);
    match word.chars().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

impl RecoverySheet {
    /// Returns the sheet as it is printed.
    pub fn text(&self) -> String {
        let commands: String = self.commands.iter().map(|command| format!("    {command}\n")).collect();
        format!(
            "dbkeep recovery sheet\n\
             \n\
             Keep this where neither a broken disk nor a thief of this machine can reach it, on paper for\n\
             example. Whoever has the key and the repository can read every backup; without the key\n\
             nobody can, not even you.\n\
             \n\
             Repository:  {}\n\
             Host:        {}\n\
             Id:          {}\n\
             Key:         {}\n\
             \n\
             To restore with dbkeep, write the key into a file and run\n\
             \n\
             \x20   dbkeep --repo {} --password-file FILE restore\n\
             \n\
             To restore without dbkeep, with stock restic 0.14 or later (https://restic.net), run\n\
             \n\
             {commands}\
             \n\
             A large database is stored in parts: its README.txt says how `cat` puts it together.\n",
            self.location,
            self.host,
            self.id,
            self.key,
            quote(&self.location),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quote("/srv/backups"), "/srv/backups");
        assert_eq!(quote("/my backups"), "'/my backups'");
        assert_eq!(quote("it's"), "'it'\\''s'");
    }

    #[test]
    fn sheet_has_the_key_and_its_debug_form_has_not() {
        let sheet = RecoverySheet {
            location: "/srv/b".to_owned(),
            id: "id".to_owned(),
            host: "host".to_owned(),
            key: "abcd-efgh".to_owned(),
            commands: vec!["restic -r /srv/b snapshots".to_owned()],
        };
        let text = sheet.text();
        assert!(text.contains("Key:         abcd-efgh\n"));
        assert!(text.contains("    restic -r /srv/b snapshots\n"));
        assert!(!format!("{sheet:?}").contains("abcd"));
    }
}
