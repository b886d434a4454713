//! Whether the programs of PostgreSQL that a backup needs are here, and whether they are safe.

use super::{Finding, Request};
use crate::Error;
use crate::facts::Facts;
use crate::tools::{HOLE, Tools};

/// Looks for `pg_dump` and `pg_restore`.
pub(super) fn examine(request: &Request<'_>, facts: &Facts) -> Vec<Finding> {
    let tools = match Tools::find_for(request.info, facts.major(), request.programs, request.path) {
        Ok(tools) => tools,
        Err(error) => {
            let program = match &error {
                Error::NoTools { program, .. } => program,
                _ => "pg_dump",
            };
            let finding = Finding::problem(program, error.to_string());
            return vec![Finding { advice: error.hint(), ..finding }];
        }
    };
    let mut findings = vec![Finding::ok(
        "pg_dump",
        format!("pg_dump {} reads a server of version {}", tools.version, facts.version),
    )];
    if let Some(first) = tools.lacks_fix() {
        let message = format!(
            "pg_restore {} lacks a fix: an archive that somebody crafted can run code ({HOLE})",
            tools.version
        );
        let advice = format!(
            "restore only archives of your own, and update to {first} or newer: {}",
            install(tools.major)
        );
        findings.push(Finding::warning("pg_restore", message).advise(advice));
    }
    findings
}

fn install(major: u32) -> String {
    format!("apt install postgresql-client-{major} (Debian, Ubuntu), dnf install postgresql{major} (Red Hat)")
}
