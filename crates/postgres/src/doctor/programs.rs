//! Whether the programs of PostgreSQL that a backup needs are here, and whether they are safe.

use super::{Finding, Request};
use crate::facts::Facts;
use crate::tools::Tools;

/// The first releases in which a crafted archive cannot make `pg_restore` run code (CVE-2026-116314). Newer major
/// versions begin with it.
const SAFE: [(u32, u32); 5] = [(14, 25), (15, 20), (16, 16), (17, 12), (18, 7)];

/// Looks for `pg_dump` and `pg_restore`.
pub(super) fn examine(request: &Request<'_>, facts: &Facts) -> Vec<Finding> {
    let tools = match Tools::find_for(request.info, facts.major(), request.programs, request.path) {
        Ok(tools) => tools,
        Err(error) => {
            let finding = Finding::problem("pg_dump", error.to_string());
            return vec![Finding { advice: error.hint(), ..finding }];
        }
    };
    let mut findings = vec![Finding::ok(
        "pg_dump",
        format!("pg_dump {} reads a server of version {}", tools.version, facts.version),
    )];
    if tools.offline("pg_restore").arg("--version").output().is_err() {
        let message = format!(
            "there is no pg_restore beside pg_dump {}: nothing could be restored here",
            tools.version
        );
        findings.push(Finding::problem("pg_restore", message).advise(install(tools.major)));
    }
    if !is_safe(&tools.version) {
        let message = format!(
            "pg_restore {} lacks a fix: an archive that somebody crafted can run code (CVE-2026-116314)",
            tools.version
        );
        let advice = format!("restore only archives of your own, and update: {}", install(tools.major));
        findings.push(Finding::warning("pg_restore", message).advise(advice));
    }
    findings
}

fn install(major: u32) -> String {
    format!("apt install postgresql-client-{major} (Debian, Ubuntu), dnf install postgresql{major} (Red Hat)")
}

/// Returns whether a version has the fixes. One that cannot be read is not known to have them.
fn is_safe(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let Some(Some(major)) = numbers.next() else { return false };
    let minor = numbers.next().flatten();
    match SAFE.iter().find(|(safe, _)| *safe == major) {
        Some((_, safe)) => minor.is_some_and(|minor| minor >= *safe),
        None => SAFE.iter().all(|(safe, _)| major > *safe),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_with_the_fix_are_told_from_those_without() {
        for version in ["14.25", "15.20", "16.17", "17.12", "18.7", "18.12", "19.0", "19.1"] {
            assert!(is_safe(version), "{version}");
        }
        for version in ["9.6.24", "13.23", "14.24", "15.9", "16.15", "17.4", "18.6", "18beta1", "18", "x", ""]
        {
            assert!(!is_safe(version), "{version}");
        }
    }
}
