//! Compiles `proto/` with protox, so that no `protoc` is needed, and writes the descriptor set for reflection.
//!
//! Four passes: the API's messages and its client; the API's server, whose most frequent answers are sent as bytes
//! that were encoded before (`wire::raw` holds those messages' twins); a client that leaves those bytes as they are; what
//! nodes write and say to each other.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// The most frequent answers: the server sends their twins in `wire::raw`, and measurements read them as such.
const TWINS: [&str; 5] = [
    "RegisterResponse",
    "UpdateResponse",
    "GetResponse",
    "ListResponse",
    "RenewResponse",
];
/// The one that is sent otherwise than it is read: many watchers are sent the same changes.
const WATCHED: &str = "WatchResponse";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let (served, unread, written) = (out.join("served"), out.join("unread"), out.join("written"));
    fs::create_dir_all(&served)?;
    fs::create_dir_all(&unread)?;
    fs::create_dir_all(&written)?;

    let public = protox::compile(["roster/v1/roster.proto"], ["proto"])?;
    let mut described = public.clone();
    for file in &mut described.file {
        file.source_code_info = None;
    }
    fs::write(out.join("roster_v1.bin"), described.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_server(false)
        .btree_map(".roster")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(public.clone())?;

    let with_twins = |builder: tonic_prost_build::Builder, watched: &str| {
        let builder = builder.extern_path(".google.rpc.Status", "::tonic_types::Status");
        let twins = TWINS.iter().map(|twin| (*twin, *twin)).chain([(WATCHED, watched)]);
        let builder = twins.fold(builder, |builder, (message, twin)| {
            builder.extern_path(format!(".roster.v1.{message}"), format!("crate::wire::raw::{twin}"))
        });
        builder.extern_path(".roster.v1", "crate::wire::v1")
    };
    let server = tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::wire::codec::RoomyCodec")
        .out_dir(served);
    with_twins(server, "WatchMessage").compile_fds(public.clone())?;
    let client = tonic_prost_build::configure().build_server(false).out_dir(unread);
    with_twins(client, WATCHED).compile_fds(public)?;

    let internal = protox::compile(
        ["roster/internal/v1/log.proto", "roster/internal/v1/peer.proto"],
        ["proto"],
    )?;
    // For the tests that send what no node would.
    fs::write(out.join("roster_internal_v1.bin"), internal.encode_to_vec())?;
    tonic_prost_build::configure()
        .out_dir(written)
        .bytes(".roster.internal.v1.SnapshotChunk.data")
        .bytes(".roster.internal.v1.AppendRequest.records")
        .bytes(".roster.internal.v1.ForwardCommand.command")
        .bytes(".roster.internal.v1.Registered.instance")
        .bytes(".roster.internal.v1.Updated.instance")
        .btree_map(".roster")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .extern_path(".roster.v1", "crate::wire::v1")
        .compile_fds(internal)?;
    Ok(())
}
