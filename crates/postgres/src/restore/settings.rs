//! What a database has beside its contents: settings, privileges, owner, comment, limits. They belong to the database
//! and not to its name, so one that takes the place of another has to be given them.

use super::Loss;
use super::database::oid;
use super::objects::comment_on_database;
use crate::snapshot::{identifier, literal};
use crate::wire::Connection;
use crate::{Error, Result};

/// Settings whose value is a list of names: quoted as one text they would be one name.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Gives a database what another one has. Returns what this user may not give.
pub(super) fn carry_over(connection: &mut Connection, from: &str, to: &str) -> Result<Vec<Loss>> {
    let from = oid(connection, from)?.ok_or_else(|| Error::NoDatabase { database: from.to_owned() })?;
    let mut statements = settings(connection, &from, to)?;
    statements.extend(limits(connection, &from, to)?);
    statements.extend(privileges(connection, &from, to)?);
    let mut losses = Vec::new();
    for (what, statement) in statements {
        if let Err(error) = connection.execute(&statement) {
            let Error::Server(error) = error else { return Err(error) };
            losses.push(Loss { what, why: error.message });
        }
    }
    Ok(losses)
}

/// Returns whom a database belongs to.
pub(super) fn owner(connection: &mut Connection, name: &str) -> Result<Option<String>> {
    let sql = "SELECT r.rolname FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba
               WHERE d.datname = $1";
    Ok(connection.query(sql, &[Some(name)])?.pop().and_then(|mut row| row.pop()?))
}

/// Gives a database to somebody, in a transaction that goes on when the server refuses it.
pub(super) fn give_to(connection: &mut Connection, name: &str, owner: &str) -> Result<Option<Loss>> {
    connection.execute("SAVEPOINT owner")?;
    let statement = format!("ALTER DATABASE {} OWNER TO {}", identifier(name), identifier(owner));
    match connection.execute(&statement) {
        Ok(()) => Ok(None),
        Err(Error::Server(error)) => {
            connection.execute("ROLLBACK TO SAVEPOINT owner")?;
            Ok(Some(Loss {
                what: format!("owner {} of the database", identifier(owner)),
                why: error.message,
            }))
        }
        Err(error) => Err(error),
    }
}

type Statement = (String, String);

fn settings(connection: &mut Connection, from: &str, to: &str) -> Result<Vec<Statement>> {
    let sql = "SELECT r.rolname, u.setting FROM pg_catalog.pg_db_role_setting s
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
               CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) WITH ORDINALITY AS u (setting, place)
               WHERE s.setdatabase = $1::pg_catalog.oid AND (s.setrole = 0 OR r.oid IS NOT NULL)
               ORDER BY r.rolname NULLS FIRST, u.place";
    let rows = connection.query(sql, &[Some(from)])?;
    let mut statements = Vec::new();
    for row in rows {
        let role = row.first().cloned().flatten();
        let setting = row.get(1).cloned().flatten().unwrap_or_default();
        let Some((name, value)) = setting.split_once('=') else { continue };
        let whose = match &role {
            None => format!("DATABASE {}", identifier(to)),
            Some(role) => format!("ROLE {} IN DATABASE {}", identifier(role), identifier(to)),
        };
        let of_role = role.map(|role| format!(" for {}", identifier(&role))).unwrap_or_default();
        let what = format!("setting {name} of the database{of_role}");
        statements
            .push((what, format!("ALTER {whose} SET {} TO {}", setting_name(name), value_of(name, value))));
    }
    Ok(statements)
}

/// Returns the name of a setting as SQL takes it; those of extensions have two parts.
fn setting_name(name: &str) -> String {
    name.split('.').map(identifier).collect::<Vec<_>>().join(".")
}

fn value_of(name: &str, value: &str) -> String {
    if !LISTS.iter().any(|list| name.eq_ignore_ascii_case(list)) {
        return literal(value);
    }
    let names: Vec<String> = names_of(value).iter().map(|name| literal(name)).collect();
    if names.is_empty() { "''".to_owned() } else { names.join(", ") }
}

/// Returns the names of a list as PostgreSQL stores it: separated by commas, in double quotes where they need it.
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

fn limits(connection: &mut Connection, from: &str, to: &str) -> Result<Vec<Statement>> {
    let sql = "SELECT datconnlimit, datistemplate, pg_catalog.shobj_description(oid, 'pg_database')
               FROM pg_catalog.pg_database WHERE oid = $1::pg_catalog.oid";
    let mut rows = connection.query(sql, &[Some(from)])?;
    let mut row = rows.pop().ok_or_else(|| Error::protocol("a database that is gone"))?;
    let (comment, template, limit) =
        (row.pop().flatten(), row.pop().flatten(), row.pop().flatten().unwrap_or_default());
    let mut statements =
        vec![("comment on the database".to_owned(), comment_on_database(to, comment.as_deref()))];
    // A database that is damaged by an interrupted DROP has -2.
    if limit.parse::<i32>().is_ok_and(|limit| limit >= 0) {
        let statement = format!("ALTER DATABASE {} CONNECTION LIMIT {limit}", identifier(to));
        statements.push(("connection limit of the database".to_owned(), statement));
    }
    if template.as_deref() == Some("t") {
        let statement = format!("ALTER DATABASE {} IS_TEMPLATE true", identifier(to));
        statements.push(("that the database is a template".to_owned(), statement));
    }
    Ok(statements)
}

fn privileges(connection: &mut Connection, from: &str, to: &str) -> Result<Vec<Statement>> {
    let sql = "SELECT r.rolname, a.privilege_type, a.is_grantable, a.grantee = d.datdba, a.grantee = 0
               FROM pg_catalog.pg_database d
               CROSS JOIN LATERAL pg_catalog.aclexplode(d.datacl) WITH ORDINALITY AS a
                          (grantor, grantee, privilege_type, is_grantable, place)
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
               WHERE d.oid = $1::pg_catalog.oid ORDER BY a.place";
    let rows = connection.query(sql, &[Some(from)])?;
    let sql = "SELECT FROM pg_catalog.pg_database WHERE oid = $1::pg_catalog.oid AND datacl IS NOT NULL";
    let mut statements = Vec::new();
    if !connection.query(sql, &[Some(from)])?.is_empty() {
        let statement = format!("REVOKE ALL ON DATABASE {} FROM PUBLIC", identifier(to));
        statements.push(("privileges on the database".to_owned(), statement));
    }
    for row in rows {
        let text = |column: usize| row.get(column).cloned().flatten();
        // The owner has all of them anyhow, and gets them together with the database.
        if text(3).as_deref() == Some("t") {
            continue;
        }
        let role = match (text(0), text(4).as_deref()) {
            (_, Some("t")) => "PUBLIC".to_owned(),
            (Some(role), _) => identifier(&role),
            _ => continue,
        };
        let privilege = text(1).unwrap_or_default();
        let option = if text(2).as_deref() == Some("t") { " WITH GRANT OPTION" } else { "" };
        let what = format!("privilege {privilege} on the database for {role}");
        let statement = format!("GRANT {privilege} ON DATABASE {} TO {role}{option}", identifier(to));
        statements.push((what, statement));
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names_stay_lists_and_other_values_stay_one_text() {
        assert_eq!(
            value_of("search_path", r#""$user", public, "a ""b"", c""#),
            r#"'$user', 'public', 'a "b", c'"#
        );
        assert_eq!(value_of("Search_Path", r#""""#), "''");
        assert_eq!(value_of("DateStyle", "ISO, DMY"), "'ISO, DMY'");
        assert_eq!(value_of("app.it's", "it's"), "'it''s'");
        assert_eq!(setting_name("app.\"x"), r#""app"."""x""#);
    }
}
