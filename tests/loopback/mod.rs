//! Addresses for tests that must know where something will listen before it does.
//!
//! A port of 127.0.0.1 that was free a moment ago may be another test's by then, or the near end of any connection.
//! So each test process has an address of its own in 127/8, and gives each of its ports away once.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports that Linux gives to the near ends of connections (from 32,768 on), above those that need rights.
const FIRST_PORT: u16 = 10_000;

/// A host of 127/8 and a port of it at which nobody listens, and nobody but the caller will.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    // A process id has 22 bits at most, and no two processes have one at a time. 127.0.0.1 is everybody's.
    let [_, high, middle, low] = (std::process::id() + 0x0001_0000).to_be_bytes();
    let host = Ipv4Addr::new(127, high, middle, low);
    loop {
        let address = SocketAddr::from((host, NEXT.fetch_add(1, Ordering::Relaxed)));
        // Whoever listens at all of this machine's addresses has the port of this one too.
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
