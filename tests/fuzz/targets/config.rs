//! A node's settings from its file. What is accepted makes sense as a whole.

use std::collections::BTreeSet;

use roster::model::NodeName;

use super::Verdict;

#[path = "../../../src/config/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "mounted as it is: the door to the file is not ours to change"
)]
mod settings;

pub(crate) fn run(bytes: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Verdict::Refused;
    };
    let Ok(settings) = toml::from_str::<settings::Settings>(text) else {
        return Verdict::Refused;
    };
    let config = settings.check();
    match &config {
        Err(error) => assert!(!error.setting.is_empty() && !error.problem.is_empty()),
        Ok(config) => {
            let names: BTreeSet<&NodeName> = config.initial_cluster.iter().map(|(name, _)| name).collect();
            let addresses: BTreeSet<&String> = config.initial_cluster.iter().map(|(_, address)| address).collect();
            assert_eq!(names.len(), config.initial_cluster.len());
            assert_eq!(addresses.len(), config.initial_cluster.len());
            let timings = config.timings;
            assert!(timings.heartbeat * 2 <= timings.election_min && timings.election_min < timings.election_max);
            let _either = config.check_initial_cluster();
        }
    }
    Verdict::of(&config)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let least = "name = \"n1\"\ndata-dir = \"/var/lib/roster\"\n";
    let most = r#"
name = "n1"
data-dir = "d"
client-addr = "0.0.0.0:7400"
peer-addr = "[::]:7500"
client-advertise-addr = "n1.example.org:7400"
peer-advertise-addr = "n1.example.org:7500"
initial-cluster = "n1=n1.example.org:7500, n2=10.0.0.2:7500,n3=[2001:db8::3]:7500"
insecure = true
heartbeat = "50ms"
election-min = "1s 500ms"
election-max = "1m"
log = "info,roster::raft=debug"
log-json = true
"#;
    [least, most].map(|text| text.as_bytes().to_vec()).into()
}
