//! A proxy in front of one port.

use std::net::SocketAddr;

use tokio::{
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use super::{
    End, Flow, Pass, Ways,
    flow::{Ending, pump},
    lock,
    opener::opener,
};

/// Serves until it is aborted; its connections end with it. `from`: whose connections they are, where the port tells.
pub(super) async fn run(listener: TcpListener, from: Option<End>, to: End, onward: SocketAddr, ways: Ways) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // What can fail here is a connection that was gone again; the next one is not worse for it.
                let Ok((stream, far)) = accepted else { continue };
                connections.spawn(serve(stream, far, from, to, onward, ways.clone()));
            }
            _ended = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn serve(near: TcpStream, far: SocketAddr, from: Option<End>, to: End, onward: SocketAddr, ways: Ways) {
    let Some(from) = from.or_else(|| find_opener(&near, far, &ways)) else {
        return reset([near]);
    };
    let (mut there, mut back) = (ways.watch(from, to), ways.watch(to, from));
    // A packet that opens a connection goes one way, its answer the other.
    let both_pass = async {
        while there.borrow().pass != Pass::Open || back.borrow().pass == Pass::Cut {
            if there.borrow().pass == Pass::Cut || back.borrow().pass == Pass::Cut {
                return false;
            }
            let changed = tokio::select! { changed = there.changed() => changed, changed = back.changed() => changed };
            if changed.is_err() {
                return false;
            }
        }
        true
    };
    if !both_pass.await {
        return reset([near]);
    }
    let Ok(onward) = TcpStream::connect(onward).await else {
        // The process is not there: its machine would refuse.
        return reset([near]);
    };
    // Delays are ours to make.
    let _quick = (near.set_nodelay(true), onward.set_nodelay(true));
    let (mut near, mut onward) = (near.into_split(), onward.into_split());
    if carry((&mut near.0, &mut onward.1, there), (&mut onward.0, &mut near.1, back)).await == Ending::Reset {
        for half in [near.1, onward.1] {
            // Failing that, it is closed in the ordinary way.
            let _at_once = half.as_ref().set_zero_linger();
            half.forget();
        }
    }
}

type Way<'a> = (&'a mut OwnedReadHalf, &'a mut OwnedWriteHalf, watch::Receiver<Flow>);

/// Carries bytes both ways until both are closed, or one is reset.
async fn carry(there: Way<'_>, back: Way<'_>) -> Ending {
    let mut there = Box::pin(pump(there.0, there.1, there.2));
    let mut back = Box::pin(pump(back.0, back.1, back.2));
    let (mut there_open, mut back_open) = (true, true);
    while there_open || back_open {
        let ending = tokio::select! {
            ending = &mut there, if there_open => { there_open = false; ending }
            ending = &mut back, if back_open => { back_open = false; ending }
        };
        if ending == Ending::Reset {
            return ending;
        }
    }
    Ending::Closed
}

fn find_opener(near: &TcpStream, far: SocketAddr, ways: &Ways) -> Option<End> {
    let local = near.local_addr().ok()?;
    let pids = lock(&ways.0.pids).clone();
    tokio::task::block_in_place(|| opener(far, local, &pids)).map(End::Node)
}

/// Closes connections as a crashed machine does: at once and without a farewell.
fn reset<const N: usize>(streams: [TcpStream; N]) {
    for stream in streams {
        // Failing that, it is closed in the ordinary way.
        let _at_once = stream.set_zero_linger();
    }
}
