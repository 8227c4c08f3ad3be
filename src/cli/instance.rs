//! An instance on the command line: the flags that describe one, and the rows that show some.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::{
    spans,
    table::Table,
    values::{Entry, PortArg, span, status},
};
use crate::wire::v1;

/// What describes an instance; shared by `register` and `run`.
#[derive(Args, Clone, Debug)]
pub(super) struct InstanceArgs {
    /// The service that it provides, or SERVICE/ID
    #[arg(value_name = "SERVICE[/ID]")]
    pub(super) service: String,
    /// Its name within the service [default: ADDRESS:PORT; without a port one is made up]
    #[arg(long)]
    pub(super) id: Option<String>,
    /// Where it is reached: IPv4, IPv6 or host name [default: the local address that reaches the cluster]
    #[arg(long)]
    pub(super) address: Option<String>,
    /// A port, like 8080, http=8080 or dns=53/udp; may be repeated
    #[arg(long = "port", value_name = "[NAME=]NUMBER[/PROTO]")]
    pub(super) ports: Vec<PortArg>,
    /// Its share of the traffic, 0 to 65535; 0 = none [default: 100]
    #[arg(long, value_name = "N")]
    pub(super) weight: Option<u32>,
    /// Where it runs, fine
    #[arg(long)]
    pub(super) zone: Option<String>,
    /// Where it runs, coarse
    #[arg(long)]
    pub(super) region: Option<String>,
    /// Its own version, free text
    #[arg(long)]
    pub(super) version: Option<String>,
    /// A short word to select by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(super) tags: Vec<String>,
    /// Whatever else readers should know; may be repeated
    #[arg(long = "meta", value_name = "KEY=VALUE")]
    pub(super) metadata: Vec<Entry>,
    /// How it does: STARTING, UP, DRAINING or DOWN [default: UP]
    #[arg(long, value_parser = status)]
    pub(super) status: Option<v1::instance::Status>,
    /// Which life this is; a smaller one can't touch the record of a greater [default: register 0 (not fenced);
    /// --hold and run: the present time]
    #[arg(long, value_name = "N")]
    pub(super) incarnation: Option<i64>,
    /// How long its lease lives without renewal, 1s to 24h [default: 15s]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(super) ttl: Option<Duration>,
}

impl InstanceArgs {
    /// The record, at a place and an address that were worked out.
    pub(super) fn instance(&self, mut key: v1::InstanceKey, address: &str) -> v1::Instance {
        if key.id.is_empty() {
            key.id = self.id_at(address).unwrap_or_default();
        }
        v1::Instance {
            key: Some(key),
            address: address.into(),
            ports: self.ports.iter().map(v1::Port::from).collect(),
            weight: self.weight,
            region: self.region.clone().unwrap_or_default(),
            zone: self.zone.clone().unwrap_or_default(),
            version: self.version.clone().unwrap_or_default(),
            tags: self.tags.clone(),
            metadata: self
                .metadata
                .iter()
                .map(|entry| (entry.key.clone(), entry.value.clone()))
                .collect(),
            status: self.status.unwrap_or_default().into(),
            incarnation: self.incarnation.unwrap_or_default(),
            ..Default::default()
        }
    }

    /// A name that the same process has again after a restart, so that it takes over from itself.
    fn id_at(&self, address: &str) -> Option<String> {
        let port = self.ports.first()?;
        let id = format!("{address}:{}", port.number);
        // `::1` makes no name; what begins and ends well does.
        crate::model::InstanceId::parse(&id).is_ok().then_some(id)
    }
}

/// `host:port` as one writes it.
pub(super) fn host_port(host: &str, port: i32) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Where one of an instance's ports is reached.
pub(super) fn reach(instance: &v1::Instance, port: &v1::Port) -> String {
    let host = if port.address.is_empty() {
        &instance.address
    } else {
        &port.address
    };
    host_port(host, port.number)
}

/// Where an instance is reached: its first port, and how many more there are.
pub(super) fn endpoint(instance: &v1::Instance) -> String {
    match instance.ports.as_slice() {
        [] => instance.address.clone(),
        [port] => reach(instance, port),
        [port, more @ ..] => format!("{} +{}", reach(instance, port), more.len()),
    }
}

/// A status as the tables show it; one of a later version counts as DOWN.
pub(super) fn status_name(instance: &v1::Instance) -> &'static str {
    match instance.status() {
        v1::instance::Status::Unspecified => v1::instance::Status::Down.as_str_name(),
        status => status.as_str_name(),
    }
}

/// What holds an instance.
pub(super) fn hold(instance: &v1::Instance) -> String {
    if instance.lease_id == 0 {
        "permanent".into()
    } else {
        spans::of(instance.ttl.as_ref())
    }
}

/// `namespace/service/id`.
pub(super) fn key_text(key: &v1::InstanceKey) -> String {
    let namespace = if key.namespace.is_empty() {
        "default"
    } else {
        &key.namespace
    };
    format!("{namespace}/{}/{}", key.service, key.id)
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

fn ports(instance: &v1::Instance) -> String {
    let texts: Vec<String> = instance
        .ports
        .iter()
        .map(|port| {
            let name = if port.name.is_empty() {
                String::new()
            } else {
                format!("{}=", port.name)
            };
            let protocol = if port.protocol.is_empty() {
                String::new()
            } else {
                format!("/{}", port.protocol)
            };
            format!("{name}{}{protocol}", port.number)
        })
        .collect();
    dash(&texts.join(","))
}

fn metadata(instance: &v1::Instance) -> String {
    let texts: Vec<String> = instance
        .metadata
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    dash(&texts.join(","))
}

/// A table of instances; ages are counted to `now`.
pub(super) fn table<'a>(
    instances: impl Iterator<Item = &'a v1::Instance>,
    with_namespace: bool,
    wide: bool,
    now: SystemTime,
) -> Table {
    let mut headings = Vec::new();
    if with_namespace {
        headings.push("NAMESPACE");
    }
    headings.extend(["SERVICE", "ID", "ENDPOINT", "STATUS", "WEIGHT", "ZONE", "TTL", "AGE"]);
    if wide {
        headings.extend([
            "PORTS",
            "REGION",
            "VERSION",
            "TAGS",
            "METADATA",
            "LEASE",
            "INCARNATION",
            "REVISION",
            "UPDATED",
        ]);
    }
    let mut table = Table::new(headings);
    for instance in instances {
        let key = instance.key.clone().unwrap_or_default();
        let mut cells = Vec::new();
        if with_namespace {
            cells.push(key.namespace);
        }
        cells.extend([
            key.service,
            key.id,
            endpoint(instance),
            status_name(instance).into(),
            instance
                .weight
                .unwrap_or(crate::model::limits::WEIGHT_DEFAULT)
                .to_string(),
            dash(&instance.zone),
            hold(instance),
            spans::since(instance.registered_at.as_ref(), now),
        ]);
        if wide {
            cells.extend([
                ports(instance),
                dash(&instance.region),
                dash(&instance.version),
                dash(&instance.tags.join(",")),
                metadata(instance),
                instance.lease_id.to_string(),
                instance.incarnation.to_string(),
                instance.mod_revision.to_string(),
                spans::since(instance.updated_at.as_ref(), now),
            ]);
        }
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> v1::Instance {
        v1::Instance {
            key: Some(v1::InstanceKey {
                namespace: "default".into(),
                service: "web".into(),
                id: "1".into(),
            }),
            address: "10.0.0.7".into(),
            ports: vec![
                v1::Port {
                    name: "http".into(),
                    number: 8080,
                    protocol: "tcp".into(),
                    address: String::new(),
                },
                v1::Port {
                    number: 9090,
                    address: "::1".into(),
                    ..Default::default()
                },
            ],
            weight: Some(100),
            status: v1::instance::Status::Up.into(),
            lease_id: 7,
            ttl: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
            registered_at: Some(prost_types::Timestamp { seconds: 100, nanos: 0 }),
            mod_revision: 3,
            tags: vec!["a".into(), "b".into()],
            ..Default::default()
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_table_shows_what_matters_and_wide_shows_all() {
        let instances = [instance()];
        let lines = table(instances.iter(), false, false, at(190)).lines();
        assert_eq!(
            lines,
            [
                "SERVICE  ID  ENDPOINT          STATUS  WEIGHT  ZONE  TTL  AGE",
                "web      1   10.0.0.7:8080 +1  UP      100     -     15s  1m30s",
            ]
        );
        let wide = table(instances.iter(), true, true, at(190)).lines();
        assert!(wide[0].starts_with("NAMESPACE  SERVICE") && wide[0].ends_with("UPDATED"));
        assert!(
            wide[1].contains("http=8080/tcp,9090") && wide[1].contains("a,b"),
            "{}",
            wide[1]
        );
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        let instance = instance();
        assert_eq!(reach(&instance, &instance.ports[1]), "[::1]:9090");
    }

    #[test]
    fn a_status_of_a_later_version_counts_as_down() {
        let mut instance = instance();
        instance.status = 99;
        assert_eq!(status_name(&instance), "DOWN");
    }
}
