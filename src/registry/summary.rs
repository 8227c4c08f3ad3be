//! How many instances each service and each namespace has: kept up with every change, so that listing the services
//! of a large registry counts nothing.

use std::ops::Bound::{Excluded, Included, Unbounded};

use imbl::OrdMap;

use super::place::Place;
use crate::model::{Instance, InstanceKey, Namespace, Revision, ServiceName, Status};

/// One service and how its instances do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSummary {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub service: ServiceName,
    /// Instances that begin.
    pub starting: u32,
    /// Instances that are up.
    pub up: u32,
    /// Instances that finish what they have.
    pub draining: u32,
    /// Instances that serve nothing.
    pub down: u32,
    /// The last change of any instance that it has now.
    pub mod_revision: Revision,
}

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceSummary {
    /// Its name.
    pub namespace: Namespace,
    /// Services with at least one instance.
    pub services: u32,
    /// Instances of all of them.
    pub instances: u32,
}

/// What is counted of one service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    starting: u32,
    up: u32,
    draining: u32,
    down: u32,
    /// The greatest mod_revision of its instances; `None` = the one that had it was removed, so that it must be
    /// looked for. The next change makes it known again, for its revision is greater than all before.
    newest: Option<Revision>,
}

impl Tally {
    const EMPTY: Self = Self {
        starting: 0,
        up: 0,
        draining: 0,
        down: 0,
        newest: Some(Revision(0)),
    };

    fn of(&mut self, status: Status) -> &mut u32 {
        match status {
            Status::Starting => &mut self.starting,
            Status::Up => &mut self.up,
            Status::Draining => &mut self.draining,
            Status::Down => &mut self.down,
        }
    }

    fn is_empty(&self) -> bool {
        self.starting == 0 && self.up == 0 && self.draining == 0 && self.down == 0
    }

    /// The greatest mod_revision of its instances, if it need not be looked for.
    pub(super) fn newest(&self) -> Option<Revision> {
        self.newest
    }

    /// As the reader sees it.
    pub(super) fn summary(&self, namespace: &Namespace, service: &ServiceName, newest: Revision) -> ServiceSummary {
        ServiceSummary {
            namespace: namespace.clone(),
            service: service.clone(),
            starting: self.starting,
            up: self.up,
            draining: self.draining,
            down: self.down,
            mod_revision: newest,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    services: u32,
    instances: u32,
}

fn service_place(key: &InstanceKey) -> (&str, &str, &str) {
    (key.namespace.as_str(), key.service.as_str(), "")
}

/// The counts of all services and namespaces that have instances.
#[derive(Clone, Debug, Default)]
pub(super) struct Summaries {
    services: OrdMap<(Namespace, ServiceName), Tally>,
    namespaces: OrdMap<Namespace, Count>,
}

impl Summaries {
    /// A record changed from one to the other; `None` = there was none, or is none any more.
    pub(super) fn change(&mut self, before: Option<&Instance>, after: Option<&Instance>) {
        let Some(key) = after.or(before).map(Instance::key) else {
            return;
        };
        let place = service_place(key);
        let mut is_new = false;
        let tally = match self.services.get_mut(&place as &dyn Place) {
            Some(tally) => tally,
            None => {
                is_new = true;
                let service = (key.namespace.clone(), key.service.clone());
                self.services.entry(service).or_insert(Tally::EMPTY)
            }
        };
        if let Some(before) = before {
            *tally.of(before.spec.status) -= 1;
            if tally.newest == Some(before.mod_revision) {
                tally.newest = None;
            }
        }
        if let Some(after) = after {
            *tally.of(after.spec.status) += 1;
            tally.newest = Some(tally.newest.unwrap_or_default().max(after.mod_revision));
        }
        let is_over = tally.is_empty();
        if is_over {
            self.services.remove(&place as &dyn Place);
        }
        if before.is_some() == after.is_some() {
            return;
        }
        let count = self.namespaces.entry(key.namespace.clone()).or_default();
        count.instances = count.instances + u32::from(after.is_some()) - u32::from(before.is_some());
        count.services = count.services + u32::from(is_new) - u32::from(is_over);
        if count.instances == 0 {
            self.namespaces.remove(&key.namespace);
        }
    }

    /// The same key, its namespace and service sharing their texts with those of the service's other instances.
    pub(super) fn intern(&self, key: &InstanceKey) -> InstanceKey {
        if let Some(((namespace, service), _)) = self.services.get_key_value(&service_place(key) as &dyn Place) {
            InstanceKey::new(namespace.clone(), service.clone(), key.id.clone())
        } else if let Some((namespace, _)) = self.namespaces.get_key_value(&key.namespace) {
            InstanceKey::new(namespace.clone(), key.service.clone(), key.id.clone())
        } else {
            key.clone()
        }
    }

    /// Services in order, after one; of one namespace or of all.
    pub(super) fn services<'a>(
        &'a self,
        namespace: Option<&'a Namespace>,
        after: Option<&(Namespace, ServiceName)>,
    ) -> impl Iterator<Item = (&'a Namespace, &'a ServiceName, &'a Tally)> + Send + use<'a> {
        let first = (namespace.map_or("", Namespace::as_str), "", "");
        let lower: &dyn Place = &first;
        let after = after
            .map(|service| service as &dyn Place)
            .filter(|after| *after >= lower);
        let lower = after.map_or(Included(lower), Excluded);
        self.services
            .range::<_, dyn Place + '_>((lower, Unbounded))
            .take_while(move |((of, _), _)| namespace.is_none_or(|namespace| namespace == of))
            .map(|((namespace, service), tally)| (namespace, service, tally))
    }

    /// Namespaces in order, after one.
    pub(super) fn namespaces<'a>(
        &'a self,
        after: Option<&Namespace>,
    ) -> impl Iterator<Item = NamespaceSummary> + Send + use<'a> {
        let lower = after.map_or(Unbounded, Excluded);
        self.namespaces
            .range::<_, Namespace>((lower, Unbounded))
            .map(|(namespace, count)| NamespaceSummary {
                namespace: namespace.clone(),
                services: count.services,
                instances: count.instances,
            })
    }

    /// The names of the namespaces, from one on.
    pub(super) fn namespace_names<'a>(
        &'a self,
        from: Option<&Namespace>,
    ) -> impl Iterator<Item = &'a Namespace> + Send + use<'a> {
        let lower = from.map_or(Unbounded, Included);
        self.namespaces
            .range::<_, Namespace>((lower, Unbounded))
            .map(|(namespace, _)| namespace)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        model::{Hold, Status},
        registry::{
            Command, Outcome,
            fixture::{Desk, deregister, own, spec},
        },
    };

    #[test]
    fn a_service_is_there_while_it_has_instances() {
        let mut desk = Desk::default();
        desk.register(spec("a/api/1"), own(1)).unwrap();
        desk.register(spec("a/web/1"), Hold::Permanent).unwrap();
        assert_eq!(desk.registry.state().services(None, None).count(), 2);
        desk.pass(1_001);
        let names: Vec<_> = desk
            .registry
            .state()
            .services(None, None)
            .map(|summary| summary.service.to_string())
            .collect();
        assert_eq!(names, ["web"]);
        let gone = desk.run(Command::Deregister(deregister("a/web/1", 0)));
        assert_eq!(gone, Ok(Outcome::Deregistered { existed: true }));
        assert_eq!(desk.registry.state().namespaces(None).count(), 0);
    }

    #[test]
    fn each_status_has_its_count() {
        let mut desk = Desk::default();
        let statuses = [
            Status::Starting,
            Status::Up,
            Status::Up,
            Status::Draining,
            Status::Down,
            Status::Down,
            Status::Down,
        ];
        for (n, status) in statuses.into_iter().enumerate() {
            let mut instance = spec(&format!("api/{n}"));
            instance.status = status;
            desk.register(instance, Hold::Permanent).unwrap();
        }
        let summary = desk.registry.state().services(None, None).next().unwrap();
        assert_eq!(
            (summary.starting, summary.up, summary.draining, summary.down),
            (1, 2, 1, 3)
        );
    }
}
