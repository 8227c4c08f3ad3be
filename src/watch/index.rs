//! Which watches a change may touch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    record::Record,
    slot::{Round, Slot},
};
use crate::model::{InstanceKey, Namespace, Scope, Selector, ServiceName};

/// Watches by their number, in the order in which they were opened.
type Watches = BTreeMap<u64, Arc<Slot>>;

/// Every open watch, by what it listens to. A change looks at those who listed its service and at those who asked for
/// a prefix or for all, in its namespace and in every namespace; never at the rest.
#[derive(Debug, Default)]
pub(super) struct Index {
    open: Watches,
    by_namespace: HashMap<Namespace, Listeners>,
    everywhere: Listeners,
}

#[derive(Debug, Default)]
struct Listeners {
    by_service: HashMap<ServiceName, Watches>,
    /// Those who asked for a prefix or for all.
    general: Watches,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn insert(&mut self, number: u64, slot: &Arc<Slot>) {
        let selector = slot.filter.selector();
        let listeners = match &selector.namespace {
            Some(namespace) => self.by_namespace.entry(namespace.clone()).or_default(),
            None => &mut self.everywhere,
        };
        match &selector.scope {
            Scope::Services(services) => {
                for service in services {
                    let watches = listeners.by_service.entry(service.clone()).or_default();
                    watches.insert(number, Arc::clone(slot));
                }
            }
            Scope::Prefix(_) | Scope::All => {
                listeners.general.insert(number, Arc::clone(slot));
            }
        }
        self.open.insert(number, Arc::clone(slot));
    }

    /// Forgets a watch, and each place of the index that listened for it alone.
    pub(super) fn remove(&mut self, number: u64, selector: &Selector) {
        self.open.remove(&number);
        match &selector.namespace {
            Some(namespace) => {
                if let Some(listeners) = self.by_namespace.get_mut(namespace) {
                    listeners.remove(number, &selector.scope);
                    if listeners.is_empty() {
                        self.by_namespace.remove(namespace);
                    }
                }
            }
            None => self.everywhere.remove(number, &selector.scope),
        }
    }

    /// Offers records to every watch that they may touch. Changes of one service that follow each other, as those of a
    /// batch or of a lease's end do, cost each watch one look.
    pub(super) fn offer(&self, records: &[Arc<Record>], round: &mut Round<'_>) {
        for run in records.chunk_by(|one, next| same_service(one.key(), next.key())) {
            let Some(first) = run.first() else { continue };
            let key = first.key();
            let local = self.by_namespace.get(&key.namespace);
            for listeners in local.into_iter().chain([&self.everywhere]) {
                if let Some(watches) = listeners.by_service.get(&key.service) {
                    watches.values().for_each(|slot| slot.offer(run, round));
                }
                for slot in listeners.general.values().filter(|slot| slot.filter.admits(key)) {
                    slot.offer(run, round);
                }
            }
        }
    }
}

impl Listeners {
    fn remove(&mut self, number: u64, scope: &Scope) {
        match scope {
            Scope::Services(services) => {
                for service in services {
                    if let Some(watches) = self.by_service.get_mut(service) {
                        watches.remove(&number);
                        if watches.is_empty() {
                            self.by_service.remove(service);
                        }
                    }
                }
            }
            Scope::Prefix(_) | Scope::All => {
                self.general.remove(&number);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.by_service.is_empty() && self.general.is_empty()
    }
}

fn same_service(one: &InstanceKey, other: &InstanceKey) -> bool {
    one.service == other.service && one.namespace == other.namespace
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{
        HubLimits,
        backlog::Backlog,
        counters::Counters,
        filter::Filter,
        sample::{all, put, record, services},
    };

    fn touched(index: &Index, number: u64, service: &str) -> Vec<Arc<Slot>> {
        let mut round = Round {
            number,
            limits: &HubLimits::default(),
            counters: &Counters::default(),
            touched: Vec::new(),
        };
        let records = [put(number, service, "a", "z"), put(number, service, "b", "z")].map(record);
        index.offer(&records, &mut round);
        round.touched
    }

    fn open(index: &mut Index, number: u64, selector: Selector) -> Arc<Slot> {
        let slot = Arc::new(Slot::new(Filter::new(selector), Backlog::default()));
        index.insert(number, &slot);
        slot
    }

    fn is(found: &[Arc<Slot>], expected: &[&Arc<Slot>]) -> bool {
        found.len() == expected.len()
            && expected
                .iter()
                .all(|slot| found.iter().any(|one| Arc::ptr_eq(one, slot)))
    }

    #[test]
    fn a_change_touches_each_watch_that_may_match_once_and_no_other() {
        let mut index = Index::default();
        let prefix = |text: &str| Selector {
            scope: Scope::Prefix(text.into()),
            ..all()
        };
        let elsewhere = Selector {
            namespace: Some(Namespace::parse("prod").unwrap()),
            ..all()
        };
        let anywhere = Selector {
            namespace: None,
            ..services(&["web"])
        };
        let web_and_api = open(&mut index, 1, services(&["web", "api"]));
        let api = open(&mut index, 2, services(&["api"]));
        let every = open(&mut index, 3, all());
        let we = open(&mut index, 4, prefix("we"));
        let ap = open(&mut index, 5, prefix("ap"));
        open(&mut index, 6, elsewhere);
        let web = open(&mut index, 7, anywhere);

        assert!(is(&touched(&index, 1, "web"), &[&web_and_api, &every, &we, &web]));
        assert!(is(&touched(&index, 2, "api"), &[&web_and_api, &api, &every, &ap]));
        assert!(is(&touched(&index, 3, "db"), &[&every]));
        assert_eq!(index.len(), 7);
    }

    #[test]
    fn a_watch_that_ended_leaves_nothing_behind() {
        let mut index = Index::default();
        let selectors = [
            services(&["web", "api"]),
            all(),
            Selector {
                namespace: Some(Namespace::default()),
                ..all()
            },
            Selector {
                namespace: None,
                ..services(&["web"])
            },
        ];
        let slots: Vec<_> = (1..)
            .zip(selectors.clone())
            .map(|(number, selector)| open(&mut index, number, selector))
            .collect();
        for (number, selector) in (1..).zip(&selectors) {
            index.remove(number, selector);
        }
        assert!(touched(&index, 9, "web").is_empty());
        assert_eq!(index.len(), 0);
        assert!(index.by_namespace.is_empty() && index.everywhere.is_empty());
        assert!(slots.iter().all(|slot| Arc::strong_count(slot) == 1));
        assert!(slots.iter().all(|slot| slot.complete_through().is_none()));
    }
}
