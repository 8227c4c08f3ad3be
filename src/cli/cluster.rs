//! `roster cluster status` and `members`: the nodes, and how each does.

use std::{collections::BTreeSet, time::Duration};

use clap::{Args, Subcommand};
use futures_util::future::join_all;

use super::{
    failure::{ErrorObject, Failure},
    json,
    session::Session,
    spans,
    table::Table,
};
use crate::{
    client::{Client, Endpoint, Error, Options},
    wire::{span::span_from_proto, v1},
};

/// How long one node may take to say how it does.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Subcommand, Debug)]
pub(super) enum ClusterCommand {
    Status(StatusArgs),
    Members(MembersArgs),
}

/// Asks every node how it does, and shows those that can't be reached as such
///
/// Needs no quorum: each node answers from its own state. Nodes are those of --endpoints and all members that one of
/// them knows.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster cluster status
  roster cluster status -o json | jq -r 'select(.role == \"leader\") | .header.node'")]
pub(super) struct StatusArgs {}

/// Lists the members of the cluster
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster cluster members")]
pub(super) struct MembersArgs {}

impl ClusterCommand {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Status(StatusArgs {}) => status(session).await,
            Self::Members(MembersArgs {}) => members(session).await,
        }
    }
}

async fn members(session: &mut Session) -> Result<(), Failure> {
    let response = session.client.members().await?;
    if session.output.is_json() {
        return session.output.message("ListMembersResponse", &response);
    }
    let mut table = Table::new(["NODE", "ID", "ROLE", "CLIENT", "PEER"]);
    for member in &response.members {
        table.row([
            member.name.clone(),
            member.member_id.to_string(),
            member.role().as_str_name().to_ascii_lowercase(),
            member.client_address.clone(),
            member.peer_address.clone(),
        ]);
    }
    session.output.table(&table)
}

/// What is known of one node.
#[derive(Debug)]
struct Asked {
    /// The member's name; empty where only an endpoint is known.
    name: String,
    /// Where it was asked.
    address: String,
    answer: Result<v1::GetNodeStatusResponse, Error>,
}

async fn status(session: &mut Session) -> Result<(), Failure> {
    let client = session.client.with_timeout(session.timeout.unwrap_or(NODE_TIMEOUT));
    let asked = ask_all(&client).await;
    if session.output.is_json() {
        for node in &asked {
            session.output.line(&object(node)?)?;
        }
    } else {
        let wide = session.output.is_wide();
        session.output.table(&table(&asked, wide))?;
    }
    // One that answers is enough: the table says the rest.
    match asked.into_iter().map(|node| node.answer).reduce(Result::or) {
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) | None => Ok(()),
    }
}

/// Asks the endpoints, and then the members that are not among them.
async fn ask_all(client: &Client) -> Vec<Asked> {
    let endpoints = client.endpoints().as_slice();
    let answers = join_all(endpoints.iter().map(|endpoint| ask(client, endpoint))).await;
    let members = known_members(client, endpoints, &answers).await;

    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut asked = Vec::new();
    for (endpoint, answer) in endpoints.iter().zip(answers) {
        let address = endpoint.to_string();
        let name = match &answer {
            Ok(status) => status.header.as_ref().map(|header| header.node.clone()),
            Err(_) => {
                let member = members.iter().find(|member| member.client_address == address);
                member.map(|member| member.name.clone())
            }
        }
        .unwrap_or_default();
        // Two endpoints may lead to one node.
        if name.is_empty() || names.insert(name.clone()) {
            asked.push(Asked { name, address, answer });
        }
    }
    let others: Vec<&v1::Member> = members.iter().filter(|member| !names.contains(&member.name)).collect();
    let answers = join_all(others.iter().map(|member| ask_member(client, member))).await;
    asked.extend(others.iter().zip(answers).map(|(member, answer)| Asked {
        name: member.name.clone(),
        address: member.client_address.clone(),
        answer,
    }));
    // An endpoint without a name that failed is most likely a member that is shown under its own address; which of
    // them can't be known, so both stay. By name, the nameless last.
    asked.sort_by(|a, b| (a.name.is_empty(), &a.name).cmp(&(b.name.is_empty(), &b.name)));
    asked
}

/// A client of that node alone, which says at once that it can't.
fn alone(client: &Client, endpoint: &Endpoint) -> Client {
    let options = Options {
        unavailable_patience: Duration::ZERO,
        unreachable_patience: Duration::ZERO,
        ..client.options().clone()
    };
    Client::new(endpoint.clone().into(), options)
}

async fn ask(client: &Client, endpoint: &Endpoint) -> Result<v1::GetNodeStatusResponse, Error> {
    alone(client, endpoint).node_status().await
}

async fn ask_member(client: &Client, member: &v1::Member) -> Result<v1::GetNodeStatusResponse, Error> {
    match member.client_address.parse::<Endpoint>() {
        Ok(endpoint) => ask(client, &endpoint).await,
        Err(problem) => Err(Error::Unreachable {
            endpoint: member.client_address.clone(),
            problem: problem.to_string(),
            outcome: None,
        }),
    }
}

/// The members as the first of the nodes that answered knows them.
async fn known_members<T>(client: &Client, endpoints: &[Endpoint], answers: &[Result<T, Error>]) -> Vec<v1::Member> {
    for (endpoint, answer) in endpoints.iter().zip(answers) {
        if answer.is_err() {
            continue;
        }
        match alone(client, endpoint).members().await {
            Ok(response) if !response.members.is_empty() => return response.members,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a node does not list the members"),
        }
    }
    Vec::new()
}

fn table(asked: &[Asked], wide: bool) -> Table {
    let mut headings = vec![
        "NODE",
        "ADDRESS",
        "ROLE",
        "LEADER",
        "TERM",
        "QUORUM",
        "LEASE CLOCK",
        "REVISION",
    ];
    if wide {
        headings.extend(["LOG", "APPLIED", "VERSION", "UPTIME", "CLUSTER"]);
    }
    let columns = headings.len();
    if asked.iter().any(|node| node.answer.is_err()) {
        headings.push("PROBLEM");
    }
    let mut table = Table::new(headings);
    for node in asked {
        let name = if node.name.is_empty() { "-" } else { &node.name };
        let mut cells = vec![name.to_owned(), node.address.clone()];
        match &node.answer {
            Ok(status) => cells.extend(row(status, wide)),
            Err(error) => {
                cells.push("unreachable".into());
                cells.resize(columns, "-".into());
                cells.push(short(error));
            }
        }
        table.row(cells);
    }
    table
}

fn row(status: &v1::GetNodeStatusResponse, wide: bool) -> Vec<String> {
    let header = status.header.clone().unwrap_or_default();
    let dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let quorum = match status.since_quorum.and_then(span_from_proto) {
        Some(since) => format!("{} ago", spans::age(since)),
        None => "never".into(),
    };
    let clock = if status.lease_clock_running {
        "running"
    } else {
        "stands still"
    };
    let mut cells = vec![
        dash(&status.role),
        dash(&status.leader),
        header.term.to_string(),
        quorum,
        clock.to_owned(),
        header.revision.to_string(),
    ];
    if wide {
        cells.extend([
            status.log_index.to_string(),
            status.applied_index.to_string(),
            dash(&status.version),
            status
                .uptime
                .and_then(span_from_proto)
                .map_or_else(|| "-".into(), spans::age),
            header.cluster_id,
        ]);
    }
    cells
}

/// Why a node can't be reached, without saying again where it is.
fn short(error: &Error) -> String {
    match error {
        Error::Unreachable { problem, .. } | Error::Broken { problem, .. } => problem.clone(),
        Error::NoAnswer { waited, .. } => format!("no answer within {}", spans::age(*waited)),
        other => other.to_string(),
    }
}

/// What a node answered, in the API's JSON, with the address that was asked and, where it did not answer, why.
fn object(node: &Asked) -> Result<String, Failure> {
    let status = match &node.answer {
        Ok(status) => status.clone(),
        Err(_) => v1::GetNodeStatusResponse {
            header: Some(v1::Header {
                node: node.name.clone(),
                ..Default::default()
            }),
            ..Default::default()
        },
    };
    let mut object = json::value("GetNodeStatusResponse", &status).map_err(Failure::Failed)?;
    let error = node.answer.as_ref().err().map(ErrorObject::of_call);
    let error = serde_json::to_value(error).map_err(|error| Failure::Failed(error.to_string()))?;
    if let Some(fields) = object.as_object_mut() {
        fields.insert("address".into(), node.address.clone().into());
        fields.insert("error".into(), error);
    }
    Ok(object.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached() -> Asked {
        Asked {
            name: "n1".into(),
            address: "10.0.0.1:7400".into(),
            answer: Ok(v1::GetNodeStatusResponse {
                header: Some(v1::Header {
                    node: "n1".into(),
                    term: 3,
                    revision: 42,
                    ..Default::default()
                }),
                role: "leader".into(),
                leader: "n1".into(),
                since_quorum: Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 80_000_000,
                }),
                lease_clock_running: true,
                ..Default::default()
            }),
        }
    }

    fn unreached() -> Asked {
        Asked {
            name: "n2".into(),
            address: "10.0.0.2:7400".into(),
            answer: Err(Error::Unreachable {
                endpoint: "10.0.0.2:7400".into(),
                problem: "Connection refused (os error 111)".into(),
                outcome: None,
            }),
        }
    }

    #[test]
    fn a_node_that_cannot_be_reached_is_shown_as_such() {
        let lines = table(&[reached(), unreached()], false).lines();
        assert_eq!(
            lines,
            [
                "NODE  ADDRESS        ROLE         LEADER  TERM  QUORUM    LEASE CLOCK  REVISION  PROBLEM",
                "n1    10.0.0.1:7400  leader       n1      3     80ms ago  running      42",
                "n2    10.0.0.2:7400  unreachable  -       -     -         -            -         Connection refused (os error 111)",
            ]
        );
    }

    #[test]
    fn a_script_sees_the_same_keys_for_each_node() {
        let keys = |node: &Asked| -> Vec<String> {
            let text = object(node).expect("describable");
            let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let object = value.as_object().expect("an object");
            object.keys().cloned().collect()
        };
        assert_eq!(keys(&reached()), keys(&unreached()));
        let text = object(&unreached()).expect("describable");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["error"]["code"], "UNAVAILABLE");
        assert_eq!(value["header"]["node"], "n2");
    }
}
