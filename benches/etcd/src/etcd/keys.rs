//! What is put into etcd: keys by service, and values of the fields that Roster's records have in its runs.

/// The prefix of a service's keys. Ends in `/`: no service's prefix begins another's.
pub(super) fn service(number: usize) -> String {
    format!("/registry/default/bench-{number}/")
}

/// An instance's key.
pub(super) fn instance(service: &str, id: impl std::fmt::Display) -> String {
    format!("{service}{id}")
}

/// An instance's value, as registries that stand on etcd write it: the same fields as in `roster bench`, as JSON.
pub(super) fn value(version: &str) -> String {
    format!(r#"{{"address":"10.1.2.3","ports":[{{"name":"http","number":8080}}],"zone":"z1","version":"{version}"}}"#)
}

/// The version in a value.
pub(super) fn version(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once(r#""version":""#)?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_its_value() {
        assert_eq!(version(&value("3-17-204")), Some("3-17-204"));
        assert_eq!(version("{}"), None);
        let object: serde_json::Value = serde_json::from_str(&value("1.2.3")).expect("JSON");
        assert_eq!(object["version"], "1.2.3");
    }
}
