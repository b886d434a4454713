//! Who of this machine has a connection over TCP.
//!
//! A server tells the address and the port of each client; the system tells which socket that is (`/proc/net/tcp`), and
//! which processes have it open.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::task::{belongs, is_member};

/// Who has the client's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This process.
    This,
    /// A process of the group.
    Group,
    /// Another process of this machine: a pooler, or one that has left the group.
    Other,
    /// Nobody of this machine, or nobody any more, or it cannot be told.
    Unknown,
}

/// The own end of a connection.
pub(super) type End = (IpAddr, u16);

/// Finds out who has the end of a connection to a server's port.
pub(super) fn owner(end: End, server: u16, group: Option<u32>) -> Owner {
    // Twice, where nobody has it: the socket of who ends is closed a moment later.
    let look = || seen(end, server, group);
    look().or_else(look).unwrap_or(Owner::Other)
}

/// Looks who has it; `None` where it is open, and nobody who can be looked at has it.
fn seen(end: End, server: u16, group: Option<u32>) -> Option<Owner> {
    let inodes = inodes_of(end, server);
    if inodes.is_empty() {
        return Some(Owner::Unknown);
    }
    let (mut found, mut hides) = (None, false);
    for pid in processes() {
        match has_one_of(pid, &inodes) {
            Some(true) if pid == std::process::id() => return Some(Owner::This),
            // One that left the group and took the connection along may write when the group is gone.
            Some(true) if !belongs(pid, group) => return Some(Owner::Other),
            Some(true) => found = Some(Owner::Group),
            Some(false) => {}
            // It may be that of a member that runs by another user.
            None => hides |= group.is_some() && belongs(pid, group),
        }
    }
    let is_over = || inodes_of(end, server) != inodes;
    found.or_else(|| (hides || is_over()).then_some(Owner::Unknown))
}

/// Returns the own ends of all connections to a server's port that processes of a group have.
pub(super) fn of_group(group: u32, server: u16) -> HashSet<End> {
    let members = processes().into_iter().filter(|pid| is_member(*pid, group));
    let inodes: HashSet<u64> = members.filter_map(inodes_in).flatten().collect();
    if inodes.is_empty() {
        return HashSet::new();
    }
    let own = |(end, inode): (End, u64)| inodes.contains(&inode).then_some(end);
    connections(server).into_iter().filter_map(own).collect()
}

/// Returns the numbers of the sockets whose own end is there.
fn inodes_of(end: End, server: u16) -> Vec<u64> {
    let end = (canonical(end.0), end.1);
    connections(server).into_iter().filter(|(own, _)| *own == end).map(|(_, inode)| inode).collect()
}

/// Returns the own ends of all connections to a port, and the numbers of their sockets.
fn connections(server: u16) -> Vec<(End, u64)> {
    let text = tables();
    let lines = text.iter().flat_map(|text| text.lines().skip(1));
    lines.filter_map(|line| connection(line, server)).collect()
}

fn tables() -> [String; 2] {
    ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default())
}

/// Reads an end of a connection, as `0100007F:1538`.
fn end_of(text: &str) -> Option<(IpAddr, u16)> {
    let (host, number) = text.split_once(':')?;
    Some((canonical(address_of(host)?), u16::from_str_radix(number, 16).ok()?))
}

/// Reads a line of the table: the own end and the number of a socket that is connected to this port.
fn connection(line: &str, server: u16) -> Option<(End, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, peer) = end_of(fields.get(2)?)?;
    // One that was closed has no number any more.
    let inode = fields.get(9)?.parse().ok().filter(|inode| *inode != 0 && peer == server)?;
    Some((end_of(fields.get(1)?)?, inode))
}

/// Reads an address as the kernel writes it: words of 32 bits in the order of this machine.
fn address_of(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(digits.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes())
    };
    match digits.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)))
        }
        _ => None,
    }
}

/// Returns the address of version 4 where one of version 6 stands for it.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Says whether a process has one of these sockets open; `None` when it may not be looked at.
fn has_one_of(pid: u32, inodes: &[u64]) -> Option<bool> {
    Some(inodes_in(pid)?.iter().any(|inode| inodes.contains(inode)))
}

/// Returns the numbers of the sockets that a process has open; `None` when it may not be looked at.
fn inodes_in(pid: u32) -> Option<Vec<u64>> {
    let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(descriptors) => descriptors,
        Err(error) => return (error.kind() != ErrorKind::PermissionDenied).then(Vec::new),
    };
    let inode = |descriptor: fs::DirEntry| {
        let target = fs::read_link(descriptor.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Some(descriptors.flatten().filter_map(inode).collect())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;

    #[test]
    fn socket_of_this_process_is_found_by_its_own_end_only() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let server = listener.local_addr().unwrap();
            let client = TcpStream::connect(server).unwrap();
            let own = client.local_addr().unwrap();
            let own = (own.ip(), own.port());
            assert_eq!(owner(own, server.port(), None), Owner::This);
            assert_eq!(owner(own, server.port() ^ 1, None), Owner::Unknown, "it leads elsewhere");
            drop(client);
            assert_eq!(owner(own, server.port(), None), Owner::Unknown, "it was closed");
        }
    }

    #[test]
    fn client_elsewhere_is_nobody_of_ours() {
        assert_eq!(owner(("192.0.2.1".parse().unwrap(), 5000), 5432, None), Owner::Unknown);
    }

    /// A process that has a connection from here to `port` as its standard input, and nothing else does.
    fn connected(listener: &TcpListener) -> (Child, End) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let own = client.local_addr().unwrap();
        let child = Command::new("sleep").arg("60").process_group(0).stdin(OwnedFd::from(client)).spawn();
        (child.unwrap(), (own.ip(), own.port()))
    }

    #[test]
    fn connection_is_that_of_the_group_or_of_another_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().port();
        let (mut child, end) = connected(&listener);
        assert_eq!(owner(end, server, Some(child.id())), Owner::Group);
        assert_eq!(of_group(child.id(), server), HashSet::from([end]));
        assert_eq!(of_group(child.id(), server ^ 1), HashSet::new(), "another server");
        assert_eq!(of_group(child.id() + 1, server), HashSet::new());
        assert_eq!(owner(end, server, Some(child.id() + 1)), Owner::Other);
        assert_eq!(owner(end, server, None), Owner::Other);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn connection_that_ends_while_it_is_looked_up_is_not_taken_for_somebody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().port();
        for moment in 0..100 {
            let (mut child, own) = connected(&listener);
            let group = Some(child.id());
            let end = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(moment * 50));
                child.kill().unwrap();
                child.wait().unwrap();
            });
            loop {
                match owner(own, server, group) {
                    Owner::Group => {}
                    seen => break assert_eq!(seen, Owner::Unknown, "moment {moment}"),
                }
            }
            end.join().unwrap();
        }
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let four = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(address_of(&format!("{four:08X}")), Some("127.0.0.1".parse().unwrap()));
        let words = [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), four];
        let six: String = words.iter().map(|word| format!("{word:08X}")).collect();
        assert_eq!(address_of(&six).map(canonical), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(address_of("0100"), None);
    }
}
