//! A node's configuration: flags, environment, file; checked into a [`Config`] before anything is opened.
//!
//! One definition serves all three: each setting is a flag `--kebab-case`, an environment variable
//! `ROSTER_UPPER_CASE` and a key `kebab-case` of the TOML file. Flags win over the environment, that over the file.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::{
    model::NodeName,
    raft::{KEPT_BEHIND_SNAPSHOT, SNAPSHOT_AFTER_BYTES, Timings},
};

/// Where clients reach a node that says nothing else.
const CLIENT_ADDR_DEFAULT: &str = "127.0.0.1:7400";
/// Where its peers do.
const PEER_ADDR_DEFAULT: &str = "127.0.0.1:7500";

/// The settings as given: each may be missing.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// This node's name, as --initial-cluster lists it
    #[arg(long, env = "ROSTER_NAME")]
    pub name: Option<String>,
    /// Where the node keeps its log and snapshots; made if missing
    #[arg(long, env = "ROSTER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:7400]
    #[arg(long, env = "ROSTER_CLIENT_ADDR", value_name = "HOST:PORT")]
    pub client_addr: Option<String>,
    /// Where the other nodes connect [default: 127.0.0.1:7500]
    #[arg(long, env = "ROSTER_PEER_ADDR", value_name = "HOST:PORT")]
    pub peer_addr: Option<String>,
    /// What clients are told to connect to, where it differs (needed with 0.0.0.0)
    #[arg(long, env = "ROSTER_CLIENT_ADVERTISE_ADDR", value_name = "HOST:PORT")]
    pub client_advertise_addr: Option<String>,
    /// What the other nodes are told to connect to, where it differs (needed with 0.0.0.0)
    #[arg(long, env = "ROSTER_PEER_ADVERTISE_ADDR", value_name = "HOST:PORT")]
    pub peer_advertise_addr: Option<String>,
    /// Names and peer addresses of all first nodes, this one too; the same list on each. Ignored once there is data
    #[arg(long, env = "ROSTER_INITIAL_CLUSTER", value_name = "NAME=HOST:PORT,…")]
    pub initial_cluster: Option<String>,
    /// Allow addresses other than loopback although nothing is encrypted or authenticated
    #[arg(long, env = "ROSTER_INSECURE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub insecure: Option<bool>,
    /// How often the leader sends heartbeats [default: 100ms]
    #[arg(long, env = "ROSTER_HEARTBEAT", value_name = "DURATION")]
    pub heartbeat: Option<String>,
    /// How long a follower waits for its leader: at least [default: 300ms]
    #[arg(long, env = "ROSTER_ELECTION_MIN", value_name = "DURATION")]
    pub election_min: Option<String>,
    /// How long a follower waits for its leader: at most [default: 450ms]
    #[arg(long, env = "ROSTER_ELECTION_MAX", value_name = "DURATION")]
    pub election_max: Option<String>,
    /// A snapshot is due after so many bytes of log, or as many as the last one has [default: 8388608]
    #[arg(long, env = "ROSTER_SNAPSHOT_AFTER_BYTES", value_name = "BYTES")]
    pub snapshot_after_bytes: Option<u64>,
    /// How many records of the log stay behind a snapshot, for followers that were away [default: 100000]
    #[arg(long, env = "ROSTER_LOG_KEPT_RECORDS", value_name = "NUMBER")]
    pub log_kept_records: Option<u64>,
    /// What is logged: error, warn, info, debug, or a filter like info,roster::raft=debug
    #[arg(long, env = "ROSTER_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Log a JSON object a line
    #[arg(long, env = "ROSTER_LOG_JSON", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub log_json: Option<bool>,
}

/// A setting that won't do. The text names it and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{setting}: {problem}")]
pub struct ConfigError {
    /// The setting, as a flag is called.
    pub setting: &'static str,
    /// What is wrong.
    pub problem: String,
}

fn error(setting: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError {
        setting,
        problem: problem.into(),
    }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's name.
    pub name: NodeName,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// `host:port` to listen on for clients.
    pub client_addr: String,
    /// `host:port` to listen on for peers.
    pub peer_addr: String,
    /// What clients are told; `None` = the address that was bound.
    pub client_advertise: Option<String>,
    /// What peers are told; `None` = the address that was bound.
    pub peer_advertise: Option<String>,
    /// Name and peer address of each first node; empty = this node alone.
    pub initial_cluster: Vec<(NodeName, String)>,
    /// Whether other addresses than loopback may be bound.
    pub insecure: bool,
    /// When an election begins.
    pub timings: Timings,
    /// After how many bytes of log a snapshot is due.
    pub snapshot_after_bytes: u64,
    /// How many records of the log stay behind it.
    pub log_kept_records: u64,
}

impl Settings {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// The file can't be read, or holds a key that is no setting; the text names file, line and key.
    pub fn read(path: &std::path::Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|e| error("config", format!("{}: {e}", path.display())))?;
        toml::from_str(&text).map_err(|e| error("config", format!("{}: {e}", path.display())))
    }

    /// These settings, and where one is missing, that of `lower`.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        Self {
            name: self.name.or(lower.name),
            data_dir: self.data_dir.or(lower.data_dir),
            client_addr: self.client_addr.or(lower.client_addr),
            peer_addr: self.peer_addr.or(lower.peer_addr),
            client_advertise_addr: self.client_advertise_addr.or(lower.client_advertise_addr),
            peer_advertise_addr: self.peer_advertise_addr.or(lower.peer_advertise_addr),
            initial_cluster: self.initial_cluster.or(lower.initial_cluster),
            insecure: self.insecure.or(lower.insecure),
            heartbeat: self.heartbeat.or(lower.heartbeat),
            election_min: self.election_min.or(lower.election_min),
            election_max: self.election_max.or(lower.election_max),
            snapshot_after_bytes: self.snapshot_after_bytes.or(lower.snapshot_after_bytes),
            log_kept_records: self.log_kept_records.or(lower.log_kept_records),
            log: self.log.or(lower.log),
            log_json: self.log_json.or(lower.log_json),
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// The first that won't do.
    pub fn check(self) -> Result<Config, ConfigError> {
        let name = self
            .name
            .ok_or_else(|| error("name", "is needed: which node is this? For example --name n1"))?;
        let name = NodeName::parse(&name).map_err(|e| error("name", format!("{name:?} {e}")))?;
        let data_dir = self
            .data_dir
            .ok_or_else(|| error("data-dir", "is needed: where should the node keep its data?"))?;
        let client_addr = host_port(
            "client-addr",
            self.client_addr.as_deref().unwrap_or(CLIENT_ADDR_DEFAULT),
        )?;
        let peer_addr = host_port("peer-addr", self.peer_addr.as_deref().unwrap_or(PEER_ADDR_DEFAULT))?;
        let advertise = |setting, given: Option<String>| match given {
            Some(address) => advertised(setting, &address).map(Some),
            None => Ok(None),
        };
        let client_advertise = advertise("client-advertise-addr", self.client_advertise_addr)?;
        let peer_advertise = advertise("peer-advertise-addr", self.peer_advertise_addr)?;
        if is_unspecified(&client_addr) && client_advertise.is_none() {
            return Err(error(
                "client-advertise-addr",
                format!("is needed with --client-addr {client_addr}"),
            ));
        }
        if is_unspecified(&peer_addr) && peer_advertise.is_none() {
            return Err(error(
                "peer-advertise-addr",
                format!("is needed with --peer-addr {peer_addr}"),
            ));
        }
        let insecure = self.insecure.unwrap_or(false);
        check_loopback("client-addr", &client_addr, insecure)?;
        check_loopback("peer-addr", &peer_addr, insecure)?;
        let initial_cluster = match &self.initial_cluster {
            Some(list) => parse_initial_cluster(list)?,
            None => Vec::new(),
        };
        Ok(Config {
            name,
            data_dir,
            client_addr,
            peer_addr,
            client_advertise,
            peer_advertise,
            initial_cluster,
            insecure,
            timings: timings(self.heartbeat, self.election_min, self.election_max)?,
            snapshot_after_bytes: at_least("snapshot-after-bytes", self.snapshot_after_bytes, SNAPSHOT_AFTER_BYTES)?,
            log_kept_records: at_least("log-kept-records", self.log_kept_records, KEPT_BEHIND_SNAPSHOT)?,
        })
    }
}

fn timings(
    heartbeat: Option<String>,
    election_min: Option<String>,
    election_max: Option<String>,
) -> Result<Timings, ConfigError> {
    let span = |setting, given: Option<String>, default| match given {
        Some(text) => humantime::parse_duration(&text).map_err(|e| error(setting, format!("{text:?}: {e}"))),
        None => Ok(default),
    };
    let default = Timings::default();
    let timings = Timings {
        heartbeat: span("heartbeat", heartbeat, default.heartbeat)?,
        election_min: span("election-min", election_min, default.election_min)?,
        election_max: span("election-max", election_max, default.election_max)?,
    };
    if timings.heartbeat < Duration::from_millis(10) {
        return Err(error("heartbeat", "must be 10ms or more"));
    }
    if timings.election_min < timings.heartbeat * 2 {
        return Err(error(
            "election-min",
            "must be at least twice the heartbeat, or a busy leader is voted out",
        ));
    }
    if timings.election_max <= timings.election_min || timings.election_max > Duration::from_secs(60) {
        return Err(error(
            "election-max",
            "must be more than --election-min, and 60s at most",
        ));
    }
    Ok(timings)
}

/// What snapshots and the log behind them may be tuned down to: less would only keep the disk busy.
const LOG_LEAST: u64 = 100;

fn at_least(setting: &'static str, given: Option<u64>, default: u64) -> Result<u64, ConfigError> {
    match given {
        Some(number) if number < LOG_LEAST => Err(error(setting, format!("must be {LOG_LEAST} or more"))),
        given => Ok(given.unwrap_or(default)),
    }
}

impl Config {
    /// Whether the initial cluster lists this node as it is: asked only while there is no data, which says it better.
    ///
    /// # Errors
    /// It does not list the node, or at another address.
    pub fn check_initial_cluster(&self) -> Result<(), ConfigError> {
        if self.initial_cluster.is_empty() {
            return Ok(());
        }
        let own = self.peer_advertise.as_ref().unwrap_or(&self.peer_addr);
        check_own_entry(&self.initial_cluster, &self.name, own)
    }
}

fn check_own_entry(list: &[(NodeName, String)], name: &NodeName, own: &str) -> Result<(), ConfigError> {
    let Some((_, listed)) = list.iter().find(|(listed, _)| listed == name) else {
        return Err(error(
            "initial-cluster",
            format!("does not list this node, {name}; add {name}={own}"),
        ));
    };
    if listed != own && !own.ends_with(":0") {
        let problem = format!(
            "says that {name} is reached at {listed}, but this node's peer address is {own}; \
             another node may have this name, or --peer-advertise-addr {listed} is missing"
        );
        return Err(error("initial-cluster", problem));
    }
    Ok(())
}

fn parse_initial_cluster(text: &str) -> Result<Vec<(NodeName, String)>, ConfigError> {
    const SETTING: &str = "initial-cluster";
    let mut list = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (name, address) = entry
            .split_once('=')
            .ok_or_else(|| error(SETTING, format!("{entry:?} is not NAME=HOST:PORT")))?;
        let name = NodeName::parse(name).map_err(|e| error(SETTING, format!("{name:?} {e}")))?;
        list.push((name, advertised(SETTING, address)?));
    }
    if list.is_empty() {
        return Err(error(SETTING, "lists no node"));
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for (name, address) in &list {
        if !names.insert(name) {
            return Err(error(
                SETTING,
                format!("lists {name} twice: each node has a name of its own"),
            ));
        }
        if !addresses.insert(address) {
            return Err(error(
                SETTING,
                format!("lists {address} twice: each node has an address of its own"),
            ));
        }
    }
    Ok(list)
}

/// Refuses an address that is certainly no loopback one. Names are resolved only when they are bound.
fn check_loopback(setting: &'static str, address: &str, insecure: bool) -> Result<(), ConfigError> {
    let open = address
        .parse::<SocketAddr>()
        .is_ok_and(|address| !address.ip().to_canonical().is_loopback());
    if open && !insecure {
        return Err(error(
            setting,
            format!(
                "{address} is not a loopback address, and this version has neither encryption nor authentication: \
                 whoever reaches the port controls the registry. Bind 127.0.0.1, or accept that with --insecure"
            ),
        ));
    }
    Ok(())
}

fn host_port(setting: &'static str, text: &str) -> Result<String, ConfigError> {
    let valid = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if valid {
        Ok(text.to_owned())
    } else {
        Err(error(setting, format!("{text:?} is not HOST:PORT")))
    }
}

fn advertised(setting: &'static str, text: &str) -> Result<String, ConfigError> {
    let text = host_port(setting, text)?;
    if is_unspecified(&text) {
        return Err(error(
            setting,
            format!("{text}: nobody can connect to that address; name one that others reach"),
        ));
    }
    if text.ends_with(":0") {
        return Err(error(setting, format!("{text}: port 0 can't be connected to")));
    }
    Ok(text)
}

fn is_unspecified(address: &str) -> bool {
    address
        .parse::<SocketAddr>()
        .is_ok_and(|address| address.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str, list: &str) -> Settings {
        Settings {
            name: Some(name.into()),
            data_dir: Some("d".into()),
            initial_cluster: Some(list.into()),
            ..Settings::default()
        }
    }

    #[test]
    fn defaults_make_a_node_on_loopback() {
        let config = settings("n1", "n1=127.0.0.1:7500").check().unwrap();
        assert_eq!(config.client_addr, "127.0.0.1:7400");
        assert_eq!(config.timings, Timings::default());
        assert!(!config.insecure);
    }

    #[test]
    fn each_wrong_setting_is_named() {
        let cases: Vec<(Settings, &str)> = vec![
            (Settings::default(), "--name: is needed"),
            (
                Settings {
                    name: Some("n 1".into()),
                    ..Settings::default()
                },
                "--name: \"n 1\" holds",
            ),
            (
                Settings {
                    name: Some("n1".into()),
                    ..Settings::default()
                },
                "--data-dir: is needed",
            ),
            (settings("n1", "n2=127.0.0.1:7500"), "does not list this node, n1"),
            (settings("n1", "n1=127.0.0.1:7501"), "another node may have this name"),
            (settings("n1", "n1=127.0.0.1:7500,n1=127.0.0.1:7501"), "lists n1 twice"),
            (
                settings("n1", "n1=127.0.0.1:7500,n2=127.0.0.1:7500"),
                "lists 127.0.0.1:7500 twice",
            ),
            (settings("n1", "n1"), "is not NAME=HOST:PORT"),
            (settings("n1", "n1=127.0.0.1"), "is not HOST:PORT"),
            (settings("n1", "n1=0.0.0.0:7500"), "nobody can connect"),
            (settings("n1", ""), "lists no node"),
            (
                Settings {
                    peer_addr: Some("0.0.0.0:7500".into()),
                    ..settings("n1", "n1=127.0.0.1:7500")
                },
                "--peer-advertise-addr: is needed",
            ),
            (
                Settings {
                    client_addr: Some("192.0.2.1:7400".into()),
                    ..settings("n1", "n1=127.0.0.1:7500")
                },
                "--client-addr: 192.0.2.1:7400 is not a loopback address",
            ),
            (
                Settings {
                    client_addr: Some("127.0.0.1:70000".into()),
                    ..settings("n1", "n1=127.0.0.1:7500")
                },
                "--client-addr",
            ),
            (
                Settings {
                    heartbeat: Some("soon".into()),
                    ..settings("n1", "n1=127.0.0.1:7500")
                },
                "--heartbeat: \"soon\"",
            ),
            (
                Settings {
                    log_kept_records: Some(0),
                    ..settings("n1", "n1=127.0.0.1:7500")
                },
                "--log-kept-records: must be",
            ),
            (
                Settings {
                    election_min: Some("150ms".into()),
                    ..settings("n1", "n1=127.0.0.1:7500")
                },
                "--election-min: must be at least twice",
            ),
        ];
        for (settings, expected) in cases {
            let checked = settings
                .clone()
                .check()
                .and_then(|config| config.check_initial_cluster());
            let error = checked.unwrap_err().to_string();
            assert!(error.contains(expected), "{settings:?}: {error}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let file: Settings = toml::from_str("name = 'file'\nheartbeat = '50ms'").unwrap();
        let merged = settings("flag", "flag=127.0.0.1:7500").over(file);
        let config = merged.check().unwrap();
        assert_eq!(config.name.as_str(), "flag");
        assert_eq!(config.timings.heartbeat, Duration::from_millis(50));
    }

    #[test]
    fn a_key_that_is_no_setting_is_refused() {
        assert!(
            toml::from_str::<Settings>("nmae = 'n1'")
                .unwrap_err()
                .to_string()
                .contains("nmae")
        );
    }
}
