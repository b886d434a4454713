//! Which process of this machine a connection over TCP belongs to.
//!
//! A server tells the address and the port of each client; the system tells which socket that is (`/proc/net/tcp`), and
//! which processes have it open.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::task::belongs;

/// Says whether the client at `address` and `port` is a process of ours: of the group, or this one.
pub(super) fn belongs_to(address: &str, port: i32, group: Option<u32>) -> Option<u32> {
    let (address, port) = (address.parse::<IpAddr>().ok()?, u16::try_from(port).ok()?);
    let inodes = inodes_of(address, port);
    if inodes.is_empty() {
        return None;
    }
    processes().into_iter().filter(|pid| belongs(*pid, group)).find(|pid| has_one_of(*pid, &inodes))
}

/// Returns the numbers of the sockets whose own end is there.
fn inodes_of(address: IpAddr, port: u16) -> Vec<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    let lines = text.iter().flat_map(|text| text.lines().skip(1));
    lines.filter_map(|line| socket(line, address, port)).collect()
}

/// Reads a line of the table: the number of its socket, where that has this end.
fn socket(line: &str, address: IpAddr, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (own, inode) = (fields.get(1)?, fields.get(9)?);
    let (host, number) = own.split_once(':')?;
    let is_it =
        u16::from_str_radix(number, 16).ok()? == port && canonical(address_of(host)?) == canonical(address);
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

fn has_one_of(pid: u32, inodes: &[u64]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let target = fs::read_link(descriptor.path()).unwrap_or_default();
        let number = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        number.and_then(|number| number.parse().ok()).is_some_and(|inode: u64| inodes.contains(&inode))
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn socket_of_this_process_is_found_by_its_own_end_only() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let server = listener.local_addr().unwrap();
            let client = TcpStream::connect(server).unwrap();
            let own = client.local_addr().unwrap();
            let at = own.ip().to_string();
            assert_eq!(belongs_to(&at, own.port().into(), None), Some(std::process::id()));
            drop(client);
            assert_eq!(belongs_to(&at, own.port().into(), None), None, "it was closed");
        }
    }

    #[test]
    fn client_elsewhere_is_nobody_of_ours() {
        assert_eq!(belongs_to("192.0.2.1", 5000, None), None);
        assert_eq!(belongs_to("no address", 5000, None), None);
        assert_eq!(belongs_to("127.0.0.1", -1, None), None);
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
