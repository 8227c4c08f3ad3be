//! Selectors: `roster.v1.Selector` to and from the model's.
//!
//! What a selector asks and this node does not understand is refused, never ignored: a filter that is silently
//! dropped would send traffic where it must not go. So is a selector without a scope, for that is what one with a
//! scope of tomorrow looks like today.

use std::collections::BTreeSet;

use super::{
    FieldErrors,
    field::{Fields, Path, quote},
    v1,
};
use crate::model::{
    Match, MatchField, MatchOp, Scope, Selector, ServiceName, Status,
    limits::{
        MATCH_VALUES_MAX, METADATA_KEY_MAX_BYTES, METADATA_VALUE_MAX_BYTES, NAME_MAX_BYTES, SELECTOR_MATCHES_MAX,
        SELECTOR_SERVICES_MAX,
    },
};

const METADATA_PREFIX: &str = "metadata.";

/// A selector as the API carries it.
#[must_use]
pub fn selector_to_proto(selector: &Selector) -> v1::Selector {
    use v1::selector::Scope as Sent;
    let scope = match &selector.scope {
        Scope::Services(names) => Sent::Services(v1::Services {
            names: names.iter().map(|name| name.as_str().into()).collect(),
        }),
        Scope::Prefix(prefix) => Sent::ServicePrefix(prefix.clone()),
        Scope::All => Sent::AllServices(true),
    };
    v1::Selector {
        namespace: selector
            .namespace
            .as_ref()
            .map(|name| name.as_str().into())
            .unwrap_or_default(),
        all_namespaces: selector.namespace.is_none(),
        scope: Some(scope),
        serving: selector.serving,
        matches: selector.matches.iter().map(match_to_proto).collect(),
    }
}

fn match_to_proto(condition: &Match) -> v1::Match {
    use v1::r#match::Op;
    let field = match &condition.field {
        MatchField::Zone => "zone".into(),
        MatchField::Region => "region".into(),
        MatchField::Version => "version".into(),
        MatchField::Status => "status".into(),
        MatchField::Tag => "tag".into(),
        MatchField::Port => "port".into(),
        MatchField::Metadata(key) => format!("{METADATA_PREFIX}{key}"),
    };
    let (op, values) = match &condition.op {
        MatchOp::In(values) => (Op::In, values.iter().cloned().collect()),
        MatchOp::NotIn(values) => (Op::NotIn, values.iter().cloned().collect()),
        MatchOp::Exists => (Op::Exists, Vec::new()),
    };
    v1::Match {
        field,
        op: op.into(),
        values,
    }
}

/// Reads a selector.
///
/// # Errors
/// Everything that is wrong with it.
pub fn selector_from_proto(selector: v1::Selector, path: &Path<'_>) -> Result<Selector, FieldErrors> {
    Fields::check(|fields| fields.selector(path, Some(selector)))
}

impl Fields {
    /// A selector that must be there.
    pub(crate) fn selector(&mut self, path: &Path<'_>, selector: Option<v1::Selector>) -> Option<Selector> {
        let selector = self.required(path, selector)?;
        let namespace = if !selector.all_namespaces {
            self.namespace(&path.field("namespace"), &selector.namespace).map(Some)
        } else if selector.namespace.is_empty() {
            Some(None)
        } else {
            self.refuse(
                &path.field("all_namespaces"),
                "must not be set together with a namespace",
            )
        };
        let scope = self.scope(path, selector.scope);
        let matches = self.matches(&path.field("matches"), selector.matches);
        Some(Selector {
            namespace: namespace?,
            scope: scope?,
            serving: selector.serving,
            matches: matches?,
        })
    }

    fn scope(&mut self, path: &Path<'_>, scope: Option<v1::selector::Scope>) -> Option<Scope> {
        use v1::selector::Scope as Sent;
        match scope {
            Some(Sent::Services(services)) => self.services(&path.field("services").field("names"), &services.names),
            Some(Sent::ServicePrefix(prefix)) => {
                let path = path.field("service_prefix");
                let prefix = self.word(&path, prefix, NAME_MAX_BYTES)?;
                let in_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
                if prefix.chars().all(in_names) {
                    Some(Scope::Prefix(prefix))
                } else {
                    self.refuse(&path, "holds a character that no service's name holds")
                }
            }
            Some(Sent::AllServices(all)) => self.chosen(&path.field("all_services"), all).map(|()| Scope::All),
            None => self.refuse(
                &path.field("scope"),
                "is not set: one of services, service_prefix and all_services must be, and be known to this node",
            ),
        }
    }

    fn services(&mut self, path: &Path<'_>, names: &[String]) -> Option<Scope> {
        if names.is_empty() {
            return self.refuse(path, "must not be empty");
        }
        self.at_most(path, names.len(), SELECTOR_SERVICES_MAX)?;
        let mut services = BTreeSet::new();
        let mut whole = true;
        for (index, name) in names.iter().enumerate() {
            match self.accept(&path.item(index), ServiceName::parse(name)) {
                Some(name) => drop(services.insert(name)),
                None => whole = false,
            }
        }
        whole.then_some(Scope::Services(services))
    }

    fn matches(&mut self, path: &Path<'_>, matches: Vec<v1::Match>) -> Option<Vec<Match>> {
        self.at_most(path, matches.len(), SELECTOR_MATCHES_MAX)?;
        let count = matches.len();
        let mut read = Vec::with_capacity(count);
        for (index, condition) in matches.into_iter().enumerate() {
            read.extend(self.one_match(&path.item(index), condition));
        }
        (read.len() == count).then_some(read)
    }

    fn one_match(&mut self, path: &Path<'_>, condition: v1::Match) -> Option<Match> {
        use v1::r#match::Op;
        let field = self.match_field(&path.field("field"), &condition.field);
        let op = match Op::try_from(condition.op) {
            Ok(Op::Unspecified) => self.refuse(&path.field("op"), "must be set"),
            Ok(op) => Some(op),
            Err(_) => self.refuse(
                &path.field("op"),
                format_args!("is {}, which is no operator", condition.op),
            ),
        };
        let values_path = path.field("values");
        let values = self.match_values(&values_path, field.as_ref(), condition.values);
        let (field, op, values) = (field?, op?, values?);
        let op = match op {
            Op::In if !values.is_empty() => MatchOp::In(values),
            Op::NotIn if !values.is_empty() => MatchOp::NotIn(values),
            Op::Exists if values.is_empty() => MatchOp::Exists,
            Op::Exists => return self.refuse(&values_path, "must be empty: EXISTS takes none"),
            Op::In | Op::NotIn | Op::Unspecified => return self.refuse(&values_path, "must not be empty"),
        };
        Some(Match { field, op })
    }

    fn match_field(&mut self, path: &Path<'_>, field: &str) -> Option<MatchField> {
        match field {
            "zone" => Some(MatchField::Zone),
            "region" => Some(MatchField::Region),
            "version" => Some(MatchField::Version),
            "status" => Some(MatchField::Status),
            "tag" => Some(MatchField::Tag),
            "port" => Some(MatchField::Port),
            other => match other.strip_prefix(METADATA_PREFIX) {
                Some(key) => self
                    .word(path, key.into(), METADATA_KEY_MAX_BYTES)
                    .map(MatchField::Metadata),
                None => self.refuse(
                    path,
                    format_args!(
                        "is {}; it must be zone, region, version, status, tag, port or metadata.KEY",
                        quote(other)
                    ),
                ),
            },
        }
    }

    fn match_values(
        &mut self,
        path: &Path<'_>,
        field: Option<&MatchField>,
        values: Vec<String>,
    ) -> Option<BTreeSet<String>> {
        self.at_most(path, values.len(), MATCH_VALUES_MAX)?;
        let mut whole = true;
        let mut read = BTreeSet::new();
        for (index, value) in values.into_iter().enumerate() {
            let path = path.item(index);
            let value = if field == Some(&MatchField::Status) {
                // A status matches by its name as the model prints it, whatever case the caller likes.
                let name = Status::from_name(&value).map(|status| status.name().to_owned());
                self.accept(&path, name.ok_or("must be STARTING, UP, DRAINING or DOWN"))
            } else {
                self.text(&path, value, METADATA_VALUE_MAX_BYTES)
            };
            match value {
                Some(value) => drop(read.insert(value)),
                None => whole = false,
            }
        }
        whole.then_some(read)
    }
}
