//! Whether what a database looks like is still what it was at the moment.
//!
//! `pg_dump` reads catalogs as of the moment, but has the server put definitions into words, and the server words what is
//! there now. So after it has run, each object that there was has to be the same still: else the archive may be a
//! mixture. What is new since then is no part of the archive and does not matter.

use std::collections::HashMap;

use crate::catalog::{Name, number, value};
use crate::extent::Extent;
use crate::wire::Connection;
use crate::{Error, Result};

/// The marks of all objects: by kind and number, the name and what changes when the object does.
#[derive(Debug, Default)]
pub(crate) struct Marks(HashMap<(String, u32), (String, String)>);

/// A row that was written again has another `xmin`; what PostgreSQL changes for itself (statistics, files, whether there
/// are indexes) is left out.
const MARKS: &str = "
SELECT 'table', c.oid, n.nspname, c.relname, pg_catalog.md5(pg_catalog.concat_ws('|', c.relkind, c.relowner,
       c.relrowsecurity, c.relforcerowsecurity, c.relpersistence, c.relreplident, c.relam, c.reloptions, c.relpartbound,
       (SELECT pg_catalog.string_agg(a.attnum || ' ' || a.xmin::pg_catalog.text, ',' ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND c.relkind NOT IN ('i', 'I')),
       (SELECT pg_catalog.string_agg(d.oid || ' ' || d.xmin::pg_catalog.text, ',' ORDER BY d.oid)
        FROM pg_catalog.pg_attrdef d WHERE d.adrelid = c.oid),
       (SELECT pg_catalog.string_agg(k.oid || ' ' || k.xmin::pg_catalog.text, ',' ORDER BY k.oid)
        FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid),
       (SELECT pg_catalog.string_agg(r.oid || ' ' || r.xmin::pg_catalog.text, ',' ORDER BY r.oid)
        FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid),
       (SELECT pg_catalog.string_agg(p.oid || ' ' || p.xmin::pg_catalog.text, ',' ORDER BY p.oid)
        FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid),
       (SELECT pg_catalog.string_agg(t.oid || ' ' || t.xmin::pg_catalog.text, ',' ORDER BY t.oid)
        FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal),
       (SELECT pg_catalog.string_agg(i.inhparent || ' ' || i.inhseqno, ',' ORDER BY i.inhseqno)
        FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f', 'c', 'S', 'i', 'I') AND c.relpersistence <> 't' AND {of user}
UNION ALL
SELECT 'function', f.oid, n.nspname, f.proname, f.xmin::pg_catalog.text
FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace WHERE {of user}
UNION ALL
SELECT 'type', t.oid, n.nspname, t.typname, pg_catalog.concat_ws('|', t.xmin::pg_catalog.text,
       (SELECT pg_catalog.string_agg(e.oid || ' ' || e.xmin::pg_catalog.text, ',' ORDER BY e.oid)
        FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid),
       (SELECT pg_catalog.string_agg(k.oid || ' ' || k.xmin::pg_catalog.text, ',' ORDER BY k.oid)
        FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid))
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype IN ('e', 'd', 'r', 'b') AND t.typcategory <> 'A' AND {of user}
UNION ALL
SELECT 'schema', n.oid, n.nspname, '', '' FROM pg_catalog.pg_namespace n WHERE {of user}";

impl Marks {
    /// Reads the marks that the transaction of a connection sees.
    pub(crate) fn read(connection: &mut Connection, extent: &Extent) -> Result<Self> {
        let of_user = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";
        let mut marks = HashMap::new();
        for row in connection.query(&MARKS.replace("{of user}", of_user), &[])? {
            let name = Name { schema: value(&row, 2)?.to_owned(), name: value(&row, 3)?.to_owned() };
            if extent.takes(&name) {
                let text = name.quoted().trim_end_matches(".\"\"").to_owned();
                let key = (value(&row, 0)?.to_owned(), number(&row, 1)?);
                marks.insert(key, (text, value(&row, 4)?.to_owned()));
            }
        }
        Ok(Self(marks))
    }

    /// Makes sure that all that there was is the same `now`.
    ///
    /// # Errors
    /// [`Error::Changed`] with one of those that are not.
    pub(crate) fn check(&self, now: &Self) -> Result<()> {
        let differs = |(key, mark): &(&(String, u32), &(String, String))| now.0.get(*key) != Some(*mark);
        let first = self.0.iter().filter(differs).min_by_key(|(key, _)| (key.0 != "table", key.1));
        let Some((key, (name, _))) = first else { return Ok(()) };
        let what = if now.0.contains_key(key) { "was changed" } else { "was dropped" };
        Err(Error::Changed { table: name.clone(), what })
    }
}
