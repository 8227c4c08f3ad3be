//! Nothing but `benches/hot_paths.rs`.
