//! When a command that `roster run` started serves: its first port accepts connections.

use std::time::Duration;

use tokio::{net::TcpStream, time::timeout};

use crate::wire::v1;

/// How often it is tried.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long one try may take.
const TRY_MAX: Duration = Duration::from_secs(1);

/// Where the first port that a connection can be made to is reached. A port of `udp` says nothing when it is asked.
pub(super) fn door(instance: &v1::Instance) -> Option<(String, u16)> {
    let port = instance
        .ports
        .iter()
        .find(|port| !port.protocol.eq_ignore_ascii_case("udp"))?;
    let host = if port.address.is_empty() {
        &instance.address
    } else {
        &port.address
    };
    u16::try_from(port.number).ok().map(|number| (host.clone(), number))
}

/// Whether the door stands open.
pub(super) async fn is_open(door: &(String, u16)) -> bool {
    let connecting = TcpStream::connect((door.0.as_str(), door.1));
    matches!(timeout(TRY_MAX, connecting).await, Ok(Ok(_)))
}

/// Waits until the door stands open.
pub(super) async fn opened(door: &(String, u16)) {
    while !is_open(door).await {
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn port(number: i32, protocol: &str, address: &str) -> v1::Port {
        v1::Port {
            number,
            protocol: protocol.into(),
            address: address.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_door_is_the_first_port_that_takes_connections() {
        let mut instance = v1::Instance {
            address: "10.0.0.7".into(),
            ports: vec![port(53, "UDP", ""), port(80, "tcp", ""), port(90, "", "10.0.0.8")],
            ..Default::default()
        };
        assert_eq!(door(&instance), Some(("10.0.0.7".into(), 80)));
        instance.ports.remove(1);
        assert_eq!(door(&instance), Some(("10.0.0.8".into(), 90)));
        instance.ports.truncate(1);
        assert_eq!(door(&instance), None);
    }

    #[tokio::test]
    async fn a_door_opens_when_someone_listens() {
        // Of this address no other test has a port: it stays free once the listener is gone.
        let listener = TcpListener::bind("127.0.0.2:0").await.expect("a port");
        let number = listener.local_addr().expect("bound").port();
        let door = ("127.0.0.2".to_owned(), number);
        opened(&door).await;
        drop(listener);
        assert!(!is_open(&door).await);
    }
}
