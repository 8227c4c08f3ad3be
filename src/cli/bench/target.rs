//! The nodes that a run calls, and its connections to them.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use serde_json::{Map, Value, json};
use tonic::{
    Request,
    transport::{Channel, Endpoint as Uri},
};

use super::{
    super::{failure::Failure, session::Session},
    options::{Connections, To},
};
use crate::client::{Client, Endpoint, Error, Options};

/// How long a node may take to say who it is, and to be connected to.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often a connection is asked whether it is still there, and how long it may take to say so: as client libraries
/// do, so that the servers answer as many pings as they would.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// One node that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    pub(super) name: String,
    pub(super) leads: bool,
}

/// Connections to the nodes that a run calls.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The nodes that are called.
    members: Vec<Member>,
    channels: Vec<Channel>,
}

impl Target {
    /// Finds the nodes that are meant and connects to them.
    ///
    /// # Errors
    /// None of them is there, or a connection does not come about.
    pub(super) async fn connect(session: &mut Session, to: To, connections: Connections) -> Result<Self, Failure> {
        let (known, absent) = members(&session.client).await?;
        for (endpoint, error) in absent {
            session
                .output
                .note(&format!("{endpoint} is left out, it does not answer: {error}"));
        }
        let members = chosen(known, to)?;
        let count = connections.to(members.len());
        let channels = try_join_all((0..count).map(|at| channel(&members[at % members.len()].endpoint))).await?;
        Ok(Self { members, channels })
    }

    /// The connection of a task, by turns.
    pub(super) fn channel(&self, task: usize) -> Channel {
        self.channels[task % self.channels.len()].clone()
    }

    /// How many connections there are.
    pub(super) fn connections(&self) -> usize {
        self.channels.len()
    }

    /// Adds itself to what a run was asked for.
    pub(super) fn describe(&self, parameters: &mut Map<String, Value>) {
        let nodes = self.members.iter().map(|member| {
            json!({
                "name": member.name,
                "endpoint": member.endpoint.to_string(),
                "leader": member.leads,
            })
        });
        parameters.insert("nodes".into(), nodes.collect());
        parameters.insert("connections".into(), self.connections().into());
    }
}

/// The endpoints' nodes that answer, and why the others don't.
///
/// # Errors
/// None answers.
pub(super) async fn members(client: &Client) -> Result<(Vec<Member>, Vec<(Endpoint, Error)>), Failure> {
    let endpoints = client.endpoints().as_slice();
    let answers = join_all(endpoints.iter().map(|endpoint| ask(client, endpoint))).await;
    let (mut known, mut absent) = (Vec::new(), Vec::new());
    for (endpoint, answer) in endpoints.iter().zip(answers) {
        match answer {
            Ok(member) => known.push(member),
            Err(error) => absent.push((endpoint.clone(), error)),
        }
    }
    if known.is_empty()
        && let Some((_, error)) = absent.pop()
    {
        return Err(error.into());
    }
    Ok((known, absent))
}

async fn ask(client: &Client, endpoint: &Endpoint) -> Result<Member, Error> {
    let options = Options {
        timeout: ANSWER_WITHIN,
        unavailable_patience: Duration::ZERO,
        unreachable_patience: Duration::ZERO,
        ..client.options().clone()
    };
    let status = Client::new(endpoint.clone().into(), options).node_status().await?;
    Ok(Member {
        endpoint: endpoint.clone(),
        name: status.header.map(|header| header.node).unwrap_or_default(),
        leads: status.role == "leader",
    })
}

/// Those that are meant.
fn chosen(known: Vec<Member>, to: To) -> Result<Vec<Member>, Failure> {
    let chosen: Vec<Member> = known
        .into_iter()
        .filter(|member| match to {
            To::Leader => member.leads,
            To::Follower => !member.leads,
            To::All => true,
        })
        .collect();
    match (chosen.is_empty(), to) {
        (false, _) => Ok(chosen),
        (true, To::Leader) => Err(Failure::Unavailable(
            "--to leader: no node behind --endpoints leads just now".into(),
        )),
        (true, To::Follower | To::All) => Err(Failure::Unavailable(
            "--to follower: no node behind --endpoints follows just now".into(),
        )),
    }
}

/// A connection of its own.
async fn channel(endpoint: &Endpoint) -> Result<Channel, Failure> {
    let failed = |error: tonic::transport::Error| {
        let failed: &dyn std::error::Error = &error;
        let cause = failed.source().map(ToString::to_string).unwrap_or_default();
        Failure::Unavailable(format!("cannot connect to {endpoint}: {error} {cause}"))
    };
    lazy(endpoint).map_err(failed)?.connect().await.map_err(failed)
}

/// How a node is connected to.
pub(super) fn lazy(endpoint: &Endpoint) -> Result<Uri, tonic::transport::Error> {
    let uri = Uri::from_shared(format!("http://{endpoint}"))?
        .connect_timeout(ANSWER_WITHIN)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .tcp_nodelay(true);
    Ok(uri)
}

/// A request that its node answers in time.
pub(super) fn timed<Q>(message: Q, limit: Duration) -> Request<Q> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Member> {
        ["n1", "n2", "n3"]
            .map(|name| Member {
                endpoint: name.parse().expect("a name is an endpoint"),
                name: name.into(),
                leads: name == "n2",
            })
            .into()
    }

    fn names(to: To) -> Vec<String> {
        let chosen = chosen(three(), to).expect("there are such nodes");
        chosen.into_iter().map(|member| member.name).collect()
    }

    #[test]
    fn the_nodes_that_are_called_are_chosen_by_who_leads() {
        assert_eq!(names(To::All), ["n1", "n2", "n3"]);
        assert_eq!(names(To::Leader), ["n2"]);
        assert_eq!(names(To::Follower), ["n1", "n3"]);
    }

    #[test]
    fn nobody_to_call_is_said_with_the_option() {
        let followers = three().into_iter().filter(|member| !member.leads).collect();
        let failure = chosen(followers, To::Leader).expect_err("no leader");
        assert_eq!(failure.exit_code(), Failure::UNAVAILABLE);
        assert!(failure.line().contains("--to leader"));
        let leader = three().into_iter().filter(|member| member.leads).collect();
        assert!(chosen(leader, To::Follower).is_err_and(|failure| failure.line().contains("--to follower")));
    }
}
