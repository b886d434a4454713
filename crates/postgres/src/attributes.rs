//! What a database has beside its contents: settings, owner, rights, comment, limits. They belong to the database and
//! not to its name, and `pg_dump` says nothing of them where it does not make the database.
//!
//! They are stored beside the rows and come back from places that others may write. So statements are made of them
//! here each time: names are quoted, values are literals, and a privilege is a word or quoted.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::catalog::value;
use crate::snapshot::{identifier, literal};
use crate::wire::Connection;
use crate::{Error, Result};

/// What a database has beside its contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attributes {
    /// Whom it belongs to; absent where it belongs to whoever makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What is said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// How many may be connected; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<u32>,
    /// Whether everybody who may make databases may copy it.
    #[serde(default)]
    pub is_template: bool,
    /// Who may do what with it; absent where nobody ever changed that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<Vec<Right>>,
    /// What sessions in it begin with, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
}

/// That somebody may do something with a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Right {
    /// Who; absent for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What, as `CONNECT`.
    pub privilege: String,
    /// Whether that may be passed on.
    #[serde(default)]
    pub grantable: bool,
}

/// What sessions in a database begin with. Applications keep secrets in such settings, so the value is not shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setting {
    /// Whose sessions; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Its name.
    pub name: String,
    /// Its value, as the server keeps it.
    pub value: String,
}

impl fmt::Debug for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Setting")
            .field("role", &self.role)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A statement, and what it gives to a database.
pub(crate) struct Statement {
    pub(crate) what: String,
    pub(crate) sql: String,
}

impl Attributes {
    /// Reads those of a database of the server; none where there is none of that name. Settings are left out where
    /// they may not be read.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub(crate) fn read(
        connection: &mut Connection,
        database: &str,
        with_settings: bool,
    ) -> Result<Option<Self>> {
        // One that an interrupted DROP damaged has a limit of -2.
        let sql =
            "SELECT pg_catalog.pg_get_userbyid(datdba), pg_catalog.shobj_description(oid, 'pg_database'),
                          CASE WHEN datconnlimit >= 0 THEN datconnlimit END, datistemplate, datacl IS NOT NULL
                   FROM pg_catalog.pg_database WHERE datname = $1";
        let rows = connection.query(sql, &[Some(database)])?;
        let Some(row) = rows.first() else { return Ok(None) };
        let may_be = |column: usize| row.get(column).cloned().flatten();
        let limit = may_be(2).map(|limit| limit.parse()).transpose();
        let mut attributes = Self {
            owner: may_be(0),
            comment: may_be(1),
            connection_limit: limit.map_err(|_| Error::protocol("a limit that is no number"))?,
            is_template: value(row, 3)? == "t",
            ..Self::default()
        };
        if value(row, 4)? == "t" {
            attributes.rights = Some(rights(connection, database)?);
        }
        if with_settings {
            attributes.settings = settings(connection, database)?;
        }
        Ok(Some(attributes))
    }

    /// Returns the statements that a database gets everything by but its owner and rights.
    pub(crate) fn statements(&self, database: &str) -> Vec<Statement> {
        let database = identifier(database);
        let mut statements: Vec<Statement> =
            self.settings.iter().map(|setting| setting.statement(&database)).collect();
        if let Some(limit) = self.connection_limit {
            let sql = format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}");
            statements.push(Statement { what: "connection limit of the database".to_owned(), sql });
        }
        if let Some(comment) = &self.comment {
            let sql = format!("COMMENT ON DATABASE {database} IS {}", literal(comment));
            statements.push(Statement { what: "comment on the database".to_owned(), sql });
        }
        if self.is_template {
            let sql = format!("ALTER DATABASE {database} IS_TEMPLATE true");
            statements.push(Statement { what: "that the database is a template".to_owned(), sql });
        }
        statements
    }

    /// Returns the statement by which a database gets its owner.
    pub(crate) fn gift(&self, database: &str) -> Option<Statement> {
        let owner = identifier(self.owner.as_ref()?);
        let what = format!("owner {owner} of the database");
        Some(Statement { what, sql: format!("ALTER DATABASE {} OWNER TO {owner}", identifier(database)) })
    }

    /// Returns the statements by which others get their rights. `owner` is whose the database is by then, where that
    /// is known: it has no more rights than are said here.
    pub(crate) fn grants(&self, database: &str, owner: Option<&str>) -> Vec<Statement> {
        let Some(rights) = &self.rights else { return Vec::new() };
        let database = identifier(database);
        let from = std::iter::once("PUBLIC".to_owned()).chain(owner.map(identifier));
        let revoked = from.map(|from| Statement {
            what: "privileges on the database".to_owned(),
            sql: format!("REVOKE ALL ON DATABASE {database} FROM {from}"),
        });
        let granted = rights.iter().map(|Right { role, privilege, grantable }| {
            // Whatever is no word, the server knows no such privilege.
            let is_word = !privilege.is_empty() && privilege.bytes().all(|byte| byte.is_ascii_uppercase());
            let privilege = if is_word { privilege.clone() } else { identifier(privilege) };
            let role = role.as_deref().map_or_else(|| "PUBLIC".to_owned(), identifier);
            let option = if *grantable { " WITH GRANT OPTION" } else { "" };
            Statement {
                what: format!("privilege {privilege} on the database for {role}"),
                sql: format!("GRANT {privilege} ON DATABASE {database} TO {role}{option}"),
            }
        });
        revoked.chain(granted).collect()
    }
}

impl Setting {
    fn statement(&self, database: &str) -> Statement {
        let Self { role, name, value } = self;
        let role = role.as_deref().map(identifier);
        let whose = match &role {
            None => format!("DATABASE {database}"),
            Some(role) => format!("ROLE {role} IN DATABASE {database}"),
        };
        let of_role = role.map(|role| format!(" for {role}")).unwrap_or_default();
        let what = format!("setting {name} of the database{of_role}");
        Statement {
            what,
            sql: format!("ALTER {whose} SET {} TO {}", identifier(name), setting_value(name, value)),
        }
    }
}

fn settings(connection: &mut Connection, database: &str) -> Result<Vec<Setting>> {
    let sql = "SELECT r.rolname, u.setting FROM pg_catalog.pg_db_role_setting s
               JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
               CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) WITH ORDINALITY AS u (setting, place)
               WHERE d.datname = $1 AND (s.setrole = 0 OR r.oid IS NOT NULL)
               ORDER BY r.rolname NULLS FIRST, u.place";
    let rows = connection.query(sql, &[Some(database)])?;
    let setting = |row: &crate::wire::Row| {
        let (name, kept) =
            value(row, 1)?.split_once('=').ok_or_else(|| Error::protocol("a setting without a value"))?;
        let role = row.first().cloned().flatten();
        Ok(Setting { role, name: name.to_owned(), value: kept.to_owned() })
    };
    rows.iter().map(setting).collect()
}

fn rights(connection: &mut Connection, database: &str) -> Result<Vec<Right>> {
    // The rights of a role that is gone cannot be given.
    let sql = "SELECT r.rolname, a.privilege_type, a.is_grantable FROM pg_catalog.pg_database d
               CROSS JOIN LATERAL pg_catalog.aclexplode(d.datacl) WITH ORDINALITY
                          AS a (grantor, grantee, privilege_type, is_grantable, place)
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
               WHERE d.datname = $1 AND (a.grantee = 0 OR r.oid IS NOT NULL) ORDER BY a.place";
    let rows = connection.query(sql, &[Some(database)])?;
    let right = |row: &crate::wire::Row| {
        let role = row.first().cloned().flatten();
        Ok(Right { role, privilege: value(row, 1)?.to_owned(), grantable: value(row, 2)? == "t" })
    };
    rows.iter().map(right).collect()
}

/// Settings whose value is a list of names: quoted as one text they would be one name.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Returns the value of a setting as SQL takes it.
pub(crate) fn setting_value(name: &str, value: &str) -> String {
    if !LISTS.iter().any(|list| name.eq_ignore_ascii_case(list)) {
        return literal(value);
    }
    let names: Vec<String> = names_of(value).iter().map(|name| literal(name)).collect();
    if names.is_empty() { "''".to_owned() } else { names.join(", ") }
}

/// Returns the names of a list as PostgreSQL keeps it: separated by commas, in double quotes where they need it.
fn names_of(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut characters = list.chars().peekable();
    loop {
        while characters.next_if(|character| character.is_whitespace() || *character == ',').is_some() {}
        let mut name = String::new();
        match characters.peek() {
            None => return names,
            Some('"') => {
                characters.next();
                while let Some(character) = characters.next() {
                    if character == '"' && characters.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(character);
                }
            }
            Some(_) => {
                while let Some(character) = characters.next_if(|character| *character != ',') {
                    name.push(character);
                }
                name.truncate(name.trim_end().len());
            }
        }
        names.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names_stay_lists_and_other_values_stay_one_text() {
        assert_eq!(
            setting_value("search_path", r#""$user", public, "a ""b"", c""#),
            r#"'$user', 'public', 'a "b", c'"#
        );
        assert_eq!(setting_value("Search_Path", r#""""#), "''");
        assert_eq!(setting_value("search_path", ""), "''");
        assert_eq!(setting_value("DateStyle", "ISO, DMY"), "'ISO, DMY'");
        assert_eq!(setting_value("app.it's", "it's"), "'it''s'");
    }

    #[test]
    fn what_a_repository_says_runs_as_no_other_statement() {
        let hostile = "x\"; DROP DATABASE shop; --'";
        let text = || hostile.to_owned();
        let right =
            |privilege: &str| Right { role: Some(text()), privilege: privilege.to_owned(), grantable: true };
        let attributes = Attributes {
            owner: Some(text()),
            comment: Some(text()),
            connection_limit: Some(3),
            is_template: true,
            rights: Some(vec![right("CONNECT"), right("CREATE ON DATABASE shop TO mallory; --")]),
            settings: vec![Setting { role: Some(text()), name: text(), value: text() }],
        };
        let (name, value) = ("\"x\"\"; DROP DATABASE shop; --'\"", "'x\"; DROP DATABASE shop; --'''");
        let statements = attributes.statements(hostile).into_iter().chain(attributes.gift(hostile));
        let statements = statements.chain(attributes.grants(hostile, Some(hostile)));
        let sql: Vec<String> = statements.map(|statement| statement.sql).collect();
        assert_eq!(
            sql,
            [
                format!("ALTER ROLE {name} IN DATABASE {name} SET {name} TO {value}"),
                format!("ALTER DATABASE {name} CONNECTION LIMIT 3"),
                format!("COMMENT ON DATABASE {name} IS {value}"),
                format!("ALTER DATABASE {name} IS_TEMPLATE true"),
                format!("ALTER DATABASE {name} OWNER TO {name}"),
                format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC"),
                format!("REVOKE ALL ON DATABASE {name} FROM {name}"),
                format!("GRANT CONNECT ON DATABASE {name} TO {name} WITH GRANT OPTION"),
                format!(
                    "GRANT \"CREATE ON DATABASE shop TO mallory; --\" ON DATABASE {name} TO {name} WITH GRANT OPTION"
                ),
            ]
        );
        assert!(
            !format!("{:?}", attributes.settings).contains(&format!("value: {value}")),
            "values may be secret"
        );
    }
}
