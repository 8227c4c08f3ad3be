//! `roster resolve`: where to connect to, for scripts.

use clap::Args;
use rand::Rng;

use super::{
    failure::Failure,
    instance::reach,
    select::{ReadArgs, tell_age},
    session::Session,
};
use crate::{
    model::limits::WEIGHT_DEFAULT,
    wire::v1::{self, selector::Scope},
};

/// Prints where a service is reached: host:port, a line for each instance that serves
///
/// Without --port it is each instance's first port. Nobody who serves is a failure (exit code 1).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster resolve web
  curl http://$(roster resolve web --port http --one)/
  roster resolve db --stale                      also without a quorum")]
pub(super) struct ResolveArgs {
    /// The service
    service: String,
    /// The port of this name
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// One of them only, at random by weight
    #[arg(long)]
    one: bool,
    #[command(flatten)]
    read: ReadArgs,
}

impl ResolveArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let request = v1::ListRequest {
            selector: Some(v1::Selector {
                namespace: session.namespace(),
                serving: true,
                scope: Some(Scope::Services(v1::Services {
                    names: vec![self.service.clone()],
                })),
                ..Default::default()
            }),
            read: Some(self.read.options()?),
            ..Default::default()
        };
        let mut response = session.client.list_all(request).await?;
        let reached = |instance: &v1::Instance| self.reached(instance);
        response.instances.retain(|instance| reached(instance).is_some());
        if response.instances.is_empty() {
            let port = self.port.as_ref().map(|port| format!(" with a port {port:?}"));
            return Err(Failure::Failed(format!(
                "no instance of {} serves{}; `roster list {}` shows what there is",
                self.service,
                port.unwrap_or_default(),
                self.service
            )));
        }
        if self.one {
            let chosen = weighted(&response.instances, &mut rand::rng());
            response.instances = vec![response.instances.swap_remove(chosen)];
        }
        if session.output.is_json() {
            return session.output.message("ListResponse", &response);
        }
        for instance in &response.instances {
            if let Some(line) = reached(instance) {
                session.output.line(&line)?;
            }
        }
        tell_age(&mut session.output, response.header.as_ref());
        Ok(())
    }

    /// Where the instance is reached by the port that is wanted, if it has it.
    fn reached(&self, instance: &v1::Instance) -> Option<String> {
        let port = match &self.port {
            Some(name) => instance.ports.iter().find(|port| port.name == *name),
            None => instance.ports.first(),
        };
        match port {
            Some(port) => Some(reach(instance, port)),
            // An instance without ports is where its address is.
            None => (self.port.is_none() && !instance.address.is_empty()).then(|| instance.address.clone()),
        }
    }
}

/// The position of one of the instances, each as likely as its weight says.
fn weighted(instances: &[v1::Instance], random: &mut impl Rng) -> usize {
    let weight = |instance: &v1::Instance| u64::from(instance.weight.unwrap_or(WEIGHT_DEFAULT));
    let total: u64 = instances.iter().map(weight).sum();
    if total == 0 {
        return 0;
    }
    let mut drawn = random.random_range(0..total);
    for (position, instance) in instances.iter().enumerate() {
        match drawn.checked_sub(weight(instance)) {
            Some(rest) => drawn = rest,
            None => return position,
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn args(port: Option<&str>) -> ResolveArgs {
        ResolveArgs {
            service: "web".into(),
            port: port.map(str::to_owned),
            one: false,
            read: ReadArgs::default(),
        }
    }

    fn instance(address: &str, weight: u32) -> v1::Instance {
        v1::Instance {
            address: address.into(),
            weight: Some(weight),
            ports: vec![
                v1::Port {
                    name: "http".into(),
                    number: 80,
                    ..Default::default()
                },
                v1::Port {
                    name: "grpc".into(),
                    number: 90,
                    address: "10.9.9.9".into(),
                    ..Default::default()
                },
            ],
            ..Default::default()
        }
    }

    #[test]
    fn the_port_is_the_first_or_the_one_that_is_named() {
        assert_eq!(
            args(None).reached(&instance("10.0.0.1", 1)).as_deref(),
            Some("10.0.0.1:80")
        );
        assert_eq!(
            args(Some("grpc")).reached(&instance("::1", 1)).as_deref(),
            Some("10.9.9.9:90")
        );
        assert_eq!(
            args(Some("http")).reached(&instance("::1", 1)).as_deref(),
            Some("[::1]:80")
        );
        assert_eq!(args(Some("dns")).reached(&instance("::1", 1)), None);
    }

    #[test]
    fn an_instance_without_ports_is_where_its_address_is() {
        let bare = v1::Instance {
            ports: Vec::new(),
            ..instance("db.example.com", 1)
        };
        assert_eq!(args(None).reached(&bare).as_deref(), Some("db.example.com"));
        assert_eq!(args(Some("http")).reached(&bare), None);
    }

    #[test]
    fn one_is_chosen_as_often_as_its_weight_says() {
        let instances = [instance("a", 1), instance("b", 0), instance("c", 3)];
        let mut random = StdRng::seed_from_u64(7);
        let mut seen = [0_u32; 3];
        for _ in 0..4_000 {
            seen[weighted(&instances, &mut random)] += 1;
        }
        assert_eq!(seen[1], 0);
        assert!((900..1_100).contains(&seen[0]), "{seen:?}");
    }
}
