//! Which instances, and how fresh: the flags of `list` and `watch`, and those of every read.

use std::time::Duration;

use clap::Args;

use super::{
    failure::Failure,
    output::Output,
    session::Session,
    spans,
    values::{EntryMatch, PositionArg, span, status},
};
use crate::wire::{
    span::span_to_proto,
    v1::{self, r#match::Op, read_options::Consistency, selector::Scope},
};

/// How fresh.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ReadArgs {
    /// Read what the node asked has, without asking the others: works without a quorum
    #[arg(long)]
    pub(super) stale: bool,
    /// Refuse what may be older than this
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(super) max_age: Option<Duration>,
}

impl ReadArgs {
    /// The options of a read.
    pub(super) fn options(&self) -> Result<v1::ReadOptions, Failure> {
        if self.max_age.is_some() && !self.stale {
            return Err(Failure::Usage(
                "--max-age goes with --stale: without it what is read is never old".into(),
            ));
        }
        let consistency = if self.stale {
            Consistency::Stale
        } else {
            Consistency::Linearizable
        };
        Ok(v1::ReadOptions {
            consistency: consistency.into(),
            max_age: self.max_age.map(span_to_proto),
            min_revision: 0,
        })
    }
}

/// Remarks on a stale answer how old it may be.
pub(super) fn tell_age(output: &mut Output, header: Option<&v1::Header>) {
    let Some(header) = header.filter(|header| header.stale) else {
        return;
    };
    let age = match header.age {
        Some(_) => format!("at most {} old", spans::of(header.age.as_ref())),
        None => "of unknown age".into(),
    };
    output.note(&format!(
        "stale: from {}, revision {}, {age}",
        header.node, header.revision
    ));
}

/// Which instances.
#[derive(Args, Clone, Debug)]
pub(super) struct SelectArgs {
    /// These services [default: all]
    #[arg(value_name = "SERVICE")]
    pub(super) services: Vec<String>,
    /// Services whose names begin so
    #[arg(long, conflicts_with = "services")]
    pub(super) prefix: Option<String>,
    /// All services, which is also meant when none is named
    #[arg(long, conflicts_with_all = ["services", "prefix"])]
    pub(super) all: bool,
    /// In all namespaces
    #[arg(long, short = 'A')]
    pub(super) all_namespaces: bool,
    /// Only those that serve: UP, and with a weight above 0
    #[arg(long)]
    pub(super) serving: bool,
    /// Only of this status; may be repeated: one of them
    #[arg(long = "status", value_parser = status)]
    pub(super) statuses: Vec<v1::instance::Status>,
    /// Only in this zone; may be repeated: one of them
    #[arg(long = "zone", value_name = "ZONE")]
    pub(super) zones: Vec<String>,
    /// Only in this region; may be repeated: one of them
    #[arg(long = "region", value_name = "REGION")]
    pub(super) regions: Vec<String>,
    /// Only with this tag; may be repeated: all of them
    #[arg(long = "tag", value_name = "TAG")]
    pub(super) tags: Vec<String>,
    /// Only with this metadata (KEY alone: with any value); may be repeated: all of them
    #[arg(long = "meta", value_name = "KEY[=VALUE]")]
    pub(super) metadata: Vec<EntryMatch>,
    #[command(flatten)]
    pub(super) read: ReadArgs,
    /// From this position on: list waits until the node has it, watch resumes after it
    #[arg(long, value_name = "CLUSTER:REVISION")]
    pub(super) after: Option<PositionArg>,
}

impl SelectArgs {
    /// The selector that they mean.
    pub(super) fn selector(&self, session: &Session) -> Result<v1::Selector, Failure> {
        if let Some(place) = self.services.iter().find(|name| name.contains('/')) {
            return Err(Failure::Usage(format!(
                "{place:?} is one instance: `roster get {place}` shows it"
            )));
        }
        if self.all_namespaces && session.namespace.is_some() {
            return Err(Failure::Usage(
                "--all-namespaces and --namespace contradict each other (is ROSTER_NAMESPACE set?)".into(),
            ));
        }
        let scope = match &self.prefix {
            Some(prefix) => Scope::ServicePrefix(prefix.clone()),
            None if self.services.is_empty() => Scope::AllServices(true),
            None => Scope::Services(v1::Services {
                names: self.services.clone(),
            }),
        };
        Ok(v1::Selector {
            namespace: session.namespace(),
            all_namespaces: self.all_namespaces,
            serving: self.serving,
            matches: self.matches(),
            scope: Some(scope),
        })
    }

    fn matches(&self) -> Vec<v1::Match> {
        let statuses: Vec<String> = self
            .statuses
            .iter()
            .map(|status| status.as_str_name().to_owned())
            .collect();
        let mut matches = Vec::new();
        for (field, values) in [("status", &statuses), ("zone", &self.zones), ("region", &self.regions)] {
            if !values.is_empty() {
                matches.push(one_of(field, values.clone()));
            }
        }
        matches.extend(self.tags.iter().map(|tag| one_of("tag", vec![tag.clone()])));
        matches.extend(self.metadata.iter().map(|entry| {
            let field = format!("metadata.{}", entry.key);
            match &entry.value {
                Some(value) => one_of(&field, vec![value.clone()]),
                None => v1::Match {
                    field,
                    op: Op::Exists.into(),
                    values: Vec::new(),
                },
            }
        }));
        matches
    }
}

fn one_of(field: &str, values: Vec<String>) -> v1::Match {
    v1::Match {
        field: field.into(),
        op: Op::In.into(),
        values,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        select: SelectArgs,
    }

    fn matches(words: &[&str]) -> Vec<(String, Op, Vec<String>)> {
        let words = std::iter::once("alone").chain(words.iter().copied());
        let alone = Alone::try_parse_from(words).expect("good");
        let matches = alone.select.matches();
        matches
            .into_iter()
            .map(|m| (m.field.clone(), m.op(), m.values))
            .collect()
    }

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn repeated_zones_are_alternatives_and_repeated_tags_are_not() {
        assert_eq!(
            matches(&["--zone", "a", "--zone", "b", "--tag", "x", "--tag", "y"]),
            [
                ("zone".into(), Op::In, texts(&["a", "b"])),
                ("tag".into(), Op::In, texts(&["x"])),
                ("tag".into(), Op::In, texts(&["y"])),
            ]
        );
    }

    #[test]
    fn metadata_is_matched_by_value_or_by_being_there() {
        assert_eq!(
            matches(&["--meta", "build=42", "--meta", "owner", "--status", "up"]),
            [
                ("status".into(), Op::In, texts(&["UP"])),
                ("metadata.build".into(), Op::In, texts(&["42"])),
                ("metadata.owner".into(), Op::Exists, texts(&[])),
            ]
        );
    }

    #[test]
    fn an_age_without_stale_is_refused() {
        let read = ReadArgs {
            stale: false,
            max_age: Some(Duration::from_secs(1)),
        };
        assert_eq!(read.options().map_err(|failure| failure.exit_code()), Err(2));
    }
}
