//! The address of this machine that the cluster, and so presumably everyone who reads the registry, sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{UdpSocket, lookup_host};

use crate::client::{Endpoint, Endpoints};

/// The local address from which packets to the cluster would leave. Sends none.
///
/// # Errors
/// When no endpoint has a route, or a name that resolves: says why for the last.
pub(super) async fn local_address(endpoints: &Endpoints) -> Result<IpAddr, String> {
    let mut problem = String::new();
    for endpoint in endpoints.as_slice() {
        match towards(endpoint).await {
            Ok(address) => return Ok(address),
            Err(error) => problem = format!("no way to {endpoint}: {error}"),
        }
    }
    Err(problem)
}

async fn towards(endpoint: &Endpoint) -> std::io::Result<IpAddr> {
    let mut last = std::io::Error::other("the name has no address");
    for remote in lookup_host((endpoint.host(), endpoint.port())).await? {
        let any: IpAddr = if remote.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        // Connecting a datagram socket only looks up the route.
        match socket.connect(remote).await {
            Ok(()) => return socket.local_addr().map(|local| local.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_on_this_machine_is_reached_from_this_machine() {
        let endpoints = "127.0.0.1:7400".parse().expect("a list");
        assert_eq!(local_address(&endpoints).await, Ok(Ipv4Addr::LOCALHOST.into()));
    }
}
