//! Whether rows of a table can go in binary form: what types its columns have on the server that they go to.

use std::collections::HashMap;

use super::{Encoder, Form};
use crate::Result;
use crate::catalog::{BASE_TYPE, Table, number, value};
use crate::wire::Connection;

/// Numbers from here on are not the same on all servers.
const FIRST_OF_USERS: u32 = 16_384;

/// The type of `char(n)`, and of `bpchar`, which has no length and keeps blanks as they are.
const CHAR: u32 = 1042;

/// Returns what makes binary rows for a table of a server; none when one of its columns has a type whose values go as
/// text. The table must be as it was when its rows were written.
///
/// # Errors
/// When the server cannot be asked.
pub(crate) fn encoder(connection: &mut Connection, table: &Table) -> Result<Option<Encoder>> {
    let stored = || table.columns.iter().filter(|column| !column.generated);
    let is_text = |type_oid: u32| (1..FIRST_OF_USERS).contains(&type_oid) && Form::of(type_oid).is_none();
    // The backup can only say that there is nothing to ask.
    if stored().any(|column| is_text(column.type_oid)) {
        return Ok(None);
    }
    let forms = forms(connection, table)?;
    let forms: Option<Vec<Form>> =
        stored().map(|column| forms.get(&column.name).copied().flatten()).collect();
    Ok(forms.and_then(Encoder::new))
}

/// Returns how the values of each column that is there go, by its name. Domains go as what is behind them, enumerations
/// by their labels.
fn forms(connection: &mut Connection, table: &Table) -> Result<HashMap<String, Option<Form>>> {
    let sql = format!(
        "SELECT a.attname, b.oid, b.typtype, a.atttypid, a.atttypmod FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid JOIN pg_catalog.pg_type b ON b.oid = ({BASE_TYPE})
         WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped"
    );
    let mut forms = HashMap::new();
    for row in connection.query(&sql, &[Some(&table.name.quoted())])? {
        let has_length = value(&row, 4)? != "-1";
        let form = match value(&row, 2)? {
            "e" => Some(Form::Text),
            _ if has_length && number::<u32>(&row, 3)? == CHAR => Some(Form::Padded),
            _ => Form::of(number(&row, 1)?),
        };
        forms.insert(value(&row, 0)?.to_owned(), form);
    }
    Ok(forms)
}
