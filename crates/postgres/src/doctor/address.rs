//! Where the server is: whether the way to it is protected, and whose service it is.

use serde::{Deserialize, Serialize};

use super::{Finding, Request, text};
use crate::Result;
use crate::catalog::Catalog;
use crate::conninfo::{Address, Host, TlsMode};
use crate::facts::Facts;
use crate::wire::Connection;

/// Who runs a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Supabase.
    Supabase,
    /// Neon.
    Neon,
    /// RDS or Aurora of Amazon.
    Rds,
    /// Cloud SQL or AlloyDB of Google.
    CloudSql,
    /// Azure Database of Microsoft.
    Azure,
    /// Somebody else.
    Other,
}

/// Schemas that Supabase makes in every project and works with.
const OF_SUPABASE: [&str; 14] = [
    "_analytics",
    "_realtime",
    "auth",
    "cron",
    "extensions",
    "graphql",
    "graphql_public",
    "net",
    "pgbouncer",
    "pgsodium",
    "realtime",
    "storage",
    "supabase_functions",
    "vault",
];

/// Roles that only one of them makes.
const BY_ROLE: [(&str, Service); 6] = [
    ("supabase_admin", Service::Supabase),
    ("neon_superuser", Service::Neon),
    ("rds_superuser", Service::Rds),
    ("cloudsqlsuperuser", Service::CloudSql),
    ("alloydbsuperuser", Service::CloudSql),
    ("azure_pg_admin", Service::Azure),
];

impl Service {
    /// Returns whose a server is, by the roles that only one of them makes, else by the name of the host.
    pub fn of(host: &str, roles: &[&str]) -> Self {
        let by_host = [
            (".supabase.co", Self::Supabase),
            (".supabase.com", Self::Supabase),
            (".neon.tech", Self::Neon),
            (".rds.amazonaws.com", Self::Rds),
            (".rds.amazonaws.com.cn", Self::Rds),
            (".postgres.database.azure.com", Self::Azure),
        ];
        let host = host.to_ascii_lowercase();
        let role = BY_ROLE.into_iter().find(|(role, _)| roles.contains(role));
        let host = by_host.into_iter().find(|(suffix, _)| host.ends_with(suffix));
        role.or(host).map_or(Self::Other, |(_, service)| service)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Supabase => "Supabase",
            Self::Neon => "Neon",
            Self::Rds => "Amazon RDS or Aurora",
            Self::CloudSql => "Google Cloud SQL or AlloyDB",
            Self::Azure => "Azure Database for PostgreSQL",
            Self::Other => "an unknown service",
        }
    }
}

/// Says which server answered, and whether others can read along.
pub(super) fn protection(connection: &Connection, facts: &Facts) -> Vec<Finding> {
    let host = connection.host();
    let place = match &host.address {
        Address::Socket(folder) => folder.display().to_string(),
        Address::Network { name, .. } => format!("{name}:{}", host.port),
    };
    let tls = if connection.is_protected() { ", protected by TLS" } else { "" };
    let user = if facts.is_superuser { "a superuser" } else { "no superuser" };
    let message = format!("PostgreSQL {} at {place}{tls}; {:?} is {user}", facts.version, facts.user);
    let mut findings = vec![Finding::ok("connection", message)];
    findings.extend(open_to_all(host, connection.is_protected()));
    findings
}

fn open_to_all(host: &Host, protected: bool) -> Option<Finding> {
    (!protected && !is_near(&host.address)).then(|| {
        let message = format!("what is read from {} goes over the network unprotected", host.name());
        Finding::warning("connection", message)
            .advise("add sslmode=verify-full to the connection, and switch TLS on at the server")
    })
}

/// A certificate that nobody looks at keeps nobody out who stands in between.
fn unchecked(service: Service, protected: bool, mode: TlsMode) -> Option<Finding> {
    (protected && service != Service::Other && mode < TlsMode::VerifyCa).then(|| {
        let message = "the certificate of the server is not checked: somebody in between could read along";
        Finding::warning("connection", message).advise(
            "add sslmode=verify-full to the connection, with sslrootcert=system or the certificate of the service",
        )
    })
}

/// Returns whether a connection stays on this machine.
fn is_near(address: &Address) -> bool {
    match address {
        Address::Socket(_) => true,
        Address::Network { name, address } => {
            name == "localhost" || address.is_some_and(|address| address.is_loopback())
        }
    }
}

/// Says what is particular about the service that runs the server.
pub(super) fn service(
    connection: &mut Connection,
    catalog: &Catalog,
    facts: &Facts,
    request: &Request<'_>,
) -> Result<Vec<Finding>> {
    // Not all: any other may have a name that is not UTF-8.
    let known = BY_ROLE.map(|(role, _)| format!("'{role}'")).join(", ");
    let rows = connection
        .query(&format!("SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ({known})"), &[])?;
    let roles: Vec<&str> = rows.iter().map(|row| text(row, 0)).collect();
    let host = connection.host().name();
    let service = Service::of(&host, &roles);
    let mut findings = Vec::new();
    findings.extend(unchecked(service, connection.is_protected(), request.info.tls.mode));
    findings.extend(match service {
        Service::Supabase => supabase(catalog),
        Service::Neon => {
            let message = "Neon: the first connection starts a compute that sleeps, and a backup keeps it awake";
            vec![Finding::note("service", message)]
        }
        Service::Rds | Service::CloudSql | Service::Azure => {
            let message = format!(
                "{}: there is no superuser, and passwords of roles are not shown to anybody: roles come back without",
                service.name()
            );
            vec![Finding::note("service", message)]
        }
        Service::Other if !facts.is_superuser => {
            let message = "passwords of roles are shown to superusers only: roles come back without";
            vec![Finding::note("roles", message)]
        }
        Service::Other => Vec::new(),
    });
    Ok(findings)
}

fn supabase(catalog: &Catalog) -> Vec<Finding> {
    let has = |schema: &&&str| catalog.tables.iter().any(|table| table.name.schema == ***schema);
    let there: Vec<String> = OF_SUPABASE.iter().filter(has).map(|schema| (*schema).to_owned()).collect();
    let mut findings = vec![
        Finding::note(
            "service",
            "Supabase: the files of Storage, Edge Functions, keys and the settings of Auth and of the project are not in \
             the database, and so in no backup of it",
        )
        .advise("keep functions and config.toml in version control, and copy the buckets by their own tools"),
        Finding::note(
            "service",
            "Supabase has three kinds of address: direct (db.<project>.supabase.co:5432, IPv6 only without an add-on), \
             session pooler (<region>.pooler.supabase.com:5432, user postgres.<project>), transaction pooler (port 6543, \
             not for backups)",
        ),
    ];
    if !there.is_empty() {
        let message = format!(
            "schemas that Supabase manages: {}; a new project has their tables already, and only some of them can be \
             changed by its users",
            there.join(", ")
        );
        findings.push(Finding::note("service", message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn connection_over_the_network_without_protection_is_a_warning() {
        let host = |name: &str, address: Option<&str>| {
            let address = address.map(|address| address.parse().unwrap());
            Host { address: Address::Network { name: name.to_owned(), address }, port: 5432, password: None }
        };
        let socket = Host { address: Address::Socket("/tmp".into()), port: 5432, password: None };
        for near in [socket, host("localhost", None), host("x", Some("127.0.0.2")), host("x", Some("::1"))] {
            assert_eq!(open_to_all(&near, false), None);
        }
        let far = host("db.example.org", Some("192.0.2.1"));
        assert_eq!(open_to_all(&far, true), None);
        let finding = open_to_all(&far, false).unwrap();
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.message, "what is read from db.example.org goes over the network unprotected");
    }

    #[test]
    fn certificate_of_a_service_that_nobody_checks_is_a_warning() {
        let severity =
            |service, protected, mode| unchecked(service, protected, mode).map(|finding| finding.severity);
        assert_eq!(severity(Service::Neon, true, TlsMode::Require), Some(Severity::Warning));
        assert_eq!(severity(Service::Neon, true, TlsMode::VerifyCa), None);
        assert_eq!(severity(Service::Neon, false, TlsMode::Prefer), None);
        assert_eq!(
            severity(Service::Other, true, TlsMode::Require),
            None,
            "who has a server of his own knows it"
        );
    }
}
