//! Which watches a change may touch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    backlog::Backlog,
    counters::Counters,
    crowd::{Crowd, Round},
    filter::Filter,
    record::Record,
};
use crate::model::{InstanceKey, Namespace, Scope, Selector, ServiceName};

/// Crowds by their number, in the order in which they came.
type Crowds = BTreeMap<u64, Arc<Crowd>>;

/// Every open watch, by what it listens to: those with one selector are a crowd. A change looks at the crowds that listed
/// its service and at those that asked for a prefix or for all, in its namespace and in every namespace; never at the
/// rest.
#[derive(Debug, Default)]
pub(super) struct Index {
    crowds: HashMap<Selector, Arc<Crowd>>,
    /// How many crowds there ever were: the number of the next.
    gathered: u64,
    /// How many watches are open.
    open: usize,
    by_namespace: HashMap<Namespace, Listeners>,
    everywhere: Listeners,
}

#[derive(Debug, Default)]
struct Listeners {
    by_service: HashMap<ServiceName, Crowds>,
    /// Those who asked for a prefix or for all.
    general: Crowds,
}

impl Index {
    /// How many watches are open.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// Adds a watch, to be given `missed` and all that is offered from now on; the crowd that it is in.
    pub(super) fn insert(&mut self, watch: u64, filter: Filter, missed: Backlog) -> Arc<Crowd> {
        let crowd = match self.crowds.get(filter.selector()) {
            Some(crowd) => Arc::clone(crowd),
            None => self.gather(filter),
        };
        crowd.join(watch, missed);
        self.open += 1;
        crowd
    }

    fn gather(&mut self, filter: Filter) -> Arc<Crowd> {
        let number = self.gathered;
        self.gathered += 1;
        let crowd = Arc::new(Crowd::new(number, filter));
        let selector = crowd.filter.selector();
        let listeners = match &selector.namespace {
            Some(namespace) => self.by_namespace.entry(namespace.clone()).or_default(),
            None => &mut self.everywhere,
        };
        match &selector.scope {
            Scope::Services(services) => {
                for service in services {
                    let crowds = listeners.by_service.entry(service.clone()).or_default();
                    crowds.insert(number, Arc::clone(&crowd));
                }
            }
            Scope::Prefix(_) | Scope::All => {
                listeners.general.insert(number, Arc::clone(&crowd));
            }
        }
        self.crowds.insert(selector.clone(), Arc::clone(&crowd));
        crowd
    }

    /// Forgets a watch and, if it was the last of its crowd, each place of the index that listened for that alone.
    pub(super) fn remove(&mut self, watch: u64, crowd: &Crowd, counters: &Counters) {
        self.open -= 1;
        if !crowd.leave(watch, counters) {
            return;
        }
        let selector = crowd.filter.selector();
        self.crowds.remove(selector);
        match &selector.namespace {
            Some(namespace) => {
                if let Some(listeners) = self.by_namespace.get_mut(namespace) {
                    listeners.remove(crowd.number, &selector.scope);
                    if listeners.is_empty() {
                        self.by_namespace.remove(namespace);
                    }
                }
            }
            None => self.everywhere.remove(crowd.number, &selector.scope),
        }
    }

    /// Offers records to every crowd that they may touch. Changes of one service that follow each other, as those of a
    /// batch or of a lease's end do, cost each crowd one look.
    pub(super) fn offer(&self, records: &[Arc<Record>], round: &mut Round<'_>) {
        for run in records.chunk_by(|one, next| same_service(one.key(), next.key())) {
            let Some(first) = run.first() else { continue };
            let key = first.key();
            let local = self.by_namespace.get(&key.namespace);
            for listeners in local.into_iter().chain([&self.everywhere]) {
                if let Some(crowds) = listeners.by_service.get(&key.service) {
                    crowds.values().for_each(|crowd| crowd.offer(run, round));
                }
                for crowd in listeners.general.values().filter(|crowd| crowd.filter.admits(key)) {
                    crowd.offer(run, round);
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
                    if let Some(crowds) = self.by_service.get_mut(service) {
                        crowds.remove(&number);
                        if crowds.is_empty() {
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
        sample::{all, put, record, services},
    };

    fn touched(index: &Index, number: u64, service: &str) -> Vec<Arc<Crowd>> {
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

    fn open(index: &mut Index, watch: u64, selector: Selector) -> Arc<Crowd> {
        index.insert(watch, Filter::new(selector), Backlog::default())
    }

    fn is(found: &[Arc<Crowd>], expected: &[&Arc<Crowd>]) -> bool {
        found.len() == expected.len()
            && expected
                .iter()
                .all(|crowd| found.iter().any(|one| Arc::ptr_eq(one, crowd)))
    }

    #[test]
    fn a_change_touches_each_crowd_that_may_match_once_and_no_other() {
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
        let web = open(&mut index, 7, anywhere.clone());
        let more = open(&mut index, 8, anywhere);

        assert!(Arc::ptr_eq(&web, &more), "who asks for the same is of one crowd");
        assert!(is(&touched(&index, 1, "web"), &[&web_and_api, &every, &we, &web]));
        assert!(is(&touched(&index, 2, "api"), &[&web_and_api, &api, &every, &ap]));
        assert!(is(&touched(&index, 3, "db"), &[&every]));
        assert_eq!(index.len(), 8);
    }

    #[test]
    fn a_watch_that_ended_leaves_nothing_behind() {
        let mut index = Index::default();
        let selectors = [
            services(&["web", "api"]),
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
        let crowds: Vec<_> = (1..)
            .zip(selectors)
            .map(|(watch, selector)| open(&mut index, watch, selector))
            .collect();
        // The first two are one.
        for ((watch, crowd), left) in (1..).zip(&crowds).zip([4, 4, 3, 2, 1]) {
            assert_eq!(touched(&index, watch, "web").len(), left);
            index.remove(watch, crowd, &Counters::default());
        }
        assert!(touched(&index, 9, "web").is_empty());
        assert_eq!(index.len(), 0);
        assert!(index.crowds.is_empty() && index.by_namespace.is_empty() && index.everywhere.is_empty());
        let held: Vec<_> = crowds.iter().map(Arc::strong_count).collect();
        assert_eq!(held, [2, 2, 1, 1, 1]);
    }
}
