//! Whether a pooler stands before the server, and which kind.
//!
//! A pooler that lends a connection for one transaction at a time hands what `pg_dump` sets for its session to others:
//! their queries fail, and a dump can come out wrong although it is whole. One that lends it for a session is harmless.

use serde::{Deserialize, Serialize};

use super::{Finding, Request, text};
use crate::conninfo::{Address, ConnInfo, Host};
use crate::wire::{Connection, Options};
use crate::{Error, Result};

/// What stands between a client and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooler {
    /// Nothing.
    None,
    /// A pooler that keeps a connection for one client.
    Session,
    /// A pooler that shares connections among clients.
    Transaction,
    /// A pooler of either kind.
    Unknown,
}

/// Looks for a pooler.
pub(super) fn examine(request: &Request<'_>, connection: &mut Connection) -> Result<Vec<Finding>> {
    let host = connection.host().clone();
    let (pooler, why) = detect(request.info, request.options, connection, &host)?;
    Ok(match pooler {
        Pooler::None => Vec::new(),
        Pooler::Session => {
            vec![Finding::ok("pooler", format!("{why}: it keeps a connection for one client"))]
        }
        Pooler::Transaction => {
            let message =
                format!("{why}: pg_dump would spoil connections of others, and its archive could be wrong");
            vec![Finding::problem("pooler", message).advise(instead(
                &host,
                &request.info.user,
                &request.info.database,
            ))]
        }
        Pooler::Unknown => {
            let message =
                format!("{why}: whether it shares connections among clients cannot be told from here");
            let finding = match request.info.pooled {
                true => Finding::problem("pooler", format!("{message}, and a backup through it is refused")),
                false => Finding::warning("pooler", message),
            };
            vec![finding.advise(instead(&host, &request.info.user, &request.info.database))]
        }
    })
}

/// How often two connections are compared.
const TRIES: usize = 10;

/// Returns what stands before the server, and how that is known. The connection must be in no transaction.
///
/// A pooler that shares connections gives two clients in turn the same one, or one client several, when it has some.
pub(crate) fn detect(
    info: &ConnInfo,
    options: &Options,
    connection: &mut Connection,
    host: &Host,
) -> Result<(Pooler, String)> {
    if let Some((pooler, why)) = by_address(host) {
        return Ok((pooler, why.to_owned()));
    }
    // A pooler gives clients numbers of its own for canceling, and not that of the server's process.
    let process = backend(connection)?;
    if process == connection.process().to_string() {
        return Ok((Pooler::None, String::new()));
    }
    let mut other = match Connection::open(info, options) {
        Ok(other) => other,
        Err(Error::Server(_)) => return Ok((Pooler::Unknown, "a pooler answers".to_owned())),
        Err(error) => return Err(error),
    };
    // Both are open. What serves both is shared, and so is what serves one of them only now and then.
    for _ in 0..TRIES {
        let (one, another) = (backend(connection)?, backend(&mut other)?);
        if one == another || one != process {
            return Ok((Pooler::Transaction, "a pooler that shares connections answers".to_owned()));
        }
    }
    if info.pooled {
        return Ok((Pooler::Unknown, "the URL says that a pooler answers".to_owned()));
    }
    Ok((Pooler::Unknown, "a pooler answers".to_owned()))
}

/// Returns the number of the process of the server that answers.
fn backend(connection: &mut Connection) -> Result<String> {
    let rows = connection.query("SELECT pg_catalog.pg_backend_pid()", &[])?;
    Ok(rows.first().map(|row| text(row, 0).to_owned()).unwrap_or_default())
}

/// Returns what the addresses of services say of themselves.
fn by_address(host: &Host) -> Option<(Pooler, &'static str)> {
    let Address::Network { name, .. } = &host.address else { return None };
    let name = name.to_ascii_lowercase();
    if name.ends_with(".pooler.supabase.com") {
        return Some(match host.port {
            6543 => (Pooler::Transaction, "this is the transaction pooler of Supabase"),
            _ => (Pooler::Session, "this is the session pooler of Supabase"),
        });
    }
    if name.ends_with(".supabase.co") && host.port == 6543 {
        return Some((Pooler::Transaction, "this is the transaction pooler of the Supabase project"));
    }
    let label = name.split('.').next().unwrap_or_default();
    if name.ends_with(".neon.tech") && label.ends_with("-pooler") {
        return Some((Pooler::Transaction, "this is the pooler of Neon"));
    }
    None
}

/// Returns the address to use instead, as far as it is known.
pub(crate) fn direct(host: &Host) -> Option<String> {
    let name = host.name();
    let lower = name.to_ascii_lowercase();
    if lower.ends_with(".pooler.supabase.com") || lower.ends_with(".supabase.co") {
        return Some(format!("{name}:5432"));
    }
    lower.ends_with(".neon.tech").then(|| format!("{}:{}", name.replacen("-pooler.", ".", 1), host.port))
}

fn instead(host: &Host, user: &str, database: &str) -> String {
    match direct(host) {
        Some(place) => format!("use postgresql://{user}@{place}/{database}"),
        None => "use the address of the server itself, or a pool with pool_mode = session".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> Host {
        Host { address: Address::Network { name: name.to_owned(), address: None }, port, password: None }
    }

    #[test]
    fn poolers_of_services_are_known_by_their_addresses() {
        for (name, port, expected, address) in [
            (
                "aws-0-eu-central-1.pooler.supabase.com",
                6543,
                Some(Pooler::Transaction),
                "aws-0-eu-central-1.pooler.supabase.com:5432",
            ),
            ("aws-0-eu-central-1.pooler.supabase.com", 5432, Some(Pooler::Session), ""),
            ("db.abcd.supabase.co", 6543, Some(Pooler::Transaction), "db.abcd.supabase.co:5432"),
            ("DB.abcd.Supabase.co", 5432, None, ""),
            (
                "ep-cool-1-pooler.eu-central-1.aws.neon.tech",
                5432,
                Some(Pooler::Transaction),
                "ep-cool-1.eu-central-1.aws.neon.tech:5432",
            ),
            ("ep-cool-1.eu-central-1.aws.neon.tech", 5432, None, ""),
            ("my-pooler.example.org", 6543, None, ""),
        ] {
            let host = host(name, port);
            assert_eq!(by_address(&host).map(|(pooler, _)| pooler), expected, "{name}:{port}");
            if expected == Some(Pooler::Transaction) {
                assert_eq!(instead(&host, "u", "shop"), format!("use postgresql://u@{address}/shop"));
            }
        }
        let socket = Host { address: Address::Socket("/tmp".into()), port: 6543, password: None };
        assert_eq!(by_address(&socket), None);
    }
}
