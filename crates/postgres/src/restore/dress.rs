//! Giving a database what it has beside its contents: settings, owner, rights, comment, limits.

use super::{Loss, RestoreOptions};
use crate::attributes::{Attributes, Statement};
use crate::snapshot::identifier;
use crate::wire::Connection;
use crate::{Error, Result};

impl Attributes {
    /// Returns those that are wanted: without the owner or the rights, as a restore is asked to leave these out. One
    /// that wants neither has nothing to do with the roles of the server, so settings of single roles are left out
    /// too.
    pub(super) fn wanted(&self, how: &RestoreOptions) -> Self {
        let mut wanted = self.clone();
        wanted.owner = wanted.owner.filter(|_| how.owners);
        wanted.rights = wanted.rights.filter(|_| how.privileges);
        if !how.owners && !how.privileges {
            wanted.settings.retain(|setting| setting.role.is_none());
        }
        wanted
    }
}

/// Gives a database its attributes, in a transaction that goes on when the server refuses one. Returns what this user
/// may not give, and what there is nobody to give to.
pub(super) fn dress(connection: &mut Connection, name: &str, attributes: &Attributes) -> Result<Vec<Loss>> {
    let mut losses = Vec::new();
    for statement in attributes.statements(name) {
        losses.extend(carry_out(connection, &statement, None)?);
    }
    // Whoever gave a database away may say nothing about it any more, so rights are given by the new owner.
    let mut owner = attributes.owner.as_deref();
    if let Some(gift) = attributes.gift(name)
        && let Some(loss) = carry_out(connection, &gift, None)?
    {
        losses.push(loss);
        owner = None;
    }
    for statement in attributes.grants(name, owner) {
        losses.extend(carry_out(connection, &statement, owner)?);
    }
    Ok(losses)
}

/// Carries out a statement, in the name of `role`, or says why the server refuses it.
fn carry_out(connection: &mut Connection, statement: &Statement, role: Option<&str>) -> Result<Option<Loss>> {
    let Statement { what, sql } = statement;
    let sql = match role {
        Some(role) => format!("SET LOCAL ROLE {}; {sql}; RESET ROLE", identifier(role)),
        None => sql.clone(),
    };
    connection.execute("SAVEPOINT attribute")?;
    match connection.execute(&sql) {
        Ok(()) => connection.execute("RELEASE SAVEPOINT attribute").map(|()| None),
        Err(Error::Server(error)) => {
            connection.execute("ROLLBACK TO SAVEPOINT attribute; RELEASE SAVEPOINT attribute")?;
            Ok(Some(Loss { what: what.clone(), why: error.message }))
        }
        Err(error) => Err(error),
    }
}
