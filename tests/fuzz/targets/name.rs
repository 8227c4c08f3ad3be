//! Names, keys and ids from text: what they take is what they print, and nothing that a path, a log line or a terminal
//! could stumble over.

use roster::model::{ClusterId, InstanceId, Namespace, NodeName, ServiceName, Status, limits::NAME_MAX_BYTES};

use super::Verdict;

pub(crate) fn run(bytes: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Verdict::Refused;
    };
    let service = ServiceName::parse(text);
    let id = InstanceId::parse(text);
    let node = NodeName::parse(text);
    if let Ok(name) = &service {
        assert_eq!(name.as_str(), text);
        assert_harmless(text);
        assert!(!text.contains(':'), "{text:?}");
        assert!(
            id.is_ok() && Namespace::parse(text).is_ok(),
            "an id takes what a name takes"
        );
    }
    if let Ok(id) = &id {
        assert_eq!(id.to_string(), text);
        assert_harmless(text);
    }
    if let Ok(node) = &node {
        assert_eq!(node.as_str(), text);
        assert_harmless(text);
    }
    if let Some(cluster_id) = ClusterId::parse(text) {
        assert_eq!(cluster_id.to_string(), text.to_ascii_lowercase());
    }
    if let Some(status) = Status::from_name(text) {
        assert_eq!(Status::from_name(status.name()), Some(status));
    }
    Verdict::of(&id)
}

fn assert_harmless(text: &str) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    assert!(
        (1..=NAME_MAX_BYTES).contains(&text.len()) && text.chars().all(allowed),
        "{text:?}"
    );
    assert!(!text.starts_with('.') && !text.ends_with('.'), "{text:?}");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        "web",
        "helloworld.Greeter",
        "10.0.0.7:8080",
        "a_b-c",
        "00c0ffee00c0ffee",
        "draining",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    .chain([vec![b'x'; NAME_MAX_BYTES]])
    .collect()
}
