//! The server's log: levels, text or JSON, one line an event, on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What is logged when nobody asks for something else. The libraries' own lines are of use to their authors only:
/// openraft warns of each try to reach a node that is down, many times a second, and h2 of each frame that a client made
/// up, as many as it likes to send.
const DEFAULT_FILTER: &str = "info,h2=error,hyper=error,tower=warn,openraft=error";

/// Whether a filter can be used.
///
/// # Errors
/// The filter's text is wrong.
pub fn check(filter: Option<&str>) -> Result<(), String> {
    parse(filter).map(drop)
}

fn parse(filter: Option<&str>) -> Result<EnvFilter, String> {
    let text = filter.map_or_else(
        || DEFAULT_FILTER.to_owned(),
        |filter| format!("{DEFAULT_FILTER},{filter}"),
    );
    EnvFilter::try_new(&text).map_err(|error| format!("--log {}: {error}", filter.unwrap_or_default()))
}

/// Begins to log. `filter` as in `info` or `roster=debug,info`; `None` = the default.
///
/// # Errors
/// The filter's text is wrong, or something logs already.
pub fn start(filter: Option<&str>, json: bool) -> Result<(), String> {
    let filter = parse(filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry
            .with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
            .try_init()
    } else {
        let colours = std::io::stderr().is_terminal();
        registry
            .with(fmt::layer().with_ansi(colours).with_writer(std::io::stderr))
            .try_init()
    };
    started.map_err(|error| error.to_string())
}

/// A panic anywhere ends the process: a task that died in silence would leave a node that only seems to live.
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        tracing::error!(%panic, "panicked: this is a bug; the process ends so that its supervisor can restart it");
        std::process::abort();
    }));
}
