//! Verifying a PostgreSQL database in a snapshot: every row is read and summed up again, and its objects are hashed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use dbkeep_postgres::Error as Postgres;

use super::{Findings, Run};
use crate::catalog::Entry;
use crate::context::Watch;
use crate::finding::{finding, is_damage};
use crate::manifest::{self, Manifest, TableProof};
use crate::served::{self, ObjectHash, Served};
use crate::{Error, Result};

/// Tables that are read at once.
const TOGETHER: usize = 2;

impl Run<'_> {
    /// Reads everything of a snapshot and compares it with its manifest.
    pub(super) fn examine_server(
        &self,
        entry: &Entry,
        manifest: Manifest,
        findings: &mut Findings,
    ) -> Result<()> {
        let served = Served::open(self.reader, entry, manifest)?;
        self.watch.phase(&format!("verify {}", served.manifest.database), served.manifest.image.size);
        let mut hash = ObjectHash::default();
        served.text(&mut |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        if !hash.sum().is(served.facts.objects) {
            findings.damage("its objects have another hash than the manifest says".to_owned());
        }
        match served.known_objects() {
            Ok(Ok(_)) => {}
            Ok(Err(unknown)) => findings.notes.push(unknown),
            // Its bytes are those that were stored, and nothing can be made of them.
            Err(error @ Error::Postgres(Postgres::Archive { .. })) => findings.damage(finding(&error)),
            Err(error) => return Err(error),
        }
        // Their hashes are compared as they are read.
        for name in [served::GLOBALS, served::SETTINGS, served::README] {
            served.file(name, manifest::LIMIT)?;
        }
        for what in sums(&served, self.watch)? {
            findings.damage(what);
        }
        findings.bytes_read = served.manifest.image.size;
        findings.was_checked = true;
        if findings.findings.is_empty() {
            findings.integrity = Some("ok".to_owned());
        }
        Ok(())
    }
}

/// Sums up all tables, several at once. Returns what is wrong with them; an error is not of one table.
pub(crate) fn sums(served: &Served<'_>, watch: &Watch) -> Result<Vec<String>> {
    let proofs: Vec<&TableProof> = served.facts.tables.iter().chain(&served.facts.large_objects).collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new((Vec::new(), None));
    let work = || {
        while let Some(proof) = proofs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = served.sum(proof, watch, &mut |_| Ok(()));
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(sum) => found.0.extend(Served::difference(proof, sum)),
                Err(error) if is_damage(&error) => found.0.push(finding(&error)),
                Err(error) => {
                    found.1.get_or_insert(error);
                    next.store(proofs.len(), Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for number in 1..TOGETHER.min(proofs.len()) {
            // Without another thread it takes longer.
            let _ = thread::Builder::new().name(format!("sum {number}")).spawn_scoped(scope, work);
        }
        work();
    });
    match found.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (_, Some(error)) => Err(error),
        (findings, None) => Ok(findings),
    }
}
