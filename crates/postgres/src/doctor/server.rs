//! What of the server's state and settings matters to a backup.

use super::{Finding, count, text};
use crate::Result;
use crate::facts::Facts;
use crate::snapshot::{identifier, literal};
use crate::wire::Connection;

/// Looks at the server. The connection must be in a transaction.
pub(super) fn examine(connection: &mut Connection, facts: &Facts, jobs: usize) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    findings.extend(standby(connection, facts)?);
    findings.extend(timeouts(connection)?);
    findings.extend(connections(connection, facts, jobs)?);
    findings.extend(prepared(connection)?);
    findings.extend(slots(connection)?);
    findings.extend(encoding(facts));
    findings.extend(collations(connection, facts)?);
    Ok(findings)
}

fn setting(connection: &mut Connection, name: &str) -> Result<String> {
    let rows = connection.query("SELECT pg_catalog.current_setting($1, true)", &[Some(name)])?;
    Ok(rows.first().map(|row| text(row, 0).to_owned()).unwrap_or_default())
}

fn standby(connection: &mut Connection, facts: &Facts) -> Result<Option<Finding>> {
    if !facts.in_recovery {
        return Ok(None);
    }
    let delay = setting(connection, "max_standby_streaming_delay")?;
    let feedback = setting(connection, "hot_standby_feedback")?;
    Ok(Some(of_standby(&delay, &feedback)))
}

fn of_standby(delay: &str, feedback: &str) -> Finding {
    let standby = "the server is a standby";
    match (delay, feedback) {
        ("-1", _) | (_, "on") => Finding::note("standby", format!("{standby}; changes of the primary do not end a backup")),
        _ => Finding::warning(
            "standby",
            format!("{standby} that ends queries which are in the way of changes after {delay}: a longer backup may fail"),
        )
        .advise("ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();"),
    }
}

/// What the role and the database have as their limits of time. Our own transactions and `pg_dump` set them to none.
fn timeouts(connection: &mut Connection) -> Result<Option<Finding>> {
    let rows = connection.query(
        "SELECT name, reset_val, coalesce(unit, '') FROM pg_catalog.pg_settings
         WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout', 'lock_timeout')
           AND reset_val <> '0' ORDER BY name",
        &[],
    )?;
    let shown: Vec<String> =
        rows.iter().map(|row| format!("{} = {} {}", text(row, 0), text(row, 1), text(row, 2))).collect();
    Ok((!shown.is_empty()).then(|| {
        let message = format!("{}; backups set this to none for their own transactions", shown.join(", "));
        Finding::note("timeouts", message)
    }))
}

/// Whether there is room for our connections.
fn connections(connection: &mut Connection, facts: &Facts, jobs: usize) -> Result<Option<Finding>> {
    let needed = jobs.saturating_add(2) as i64;
    let rows = connection.query(
        "SELECT s.most - s.reserved - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
                                       WHERE backend_type = 'client backend'), s.most,
                CASE WHEN r.rolconnlimit < 0 OR r.rolsuper THEN NULL ELSE
                  r.rolconnlimit - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE usesysid = r.oid) END,
                CASE WHEN d.datconnlimit < 0 OR r.rolsuper THEN NULL ELSE
                  d.datconnlimit - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE datid = d.oid) END
         FROM (SELECT pg_catalog.current_setting('max_connections')::int AS most,
                      CASE WHEN pg_catalog.current_setting('is_superuser') = 'on' THEN 0 ELSE
                        pg_catalog.current_setting('superuser_reserved_connections')::int
                        + coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) END AS reserved) s,
              pg_catalog.pg_roles r, pg_catalog.pg_database d
         WHERE r.rolname = current_user AND d.datname = pg_catalog.current_database()",
        &[],
    )?;
    let Some(row) = rows.first() else { return Ok(None) };
    let user = identifier(&facts.user);
    let limits = [
        (
            text(row, 0),
            format!("the server of {} connections has", text(row, 1)),
            "close idle connections, or raise max_connections".to_owned(),
        ),
        (text(row, 2), format!("the role {user} has"), format!("ALTER ROLE {user} CONNECTION LIMIT -1;")),
        (
            text(row, 3),
            "the database has".to_owned(),
            format!("ALTER DATABASE {} CONNECTION LIMIT -1;", identifier(&facts.database)),
        ),
    ];
    let short = limits
        .into_iter()
        .filter_map(|(free, whose, advice)| Some((free.parse::<i64>().ok()?, whose, advice)));
    let short = short.filter(|(free, ..)| *free < needed).min_by_key(|(free, ..)| *free);
    Ok(short.map(|(free, whose, advice)| {
        let message = format!("{whose} {} free connections, and a backup takes up to {needed}", free.max(0));
        Finding::warning("connections", message).advise(advice)
    }))
}

/// Transactions that wait for the second phase of their commit: not in a backup, and in the way of vacuum.
fn prepared(connection: &mut Connection) -> Result<Option<Finding>> {
    let rows = connection.query(
        "SELECT gid, (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts
                      WHERE database = pg_catalog.current_database())
         FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY prepared LIMIT 1",
        &[],
    )?;
    Ok(rows.first().map(|row| {
        let (gid, number) = (text(row, 0), text(row, 1).parse().unwrap_or(1));
        let message = format!(
            "{} waiting for COMMIT PREPARED: a backup has none of the changes, and waits for the locks",
            count(number, "transaction")
        );
        Finding::warning("prepared transactions", message)
            .advise(format!("COMMIT PREPARED {0}; or ROLLBACK PREPARED {0};", literal(gid)))
    }))
}

fn slots(connection: &mut Connection) -> Result<Vec<Finding>> {
    let rows = connection.query(
        "SELECT slot_name, active, coalesce(CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
                  pg_catalog.pg_size_pretty(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)) END, '?')
         FROM pg_catalog.pg_replication_slots WHERE NOT temporary ORDER BY slot_name",
        &[],
    )?;
    let finding = |row: &crate::wire::Row| {
        let name = text(row, 0);
        let subject = format!("replication slot {name}");
        match text(row, 1) {
            "t" => Finding::note(subject, "in use; a restored database does not have it"),
            _ => {
                let message =
                    format!("nobody uses it, and it holds back {} of log on the server", text(row, 2));
                Finding::warning(subject, message).advise(format!(
                    "SELECT pg_drop_replication_slot({}); if it is not needed",
                    literal(name)
                ))
            }
        }
    };
    Ok(rows.iter().map(finding).collect())
}

fn encoding(facts: &Facts) -> Option<Finding> {
    (facts.properties.encoding == "SQL_ASCII").then(|| {
        let message = "the database has no encoding (SQL_ASCII): texts that are not UTF-8 fail, and with them the backup";
        Finding::warning("encoding", message)
            .advise("find them with SELECT … WHERE column <> convert_from(convert_to(column, 'SQL_ASCII'), 'UTF8'), and make a new database in UTF8")
    })
}

/// Orders of text whose rules the system has changed since: indexes made by the old ones may miss rows.
fn collations(connection: &mut Connection, facts: &Facts) -> Result<Vec<Finding>> {
    let of_objects = "SELECT n.nspname, c.collname FROM pg_catalog.pg_collation c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
         WHERE c.collversion <> pg_catalog.pg_collation_actual_version(c.oid)
           AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                       WHERE d.refclassid = 'pg_catalog.pg_collation'::pg_catalog.regclass AND d.refobjid = c.oid)
         ORDER BY 1, 2";
    let mut findings: Vec<Finding> = connection
        .query(of_objects, &[])?
        .iter()
        .map(|row| {
            let name = format!("{}.{}", identifier(text(row, 0)), identifier(text(row, 1)));
            Finding::warning(format!("collation {name}"), CHANGED)
                .advise(format!("reindex what uses it, then ALTER COLLATION {name} REFRESH VERSION;"))
        })
        .collect();
    if facts.version_number >= 150_000 {
        let of_database = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
                           AND datcollversion <> pg_catalog.pg_database_collation_actual_version(oid)";
        if !connection.query(of_database, &[])?.is_empty() {
            let name = identifier(&facts.database);
            findings.push(Finding::warning("collation of the database", CHANGED).advise(format!(
                "REINDEX DATABASE {name}; ALTER DATABASE {name} REFRESH COLLATION VERSION;"
            )));
        }
    }
    Ok(findings)
}

const CHANGED: &str = "the system orders texts by other rules now: indexes may miss rows, and a restore may find keys there twice";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn standby_that_cancels_queries_is_told_from_one_that_does_not() {
        for (delay, feedback) in [("-1", "off"), ("30s", "on")] {
            assert_eq!(of_standby(delay, feedback).severity, Severity::Note);
        }
        let finding = of_standby("30s", "off");
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.message.contains("in the way of changes after 30s"), "{finding:?}");
        assert!(finding.advice.unwrap().contains("hot_standby_feedback = on"));
    }
}
