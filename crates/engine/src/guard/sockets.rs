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

/// Finds out who the client at `address` and `port` is.
pub(super) fn owner(address: &str, port: i32, group: Option<u32>) -> Owner {
    let place = address.parse::<IpAddr>().ok().zip(u16::try_from(port).ok());
    let inodes = place.map(|(address, port)| inodes_of(address, port)).unwrap_or_default();
    if inodes.is_empty() {
        return Owner::Unknown;
    }
    let (mut found, mut hides) = (None, false);
    for pid in processes() {
        match has_one_of(pid, &inodes) {
            Some(true) if pid == std::process::id() => return Owner::This,
            // One that left the group and took the connection along may write when the group is gone.
            Some(true) if !belongs(pid, group) => return Owner::Other,
            Some(true) => found = Some(Owner::Group),
            Some(false) => {}
            // It may be that of a member that runs by another user.
            None => hides |= group.is_some() && belongs(pid, group),
        }
    }
    let is_over = || place.is_some_and(|(address, port)| inodes_of(address, port) != inodes);
    match found {
        Some(owner) => owner,
        None if hides || is_over() => Owner::Unknown,
        None => Owner::Other,
    }
}

/// Returns the own ends of all connections that processes of a group have.
pub(super) fn of_group(group: u32) -> HashSet<(IpAddr, u16)> {
    let members = processes().into_iter().filter(|pid| is_member(*pid, group));
    let inodes: HashSet<u64> = members.filter_map(inodes_in).flatten().collect();
    if inodes.is_empty() {
        return HashSet::new();
    }
    let end = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let inode: u64 = fields.get(9)?.parse().ok()?;
        end_of(fields.get(1)?).filter(|_| inodes.contains(&inode))
    };
    tables().iter().flat_map(|text| text.lines().skip(1)).filter_map(end).collect()
}

/// Returns the numbers of the sockets whose own end is there.
fn inodes_of(address: IpAddr, port: u16) -> Vec<u64> {
    let text = tables();
    let lines = text.iter().flat_map(|text| text.lines().skip(1));
    lines.filter_map(|line| socket(line, address, port)).collect()
}

fn tables() -> [String; 2] {
    ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default())
}

/// Reads an end of a connection, as `0100007F:1538`.
fn end_of(text: &str) -> Option<(IpAddr, u16)> {
    let (host, number) = text.split_once(':')?;
    Some((canonical(address_of(host)?), u16::from_str_radix(number, 16).ok()?))
}

/// Reads a line of the table: the number of its socket, where that has this end.
fn socket(line: &str, address: IpAddr, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (own, inode) = (fields.get(1)?, fields.get(9)?);
    let is_it = end_of(own)? == (canonical(address), port);
    // One that was closed has no number any more.
    inode.parse().ok().filter(|inode| is_it && *inode != 0)
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
            let at = own.ip().to_string();
            assert_eq!(owner(&at, own.port().into(), None), Owner::This);
            drop(client);
            assert_eq!(owner(&at, own.port().into(), None), Owner::Unknown, "it was closed");
        }
    }

    #[test]
    fn client_elsewhere_is_nobody_of_ours() {
        for (address, port) in [("192.0.2.1", 5000), ("no address", 5000), ("127.0.0.1", -1)] {
            assert_eq!(owner(address, port, None), Owner::Unknown, "{address}:{port}");
        }
    }

    /// A process that has a connection from here to `port` as its standard input, and nothing else does.
    fn connected(listener: &TcpListener) -> (Child, u16) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = client.local_addr().unwrap().port();
        let child = Command::new("sleep").arg("60").process_group(0).stdin(OwnedFd::from(client)).spawn();
        (child.unwrap(), port)
    }

    #[test]
    fn connection_is_that_of_the_group_or_of_another_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut child, port) = connected(&listener);
        assert_eq!(owner("127.0.0.1", port.into(), Some(child.id())), Owner::Group);
        assert_eq!(of_group(child.id()), HashSet::from([("127.0.0.1".parse().unwrap(), port)]));
        assert_eq!(of_group(child.id() + 1), HashSet::new());
        assert_eq!(owner("127.0.0.1", port.into(), Some(child.id() + 1)), Owner::Other);
        assert_eq!(owner("127.0.0.1", port.into(), None), Owner::Other);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn connection_that_ends_while_it_is_looked_up_is_not_taken_for_somebody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for moment in 0..100 {
            let (mut child, port) = connected(&listener);
            let group = Some(child.id());
            let end = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(moment * 50));
                child.kill().unwrap();
                child.wait().unwrap();
            });
            loop {
                match owner("127.0.0.1", port.into(), group) {
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
