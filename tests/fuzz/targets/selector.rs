//! Selectors: what is taken reads back as it was, and decides about any record without a surprise: what it selects lies
//! within its scope.

use prost::Message as _;
use roster::{
    model::limits::{MATCH_VALUES_MAX, SELECTOR_MATCHES_MAX, SELECTOR_SERVICES_MAX},
    wire::{
        Path,
        selector::{selector_from_proto, selector_to_proto},
        v1,
    },
};

use super::{Verdict, request::check_errors, sample};

pub(crate) fn run(bytes: &[u8]) -> Verdict {
    let Ok(message) = v1::Selector::decode(bytes) else {
        return Verdict::Refused;
    };
    let read = selector_from_proto(message, &Path::Root);
    match &read {
        Err(errors) => check_errors(errors),
        Ok(selector) => {
            let sent = selector_to_proto(selector);
            assert!(sent.matches.len() <= SELECTOR_MATCHES_MAX);
            assert!(
                sent.matches
                    .iter()
                    .all(|condition| condition.values.len() <= MATCH_VALUES_MAX)
            );
            if let Some(v1::selector::Scope::Services(services)) = &sent.scope {
                assert!((1..=SELECTOR_SERVICES_MAX).contains(&services.names.len()));
            }
            assert_eq!(selector_from_proto(sent, &Path::Root).as_ref(), Ok(selector));
            for record in [
                sample::record("web", "1", None),
                sample::record("api", "a.b:c", Some(7)),
            ] {
                assert!(
                    !selector.selects(&record) || selector.covers(record.key()),
                    "{selector:?}"
                );
            }
        }
    }
    Verdict::of(&read)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use v1::selector::Scope;
    let all = v1::Selector {
        all_namespaces: true,
        scope: Some(Scope::AllServices(true)),
        ..v1::Selector::default()
    };
    let prefix = v1::Selector {
        scope: Some(Scope::ServicePrefix("we".into())),
        ..v1::Selector::default()
    };
    [sample::selector_message(), all, prefix]
        .map(|message| message.encode_to_vec())
        .into()
}
