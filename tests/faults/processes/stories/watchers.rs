//! Watchers that stopped reading, on nodes whose memory is limited.

use std::{io, time::Duration};

use roster::wire::v1::{Selector, WatchRequest, registry_client::RegistryClient, selector::Scope};
use tokio::time::Instant;
use tonic::transport::Endpoint;

use super::saw;
use crate::processes::stage::Stage;

/// Stalled watchers of each node, and how many share a connection.
const WATCHERS: usize = 1_500;
const ON_ONE_CONNECTION: usize = 100;
/// What a node may use, watchers and all.
const RESIDENT_MAX_KB: u64 = 700 << 10;
const STALLED_FOR: Duration = Duration::from_secs(20);
const OPEN_MAX: Duration = Duration::from_secs(5);

/// They take nothing from their connections while everything changes; the nodes' memory stays within its bound, and
/// everyone else is served.
pub(crate) async fn slow_watchers(stage: &mut Stage) -> io::Result<()> {
    let before: Vec<u64> = stage
        .cluster
        .servers
        .iter()
        .map(super::super::server::Server::resident_kb)
        .collect();
    let from = stage.recorder.now();
    // A stream that is held and never read. Its window is small, so that what waits, waits in the node.
    let mut stalled = Vec::new();
    for node in stage.cluster.all() {
        let address = stage.cluster.servers[node].client_address;
        for _ in 0..WATCHERS / ON_ONE_CONNECTION {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(io::Error::other)?;
            let endpoint = endpoint.initial_stream_window_size(1_024);
            let client = RegistryClient::new(endpoint.connect_lazy());
            for _ in 0..ON_ONE_CONNECTION {
                let everything = Selector {
                    scope: Some(Scope::AllServices(true)),
                    ..Selector::default()
                };
                let asked = WatchRequest {
                    selector: Some(everything),
                    ..WatchRequest::default()
                };
                match tokio::time::timeout(OPEN_MAX, client.clone().watch(asked)).await {
                    Ok(Ok(stream)) => stalled.push(stream),
                    Ok(Err(status)) => return Err(io::Error::other(status)),
                    Err(_elapsed) => return Err(io::Error::other("a watch was not opened within 5 s")),
                }
            }
        }
    }
    let fault = stage.fault("slow_watchers", &[], false, from, "slow_watchers".to_owned());
    let mut most = 0;
    let until = Instant::now() + STALLED_FOR;
    while Instant::now() < until {
        stage.wait(Duration::from_millis(250)).await;
        let used = stage
            .cluster
            .servers
            .iter()
            .map(super::super::server::Server::resident_kb);
        most = used.max().unwrap_or_default().max(most);
    }
    let before = before.into_iter().max().unwrap_or_default();
    saw(&format!(
        "{} stalled watchers: at most {} MB resident, {} before",
        stalled.len(),
        most >> 10,
        before >> 10
    ));
    if most > RESIDENT_MAX_KB {
        stage
            .findings
            .violation("memory-is-bounded", format!("a node uses {} MB", most >> 10));
    }
    drop(stalled);
    stage.fault_over(fault);
    Ok(())
}
