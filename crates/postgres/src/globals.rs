//! What belongs to the server and not to a database: roles, who is a member of which, their settings, tablespaces.
//!
//! Everything is SQL text that a superuser of a fresh server runs before a database is restored. Passwords are in it,
//! as the hashes that the server keeps, where this user may read them; so nothing here is printed or logged. What
//! this user may not read is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::attributes::{Attributes, setting_value};
use crate::catalog::value;
use crate::snapshot::{identifier, literal, version};
use crate::wire::{Connection, Row};
use crate::{Error, Result};

/// What belongs to the server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Globals {
    /// Roles, memberships, their settings, tablespaces, rights on parameters: statements, in order. One that makes a
    /// tablespace must not be in a transaction.
    pub server: Vec<String>,
    /// The owner, the rights and the settings of the database, under its name.
    pub database: Vec<String>,
    /// The same, of which a restore makes statements for another name.
    pub attributes: Attributes,
    /// What is not here, and why, for people.
    pub not_read: Vec<String>,
}

impl fmt::Debug for Globals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, database) = (self.server.len(), self.database.len());
        out.debug_struct("Globals")
            .field("server", &server)
            .field("database", &database)
            .field("not_read", &self.not_read)
            .finish()
    }
}

/// How text in statements is to be understood.
const HEAD: &str = "SET standard_conforming_strings = on;\nSET client_encoding = 'UTF8';\n";

impl Globals {
    /// Reads what the transaction of a connection sees. It must be in one of [`crate::snapshot::begin`].
    ///
    /// # Errors
    /// When the server cannot be asked. What this user may not read is listed.
    pub fn read(connection: &mut Connection) -> Result<Self> {
        let mut globals = Self::default();
        let version = version(connection)?;
        globals.roles(connection)?;
        globals.memberships(connection, version)?;
        let with_settings = globals.settings(connection)?;
        globals.tablespaces(connection)?;
        if version >= 150_000 {
            globals.parameters(connection)?;
        }
        globals.own_database(connection, with_settings)?;
        if exists(connection, "SELECT FROM pg_catalog.pg_shseclabel")? {
            globals
                .not_read
                .push("security labels of roles, databases and tablespaces: not in the snapshot".to_owned());
        }
        Ok(globals)
    }

    /// Returns the statements about the server as a file that `psql` runs.
    pub fn server_sql(&self) -> String {
        text(&self.server)
    }

    /// Returns the statements about the database as a file that `psql` runs.
    pub fn database_sql(&self) -> String {
        text(&self.database)
    }

    /// Returns whether a catalog may be read; else takes note of what is missing.
    fn may_read(&mut self, connection: &mut Connection, catalog: &str, what: &str) -> Result<bool> {
        let sql = "SELECT WHERE pg_catalog.has_table_privilege($1::pg_catalog.text, 'SELECT')";
        let may = !connection.query(sql, &[Some(&format!("pg_catalog.{catalog}"))])?.is_empty();
        if !may {
            self.not_read.push(format!("{what}: not in the snapshot, since this user may not read them"));
        }
        Ok(may)
    }

    fn roles(&mut self, connection: &mut Connection) -> Result<()> {
        if !self.may_read(connection, "pg_roles", "roles")? {
            return Ok(());
        }
        let (passwords, source) = match self.may_read(connection, "pg_authid", "passwords of roles")? {
            true => ("r.rolpassword", "pg_authid"),
            false => ("NULL", "pg_roles"),
        };
        let rows = connection.query(
            &format!(
                "SELECT r.rolname, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin,
                        r.rolreplication, r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil, {passwords},
                        pg_catalog.shobj_description(r.oid, 'pg_authid')
                 FROM pg_catalog.{source} r WHERE r.rolname !~ '^pg_' ORDER BY r.rolname"
            ),
            &[],
        )?;
        for row in rows {
            let (role, name) = (identifier(value(&row, 0)?), value(&row, 0)?);
            // It may be there: the one that the server was made with is always.
            let make = format!(
                "BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {}) THEN CREATE ROLE {role}; \
                 END IF; END",
                literal(name)
            );
            self.server.push(format!("DO {}", literal(&make)));
            let words =
                ["SUPERUSER", "INHERIT", "CREATEROLE", "CREATEDB", "LOGIN", "REPLICATION", "BYPASSRLS"];
            let mut statement = format!("ALTER ROLE {role} WITH");
            for (number, word) in words.into_iter().enumerate() {
                let not = if value(&row, number + 1)? == "t" { "" } else { "NO" };
                statement += &format!(" {not}{word}");
            }
            statement += &format!(" CONNECTION LIMIT {}", value(&row, 8)?);
            statement +=
                &may_be(&row, 10).map(|hash| format!(" PASSWORD {}", literal(&hash))).unwrap_or_default();
            statement +=
                &may_be(&row, 9).map(|until| format!(" VALID UNTIL {}", literal(&until))).unwrap_or_default();
            self.server.push(statement);
            self.server.extend(comment("ROLE", &role, &row, 11));
        }
        Ok(())
    }

    fn memberships(&mut self, connection: &mut Connection, version: u32) -> Result<()> {
        if !self.may_read(connection, "pg_auth_members", "memberships of roles")? {
            return Ok(());
        }
        let options = match version {
            ..160_000 => "NULL, NULL",
            _ => "m.inherit_option, m.set_option",
        };
        let rows = connection.query(
            &format!(
                "SELECT r.rolname, u.rolname, g.rolname, m.admin_option, {options}, m.grantor
                 FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
                 JOIN pg_catalog.pg_roles u ON u.oid = m.member LEFT JOIN pg_catalog.pg_roles g ON g.oid = m.grantor
                 WHERE NOT (r.rolname ~ '^pg_' AND u.rolname ~ '^pg_') ORDER BY 1, 2, 3"
            ),
            &[],
        )?;
        let grants: Result<Vec<Membership>> = rows.iter().map(Membership::of).collect();
        self.server.extend(in_order(grants?).iter().map(Membership::statement));
        Ok(())
    }

    /// Settings of roles go with the server, those of this database with the database. Returns whether they may be
    /// read.
    fn settings(&mut self, connection: &mut Connection) -> Result<bool> {
        if !self.may_read(connection, "pg_db_role_setting", "settings of roles and databases")? {
            return Ok(false);
        }
        let rows = connection.query(
            "SELECT r.rolname, c.setting FROM pg_catalog.pg_db_role_setting s
             LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
             CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) WITH ORDINALITY AS c (setting, place)
             WHERE s.setdatabase = 0 AND (s.setrole = 0 OR r.oid IS NOT NULL) ORDER BY r.rolname, c.place",
            &[],
        )?;
        for row in rows {
            let Some((name, setting)) = value(&row, 1)?.split_once('=') else { continue };
            let whose = may_be(&row, 0).map_or_else(|| "ALL".to_owned(), |role| identifier(&role));
            let setting = setting_value(name, setting);
            self.server.push(format!("ALTER ROLE {whose} SET {} TO {setting}", identifier(name)));
        }
        Ok(true)
    }

    fn tablespaces(&mut self, connection: &mut Connection) -> Result<()> {
        if !self.may_read(connection, "pg_tablespace", "tablespaces")? {
            return Ok(());
        }
        let rows = connection.query(
            "SELECT t.spcname, pg_catalog.pg_get_userbyid(t.spcowner), pg_catalog.pg_tablespace_location(t.oid),
                    pg_catalog.shobj_description(t.oid, 'pg_tablespace'), t.spcacl IS NOT NULL, t.oid
             FROM pg_catalog.pg_tablespace t WHERE t.spcname !~ '^pg_' ORDER BY t.spcname",
            &[],
        )?;
        for row in rows {
            let (name, owner) = (identifier(value(&row, 0)?), identifier(value(&row, 1)?));
            let mut place = value(&row, 2)?;
            if place.starts_with("pg_tblspc/") {
                // One within the folder of the server, as its developers use for tests.
                self.server.push("SET allow_in_place_tablespaces = on".to_owned());
                place = "";
            }
            self.server.push(format!("CREATE TABLESPACE {name} OWNER {owner} LOCATION {}", literal(place)));
            let oid = value(&row, 5)?;
            for option in connection.query(
                "SELECT option_name, option_value FROM pg_catalog.pg_tablespace t,
                        pg_catalog.pg_options_to_table(t.spcoptions) WHERE t.oid = $1::pg_catalog.oid ORDER BY 1",
                &[Some(oid)],
            )? {
                let (option, set) = (identifier(value(&option, 0)?), literal(value(&option, 1)?));
                self.server.push(format!("ALTER TABLESPACE {name} SET ({option} = {set})"));
            }
            self.server.extend(comment("TABLESPACE", &name, &row, 3));
            if value(&row, 4)? == "t" {
                let rights = "SELECT spcacl FROM pg_catalog.pg_tablespace WHERE oid = $1::pg_catalog.oid";
                let object = format!("TABLESPACE {name}");
                self.server.extend(rights_on(connection, &object, Some(&owner), rights, oid)?);
            }
        }
        Ok(())
    }

    /// Who may set what only superusers may.
    fn parameters(&mut self, connection: &mut Connection) -> Result<()> {
        if !self.may_read(connection, "pg_parameter_acl", "rights on parameters")? {
            return Ok(());
        }
        let rows =
            connection.query("SELECT parname, oid FROM pg_catalog.pg_parameter_acl ORDER BY parname", &[])?;
        for row in rows {
            let object = format!("PARAMETER {}", identifier(value(&row, 0)?));
            let rights = "SELECT paracl FROM pg_catalog.pg_parameter_acl WHERE oid = $1::pg_catalog.oid";
            self.server.extend(rights_on(connection, &object, None, rights, value(&row, 1)?)?);
        }
        Ok(())
    }

    /// `pg_dump` says nothing of the database itself where it does not make it.
    fn own_database(&mut self, connection: &mut Connection, with_settings: bool) -> Result<()> {
        let rows = connection.query("SELECT pg_catalog.current_database()", &[])?;
        let row = rows.first().ok_or_else(|| Error::protocol("no database"))?;
        let name = value(row, 0)?;
        let attributes = Attributes::read(connection, name, with_settings)?;
        let attributes = attributes.ok_or_else(|| Error::protocol("no database of this name"))?;
        let all = attributes.statements(name).into_iter().chain(attributes.gift(name));
        let all = all.chain(attributes.grants(name, attributes.owner.as_deref()));
        self.database = all.map(|statement| statement.sql).collect();
        self.attributes = attributes;
        Ok(())
    }
}

/// Returns the names of the roles that [`Globals::server_sql`] sets up. The text may be from anywhere: what comes back are
/// names and nothing else.
pub fn role_names(server_sql: &str) -> Vec<String> {
    let name = |rest: &str| {
        let mut name = String::new();
        let mut characters = rest.chars().peekable();
        while let Some(character) = characters.next() {
            if character == '"' && characters.next_if_eq(&'"').is_none() {
                break;
            }
            name.push(character);
        }
        name
    };
    server_sql.split("\nALTER ROLE \"").skip(1).map(name).filter(|name| !name.is_empty()).collect()
}

fn text(statements: &[String]) -> String {
    let lines = statements.iter().map(|statement| format!("{statement};\n"));
    HEAD.to_owned() + &lines.collect::<String>()
}

fn exists(connection: &mut Connection, select: &str) -> Result<bool> {
    let rows = connection.query(&format!("SELECT EXISTS ({select})"), &[])?;
    Ok(rows.first().is_some_and(|row| row.first().and_then(Option::as_deref) == Some("t")))
}

fn may_be(row: &Row, column: usize) -> Option<String> {
    row.get(column).cloned().flatten()
}

fn comment(kind: &str, name: &str, row: &Row, column: usize) -> Option<String> {
    may_be(row, column).map(|comment| format!("COMMENT ON {kind} {name} IS {}", literal(&comment)))
}

/// Returns the statements that give the rights on an object. `select` gives the list of them for a number.
fn rights_on(
    connection: &mut Connection,
    object: &str,
    owner: Option<&str>,
    select: &str,
    oid: &str,
) -> Result<Vec<String>> {
    let rows = connection.query(
        &format!(
            "SELECT CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee) END, a.privilege_type,
                    a.is_grantable
             FROM ({select}) AS l (acl), pg_catalog.aclexplode(l.acl) WITH ORDINALITY
                  AS a (grantor, grantee, privilege_type, is_grantable, place) ORDER BY a.place"
        ),
        &[Some(oid)],
    )?;
    let mut statements: Vec<String> = Vec::new();
    if let Some(owner) = owner {
        statements.push(format!("REVOKE ALL ON {object} FROM PUBLIC"));
        statements.push(format!("REVOKE ALL ON {object} FROM {owner}"));
    }
    for row in rows {
        let to = may_be(&row, 0).map_or_else(|| "PUBLIC".to_owned(), |role| identifier(&role));
        let grantable = if value(&row, 2)? == "t" { " WITH GRANT OPTION" } else { "" };
        statements.push(format!("GRANT {} ON {object} TO {to}{grantable}", value(&row, 1)?));
    }
    Ok(statements)
}

/// That a role is a member of another one.
#[derive(Clone, Debug)]
struct Membership {
    role: String,
    member: String,
    /// Who made it one; none where that is the role that the server was made with, or is gone.
    grantor: Option<String>,
    admin: bool,
    inherit: Option<bool>,
    set: Option<bool>,
}

/// The role that a server is made with.
const FIRST_ROLE: &str = "10";

impl Membership {
    fn of(row: &Row) -> Result<Self> {
        let is = |column: usize| may_be(row, column).map(|text| text == "t");
        Ok(Self {
            role: value(row, 0)?.to_owned(),
            member: value(row, 1)?.to_owned(),
            grantor: may_be(row, 2).filter(|_| row.get(6).cloned().flatten().as_deref() != Some(FIRST_ROLE)),
            admin: value(row, 3)? == "t",
            inherit: is(4),
            set: is(5),
        })
    }

    fn statement(&self) -> String {
        let mut options = Vec::new();
        if self.admin {
            options.push("ADMIN OPTION".to_owned());
        }
        let word = |name: &str, is: bool| format!("{name} {}", if is { "TRUE" } else { "FALSE" });
        options.extend(self.inherit.map(|inherit| word("INHERIT", inherit)));
        options.extend(self.set.map(|set| word("SET", set)));
        let with = if options.is_empty() { String::new() } else { format!(" WITH {}", options.join(", ")) };
        let by = self.grantor.as_ref().map(|grantor| format!(" GRANTED BY {}", identifier(grantor)));
        format!(
            "GRANT {} TO {}{with}{}",
            identifier(&self.role),
            identifier(&self.member),
            by.unwrap_or_default()
        )
    }
}

/// Puts memberships into an order in which each grantor may grant by then. Who never may is not named: newer servers
/// would refuse it, older ones took any superuser.
fn in_order(mut left: Vec<Membership>) -> Vec<Membership> {
    let mut done = Vec::new();
    let mut admins: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while !left.is_empty() {
        let may = |grant: &Membership| {
            grant
                .grantor
                .as_ref()
                .is_none_or(|grantor| admins.get(&grant.role).is_some_and(|admins| admins.contains(grantor)))
        };
        let (mut now, later): (Vec<Membership>, Vec<Membership>) = left.into_iter().partition(may);
        left = later;
        if now.is_empty() {
            now = std::mem::take(&mut left);
            now.iter_mut().for_each(|grant| grant.grantor = None);
        }
        for grant in now.iter().filter(|grant| grant.admin) {
            admins.entry(grant.role.clone()).or_default().insert(grant.member.clone());
        }
        done.extend(now);
    }
    done
}

#[cfg(test)]
mod tests;
