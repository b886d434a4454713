//! The large objects of a database: what they hold is put back and read again as rows of tables are, whose they are
//! comes as far as this user may give them.

use dbkeep_postgres::large_objects::{Restorer, What, sum_of_owners};
use dbkeep_postgres::restore::{Loss, Restore as Server, RestoreOptions};
use dbkeep_postgres::rows::RowSum;

use super::super::Restore;
use crate::manifest::TableProof;
use crate::served::Served;
use crate::{Error, Result};

impl Restore<'_> {
    /// Puts back what large objects hold.
    pub(super) fn large_objects(&self, server: &Server<'_>, served: &Served<'_>) -> Result<()> {
        let Some(proof) = served.facts.large_objects.first() else { return Ok(()) };
        self.put_large_objects(server, served, proof, What::Contents).map(drop)
    }

    /// Reads all large objects again and compares them with the manifest. Nothing writes any more by then, and all of
    /// them still belong to the user of the restore, who may read them.
    ///
    /// # Errors
    /// [`Error::Unsound`] when they are not what was stored.
    pub(super) fn prove_large_objects(
        &self,
        server: &Server<'_>,
        served: &Served<'_>,
        compared: bool,
    ) -> Result<()> {
        if !compared {
            return Ok(());
        }
        let found = server.large_objects()?;
        let (contents, owners) = match served.facts.large_objects.as_slice() {
            [] => (RowSum::default(), 0),
            [contents, owners, ..] => (served.expected(contents)?, owners.rows),
            [contents] => (served.expected(contents)?, found.owners.rows),
        };
        let problem = if found.owners.rows != owners {
            format!("there are {} large objects instead of {owners}", found.owners.rows)
        } else if found.contents != contents {
            "large objects do not hold what those of the snapshot hold".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Unsound { problem })
    }

    /// Gives large objects comments, owners and rights, as they are wanted. What cannot be given, and what is not as
    /// it was then, is told.
    pub(super) fn owners_of_large_objects(
        &self,
        server: &mut Server<'_>,
        served: &Served<'_>,
        how: &RestoreOptions,
        compared: bool,
    ) -> Result<()> {
        let Some(proof) = served.facts.large_objects.get(1) else { return Ok(()) };
        let what = What::Owners { owners: how.owners, privileges: how.privileges };
        let mut losses = self.put_large_objects(server, served, proof, what)?;
        // Where something was left out on purpose or has been told already, they are not as they were.
        if compared
            && how.owners
            && how.privileges
            && losses.is_empty()
            && sum_of_owners(&mut server.open()?)? != served.expected(proof)?
        {
            losses.push(Loss {
                what: "some owners, privileges or comments of large objects".to_owned(),
                why: "the server has them otherwise than they were backed up".to_owned(),
            });
        }
        server.note(losses);
        Ok(())
    }

    fn put_large_objects(
        &self,
        server: &Server<'_>,
        served: &Served<'_>,
        proof: &TableProof,
        what: What,
    ) -> Result<Vec<Loss>> {
        let mut connection = server.open()?;
        let mut into = Restorer::begin(&mut connection, what)?;
        let sum = served.sum(proof, self.watch, &mut |bytes| Ok(into.write(bytes)?))?;
        if let Some(finding) = Served::difference(proof, sum) {
            let what = format!("snapshot {}", served.entry.id.short());
            return Err(Error::Damaged { what, finding });
        }
        Ok(into.finish()?.1)
    }
}
