//! How flags and arguments are written: ports, spans, metadata, tags, places of instances, positions.

use std::{fmt, str::FromStr, time::Duration};

use super::failure::Failure;
use crate::wire::v1;

/// A span: `15s`, `1m30s`, `250ms`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("{text:?} is no span of time; write 15s, 1m30s or 250ms"))
}

/// A span that is not zero, for what waits.
pub(super) fn wait(text: &str) -> Result<Duration, String> {
    match span(text)? {
        Duration::ZERO => Err("nothing can be done in no time; write 15s, 1m30s or 250ms".into()),
        wait => Ok(wait),
    }
}

/// A port: `[NAME=]NUMBER[/PROTO]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortArg {
    pub(super) name: String,
    pub(super) number: u16,
    pub(super) protocol: String,
}

impl FromStr for PortArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no port; write 8080, http=8080 or dns=53/udp");
        let (name, rest) = match text.split_once('=') {
            Some(("", _)) => return Err(wrong()),
            Some((name, rest)) => (name, rest),
            None => ("", text),
        };
        let (number, protocol) = match rest.split_once('/') {
            Some((_, "")) => return Err(wrong()),
            Some((number, protocol)) => (number, protocol),
            None => (rest, ""),
        };
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse::<u16>().ok().filter(|&n| digits && n > 0);
        Ok(Self {
            name: name.into(),
            number: number.ok_or_else(wrong)?,
            protocol: protocol.into(),
        })
    }
}

impl From<&PortArg> for v1::Port {
    fn from(port: &PortArg) -> Self {
        Self {
            name: port.name.clone(),
            number: port.number.into(),
            protocol: port.protocol.clone(),
            address: String::new(),
        }
    }
}

/// One metadata entry: `KEY=VALUE`; the value may be empty and may hold `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: String,
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.into(),
                value: value.into(),
            }),
            _ => Err(format!("{text:?} is no metadata; write KEY=VALUE")),
        }
    }
}

/// What to select by metadata: `KEY=VALUE`, or `KEY` for any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryMatch {
    pub(super) key: String,
    pub(super) value: Option<String>,
}

impl FromStr for EntryMatch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err(format!("{text:?} names no key; write KEY=VALUE, or KEY for any value"));
        }
        Ok(Self { key: key.into(), value })
    }
}

/// A change of metadata: `KEY=VALUE` sets, `KEY-` removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryChange {
    Set(Entry),
    Remove(String),
}

impl FromStr for EntryChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('=') {
            return text.parse().map(Self::Set);
        }
        match text.strip_suffix('-') {
            Some(key) if !key.is_empty() => Ok(Self::Remove(key.into())),
            _ => Err(format!("{text:?} is no change; write KEY=VALUE to set, KEY- to remove")),
        }
    }
}

/// A change of tags: `+x` or `x` adds, `-x` removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TagChange {
    Add(String),
    Remove(String),
}

impl FromStr for TagChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (change, tag): (fn(String) -> Self, &str) = match text.strip_prefix('-') {
            Some(tag) => (Self::Remove, tag),
            None => (Self::Add, text.strip_prefix('+').unwrap_or(text)),
        };
        if tag.is_empty() {
            return Err(format!("{text:?} names no tag; write +TAG to add, -TAG to remove"));
        }
        Ok(change(tag.into()))
    }
}

/// A status that an owner may set; case does not count.
pub(super) fn status(text: &str) -> Result<v1::instance::Status, String> {
    let status = v1::instance::Status::from_str_name(&text.to_ascii_uppercase());
    status
        .filter(|&status| status != v1::instance::Status::Unspecified)
        .ok_or_else(|| format!("{text:?} is no status; it is STARTING, UP, DRAINING or DOWN"))
}

/// A lease's id, a number greater than 0.
pub(super) fn lease_id(text: &str) -> Result<i64, String> {
    let id = text.parse::<i64>().ok().filter(|&id| id > 0);
    id.ok_or_else(|| format!("{text:?} is no lease's id; it is a number greater than 0"))
}

/// A position to watch from: `CLUSTER:REVISION` as `roster watch` tells it, or a revision alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PositionArg {
    /// `None`: of the cluster that is asked.
    pub(super) cluster_id: Option<String>,
    pub(super) revision: i64,
}

impl FromStr for PositionArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no position; write CLUSTER:REVISION, as `roster watch` tells it when it ends");
        let (cluster_id, revision) = match text.split_once(':') {
            Some((cluster, revision)) => (Some(cluster), revision),
            None => (None, text),
        };
        if cluster_id.is_some_and(|id| id.len() != 16 || !id.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(wrong());
        }
        let digits = revision.bytes().all(|b| b.is_ascii_digit());
        let revision = revision.parse::<i64>().ok().filter(|_| digits);
        Ok(Self {
            cluster_id: cluster_id.map(str::to_owned),
            revision: revision.ok_or_else(wrong)?,
        })
    }
}

/// A position as [`PositionArg`] reads it.
pub(super) fn position(position: &v1::Position) -> impl fmt::Display {
    format!("{}:{}", position.cluster_id, position.revision)
}

/// Where an instance stands, from `SERVICE ID`, `SERVICE/ID` or `NAMESPACE/SERVICE/ID`. The id is empty where none
/// is given; whether the rest is well-formed is the cluster's to say.
pub(super) fn place(namespace: Option<&str>, service: &str, id: Option<&str>) -> Result<v1::InstanceKey, Failure> {
    let parts: Vec<&str> = service.split('/').collect();
    let (written_namespace, service, written_id) = match parts[..] {
        [service] => (None, service, None),
        [service, id] => (None, service, Some(id)),
        [namespace, service, id] => (Some(namespace), service, Some(id)),
        _ => {
            return Err(Failure::Usage(format!(
                "{service:?} has too many slashes; write SERVICE, SERVICE/ID or NAMESPACE/SERVICE/ID"
            )));
        }
    };
    let one = |what: &str, a: Option<&str>, b: Option<&str>| match (a, b) {
        (Some(a), Some(b)) if a != b => Err(Failure::Usage(format!("two {what}s: {a:?} and {b:?}"))),
        (a, b) => Ok(a.or(b).unwrap_or_default().to_owned()),
    };
    Ok(v1::InstanceKey {
        namespace: one("namespace", written_namespace, namespace)?,
        service: service.into(),
        id: one("id", written_id, id)?,
    })
}

/// The same for a command that is about one instance.
pub(super) fn whole_place(
    namespace: Option<&str>,
    service: &str,
    id: Option<&str>,
    command: &str,
) -> Result<v1::InstanceKey, Failure> {
    let place = place(namespace, service, id)?;
    if place.id.is_empty() {
        return Err(Failure::Usage(format!(
            "which instance of {service}? `roster {command} {service} ID`; `roster list {service}` shows them"
        )));
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_each_form() {
        let port = |name: &str, number, protocol: &str| PortArg {
            name: name.into(),
            number,
            protocol: protocol.into(),
        };
        for (text, expected) in [
            ("8080", port("", 8080, "")),
            ("http=8080", port("http", 8080, "")),
            ("dns=53/udp", port("dns", 53, "udp")),
            ("53/udp", port("", 53, "udp")),
            ("65535", port("", 65_535, "")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "0", "65536", "+80", "-1", "http", "=80", "80/", "http=", "a=b=80"] {
            assert!(text.parse::<PortArg>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn spans_need_a_unit() {
        assert_eq!(span("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        assert!(span("15").is_err() && span("").is_err() && span("-1s").is_err());
        assert!(span("0s").is_ok() && wait("0s").is_err());
    }

    #[test]
    fn metadata_may_hold_what_it_likes_behind_the_first_equals_sign() {
        let entry: Entry = "url=http://x/?a=b".parse().expect("good");
        assert_eq!((entry.key.as_str(), entry.value.as_str()), ("url", "http://x/?a=b"));
        assert_eq!("k=".parse::<Entry>().map(|entry| entry.value), Ok(String::new()));
        assert!("k".parse::<Entry>().is_err() && "=v".parse::<Entry>().is_err());
        assert_eq!("k".parse::<EntryMatch>().map(|entry| entry.value), Ok(None));
    }

    #[test]
    fn changes_of_tags_and_metadata_are_told_apart() {
        assert_eq!("+x".parse(), Ok(TagChange::Add("x".into())));
        assert_eq!("x".parse(), Ok(TagChange::Add("x".into())));
        assert_eq!("-y".parse(), Ok(TagChange::Remove("y".into())));
        assert!("+".parse::<TagChange>().is_err() && "-".parse::<TagChange>().is_err());
        assert_eq!("k-".parse(), Ok(EntryChange::Remove("k".into())));
        let set = Entry {
            key: "k-".into(),
            value: "v".into(),
        };
        assert_eq!("k-=v".parse(), Ok(EntryChange::Set(set)));
        assert!("k".parse::<EntryChange>().is_err() && "-".parse::<EntryChange>().is_err());
    }

    #[test]
    fn a_place_is_written_in_three_ways() {
        let key = |namespace: &str, id: &str| v1::InstanceKey {
            namespace: namespace.into(),
            service: "web".into(),
            id: id.into(),
        };
        let read = |namespace, service, id| place(namespace, service, id).map_err(|failure| failure.line());
        assert_eq!(read(None, "web", Some("1")), Ok(key("", "1")));
        assert_eq!(read(None, "web/1", None), Ok(key("", "1")));
        assert_eq!(read(Some("prod"), "web/1", None), Ok(key("prod", "1")));
        assert_eq!(read(None, "prod/web/1", None), Ok(key("prod", "1")));
        assert_eq!(read(None, "web", None), Ok(key("", "")));
        assert!(read(None, "web/1", Some("2")).is_err());
        assert!(read(Some("test"), "prod/web/1", None).is_err());
        assert!(read(None, "a/b/c/d", None).is_err());
        assert!(whole_place(None, "web", None, "get").is_err());
    }

    #[test]
    fn a_position_reads_back_as_it_is_told() {
        let told = v1::Position {
            cluster_id: "00000000deadbeef".into(),
            revision: 42,
        };
        let read: PositionArg = position(&told).to_string().parse().expect("good");
        assert_eq!(read.cluster_id.as_deref(), Some("00000000deadbeef"));
        assert_eq!(read.revision, 42);
        assert_eq!("42".parse::<PositionArg>().map(|read| read.cluster_id), Ok(None));
        for text in ["", "x:1", "00000000deadbeef:", "-1", "00000000deadbeef:+1"] {
            assert!(text.parse::<PositionArg>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_status_is_known_by_its_name_in_any_case() {
        assert_eq!(status("up"), Ok(v1::instance::Status::Up));
        assert_eq!(status("Draining"), Ok(v1::instance::Status::Draining));
        assert!(status("status_unspecified").is_err() && status("gone").is_err());
    }
}
