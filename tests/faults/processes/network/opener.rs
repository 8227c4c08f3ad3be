//! Who opened a connection to a loopback port, from the kernel's tables.
//!
//! ```text
//! /proc/net/tcp        local and remote address of each socket, and its inode
//! /proc/PID/fd/N       -> socket:[inode]
//! ```

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
};

/// The node that holds the far end of an accepted connection; `None` when its process is gone, or it was no node.
/// Reads small files of `/proc`.
pub(super) fn opener(far: SocketAddr, near: SocketAddr, pids: &BTreeMap<usize, u32>) -> Option<usize> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = inode_of(&table, far, near)?;
    let socket = format!("socket:[{inode}]");
    let holds = |pid: &u32| {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        open.flatten()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == socket.as_str()))
    };
    pids.iter().find(|(_, pid)| holds(pid)).map(|(node, _)| *node)
}

/// The inode of the socket whose own address is `local`.
fn inode_of(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (in_hex(local)?, in_hex(remote)?);
    let row = table
        .lines()
        .skip(1)
        .map(|line| line.split_ascii_whitespace())
        .find(|row| {
            let mut row = row.clone().skip(1);
            row.next() == Some(&*local) && row.next() == Some(&*remote)
        });
    row?.nth(9)?.parse().ok().filter(|&inode| inode != 0)
}

/// As the table writes it: the address as the machine keeps it, here little-endian, and the port.
fn in_hex(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(ip.octets()),
        address.port()
    ))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_process_that_opened_a_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = listener.local_addr().unwrap();
        let stream = TcpStream::connect(near).unwrap();
        let (_accepted, far) = listener.accept().unwrap();
        let pids = BTreeMap::from([(0, 1), (7, std::process::id())]);
        assert_eq!(opener(far, near, &pids), Some(7));
        drop(stream);
        assert_eq!(opener(far, near, &BTreeMap::from([(0, u32::MAX)])), None);
    }
}
