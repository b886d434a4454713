//! What a restore had to leave out: rows, which make a restored database less than the one that was backed up, and
//! everything else.

use dbkeep_postgres::restore::{Loss, Unfilled};

use crate::manifest::{Integrity, IntegrityResult, TableProof};
use crate::name;
use crate::served::shown;

/// How many of the things that could not be restored are told one by one.
const TOLD: usize = 50;

/// Rows of a table that are not in the restored database.
#[derive(Debug)]
pub(super) struct LostRows {
    table: String,
    pub(super) rows: u64,
    why: String,
}

impl LostRows {
    /// Returns the tables that would have rows.
    pub(super) fn of(unfilled: Vec<Unfilled>, proofs: &[TableProof]) -> Vec<Self> {
        let rows = |one: &Unfilled| {
            let proof = proofs.iter().find(|proof| proof.table() == one.table);
            proof.map(|proof| proof.rows).filter(|rows| *rows > 0)
        };
        let lost = |one: Unfilled| {
            Some(Self {
                table: name::printable(&shown(&one.table)),
                rows: rows(&one)?,
                why: name::printable(&one.why),
            })
        };
        unfilled.into_iter().filter_map(lost).collect()
    }

    fn what(&self) -> String {
        format!("{} of table {}", counted(self.rows), self.table)
    }
}

/// Says how sound a restored database is: it is what was backed up when no row is missing and all were compared.
pub(super) fn integrity(lost: &[LostRows], compared: bool) -> Integrity {
    let problem = match lost {
        [] => None,
        [one] => {
            let verb = if one.rows == 1 { "is" } else { "are" };
            Some(format!("{} {verb} missing: {}", one.what(), one.why))
        }
        [first, ..] => Some(format!(
            "{} of {} tables are missing, the first is {}: {}",
            counted(lost.iter().map(|one| one.rows).sum()),
            lost.len(),
            first.table,
            first.why
        )),
    };
    let result = match (&problem, compared) {
        (Some(_), _) => IntegrityResult::Corrupt,
        (None, true) => IntegrityResult::Ok,
        (None, false) => IntegrityResult::NotRun,
    };
    Integrity { result, level: "rows".to_owned(), problems: problem.into_iter().collect() }
}

fn counted(rows: u64) -> String {
    if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") }
}

/// Tells what could not be restored, rows first.
pub(super) fn told(rows: &[LostRows], losses: &[Loss]) -> Vec<String> {
    let rows = rows.iter().map(|lost| format!("not restored: {} ({})", lost.what(), lost.why));
    let others = losses.iter().take(TOLD);
    let others = others.map(|loss| name::printable(&format!("not restored: {} ({})", loss.what, loss.why)));
    let mut notes: Vec<String> = rows.chain(others).collect();
    if losses.len() > TOLD {
        notes.push(format!("and {} more could not be restored", losses.len() - TOLD));
    }
    notes
}

#[cfg(test)]
mod tests {
    use dbkeep_postgres::catalog::Name;
    use dbkeep_repo::Id;

    use super::*;

    fn proof(table: &str, rows: u64) -> TableProof {
        TableProof {
            schema: "cron".to_owned(),
            name: table.to_owned(),
            file: String::new(),
            rows,
            hash: String::new(),
            size: 0,
            chunk_size: 0,
            root: Id::NULL,
        }
    }

    fn lost(tables: &[&str]) -> Vec<LostRows> {
        let proofs = [proof("job", 1), proof("idle", 0), proof("run", 3)];
        let unfilled = |table: &&str| Unfilled {
            table: Name { schema: "cron".to_owned(), name: (*table).to_owned() },
            why: "no such\textension".to_owned(),
        };
        LostRows::of(tables.iter().map(unfilled).collect(), &proofs)
    }

    #[test]
    fn database_without_rows_that_were_backed_up_is_not_sound() {
        let problem = |tables: &[&str], compared| {
            let found = integrity(&lost(tables), compared);
            (found.result, found.summary())
        };
        assert_eq!(problem(&[], true), (IntegrityResult::Ok, "ok".to_owned()));
        assert_eq!(problem(&["idle"], true), (IntegrityResult::Ok, "ok".to_owned()), "it had no rows");
        assert_eq!(problem(&["idle"], false), (IntegrityResult::NotRun, "not run".to_owned()));
        let one = "1 row of table cron.job is missing: no such\\textension";
        assert_eq!(problem(&["job", "idle"], true), (IntegrityResult::Corrupt, one.to_owned()));
        let two = "4 rows of 2 tables are missing, the first is cron.job: no such\\textension";
        assert_eq!(problem(&["job", "run"], false), (IntegrityResult::Corrupt, two.to_owned()));
    }

    #[test]
    fn rows_are_told_before_everything_else_and_never_left_out() {
        let loss = |number: usize| Loss { what: format!("thing {number}"), why: "no".to_owned() };
        let losses: Vec<Loss> = (0..TOLD + 2).map(loss).collect();
        let notes = told(&lost(&["run"]), &losses);
        assert_eq!(notes[0], "not restored: 3 rows of table cron.run (no such\\textension)");
        assert_eq!(notes[1], "not restored: thing 0 (no)");
        assert_eq!((notes.len(), notes[TOLD + 1].as_str()), (TOLD + 2, "and 2 more could not be restored"));
    }
}
