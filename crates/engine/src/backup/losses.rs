//! What a database lost since its last snapshot: the sign of an accident, after which nothing is forgotten by itself.

use super::snapshot::Parent;
use crate::manifest::{IntegrityResult, Manifest};

/// Something that fell by half or more since the snapshot before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// `size`, `tables`, `rows`; or `unknown` where it could not be compared.
    pub(super) what: &'static str,
    /// What it was, and is.
    values: Option<(u64, u64)>,
}

impl Loss {
    /// Tells a person.
    pub(super) fn note(&self) -> String {
        let waits = "`dbkeep forget` leaves it alone until --accept says that this is in order";
        match self.values {
            Some((before, now)) => format!("its {} fell from {before} to {now}: {waits}", self.what),
            None => format!("it cannot be told whether it lost anything since the last backup: {waits}"),
        }
    }
}

/// The measures of an image by which a loss is noticed.
struct Extent {
    size: u64,
    /// Tables and rows, where they could be counted.
    counted: Option<(u64, u64)>,
}

impl Extent {
    fn of(manifest: &Manifest) -> Self {
        let is_counted = !manifest.tables.is_empty() || manifest.integrity.result == IntegrityResult::Ok;
        Self {
            size: manifest.image.size,
            counted: is_counted.then_some((manifest.tables.len() as u64, manifest.rows)),
        }
    }
}

/// Returns what a database lost since its last snapshot.
pub(super) fn losses(parent: Option<&Parent<'_>>, manifest: &Manifest) -> Vec<Loss> {
    match parent.map(|parent| parent.manifest.as_ref()) {
        None => Vec::new(),
        Some(None) => vec![Loss { what: "unknown", values: None }],
        Some(Some(parent)) => between(&Extent::of(parent), &Extent::of(manifest)),
    }
}

fn between(before: &Extent, now: &Extent) -> Vec<Loss> {
    let mut measured = vec![("size", before.size, now.size)];
    if let (Some((tables, rows)), Some((tables_now, rows_now))) = (before.counted, now.counted) {
        measured.extend([("tables", tables, tables_now), ("rows", rows, rows_now)]);
    }
    measured.retain(|(_, before, now)| now < before && *now <= before / 2);
    let mut losses: Vec<Loss> =
        measured.into_iter().map(|(what, before, now)| Loss { what, values: Some((before, now)) }).collect();
    // What could be counted and cannot any more may be anything.
    if before.counted.is_some_and(|(tables, _)| tables > 0) && now.counted.is_none() {
        losses.push(Loss { what: "unknown", values: None });
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(size: u64, tables: u64, rows: u64) -> Extent {
        Extent { size, counted: Some((tables, rows)) }
    }

    fn lost(before: &Extent, now: &Extent) -> Vec<&'static str> {
        between(before, now).into_iter().map(|loss| loss.what).collect()
    }

    #[test]
    fn half_of_the_size_the_tables_or_the_rows_is_a_loss() {
        let before = extent(100, 10, 1001);
        assert_eq!(lost(&before, &extent(51, 6, 501)), [] as [&str; 0]);
        assert_eq!(lost(&before, &extent(50, 6, 501)), ["size"]);
        assert_eq!(lost(&before, &extent(51, 5, 501)), ["tables"]);
        assert_eq!(lost(&before, &extent(51, 6, 500)), ["rows"]);
        assert_eq!(lost(&before, &extent(0, 0, 0)), ["size", "tables", "rows"]);
        assert_eq!(lost(&extent(0, 0, 0), &extent(0, 0, 0)), [] as [&str; 0]);
        assert_eq!(lost(&extent(8, 1, 1), &extent(8, 1, 0)), ["rows"]);
    }

    #[test]
    fn what_can_no_longer_be_counted_is_a_loss() {
        let uncounted = || Extent { size: 100, counted: None };
        assert_eq!(lost(&extent(100, 10, 10), &uncounted()), ["unknown"]);
        assert_eq!(lost(&extent(100, 0, 0), &uncounted()), [] as [&str; 0]);
        assert_eq!(lost(&uncounted(), &extent(100, 10, 10)), [] as [&str; 0]);
        assert_eq!(lost(&uncounted(), &uncounted()), [] as [&str; 0]);
    }
}
