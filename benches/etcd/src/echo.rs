//! What a call costs with nothing behind it: a bare gRPC server in a process of its own, called as the nodes are.
//!
//! The server is grpc.health.v1 as tonic brings it, with tonic's own settings. It is the floor of every unary call: what
//! Roster takes beyond it is Roster's.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use roster::cli::bench::measure::{Caller, Live, Measure, Processes, Report, Schedule, Tally, Trouble, client};
use serde_json::{Map, json};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::problem::{Problem, While as _};

/// Clients that share a connection, as in the other workloads.
const CLIENTS_PER_CONNECTION: usize = 16;

/// Calls a server that does nothing, and prints what `roster bench -o json` prints
#[derive(Args, Debug)]
pub(crate) struct EchoArgs {
    /// Clients with one call at a time each
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How long is measured, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How long it runs before that, in seconds
    #[arg(long, default_value_t = 2)]
    warmup: u64,
}

/// The server that does nothing: prints its port, and ends with its standard input
#[derive(Args, Debug)]
pub(crate) struct EchoServerArgs {}

/// Its process, which ends with this.
struct Echo {
    process: Child,
    port: String,
}

impl Echo {
    fn start() -> Result<Self, Problem> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("echo-server").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().when("the server that does nothing")?;
        let mut port = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut port).when("its port")?;
        }
        let port = port.trim().to_owned();
        Ok(Self { process, port })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

struct Calling(HealthClient<Channel>);

impl Caller for Calling {
    async fn call(&mut self) -> Result<u64, Trouble> {
        let answered = self.0.check(HealthCheckRequest::default()).await;
        answered.map_err(|status| Trouble::new("FAILED", status.message()))?;
        Ok(1)
    }
}

impl EchoArgs {
    pub(crate) async fn run(self) -> Result<(), Problem> {
        let echo = Echo::start()?;
        let processes = Processes::new(&[echo.process.id()]).when("the server that does nothing")?;
        let uri = Endpoint::from_shared(format!("http://127.0.0.1:{}", echo.port)).when("its address")?;
        let mut channels = Vec::new();
        for _ in 0..self.clients.div_ceil(CLIENTS_PER_CONNECTION) {
            channels.push(uri.clone().tcp_nodelay(true).connect().await.when("connect")?);
        }
        let seconds = Duration::from_secs;
        let schedule = Schedule::begin(seconds(self.warmup), seconds(self.seconds));
        let mut tasks = JoinSet::new();
        for number in 0..self.clients {
            let calling = Calling(HealthClient::new(channels[number % channels.len()].clone()));
            tasks.spawn(client(calling, schedule.clone(), Arc::<Live>::default()));
        }
        tokio::time::sleep_until(schedule.measured_from().into()).await;
        let begin = Some(processes.used());
        let mut called = Vec::with_capacity(self.clients);
        while let Some(task) = tasks.join_next().await {
            called.push(task.when("a client")?.measured);
        }
        let mut parameters = Map::new();
        parameters.insert("clients".into(), json!(self.clients));
        parameters.insert("connections".into(), json!(channels.len()));
        let report = Report {
            workload: "echo",
            parameters,
            interrupted: false,
            main: Measure {
                name: "call",
                tally: Tally::of_all(called),
                over: schedule.measured(),
            },
            others: Vec::new(),
            facts: Vec::new(),
            server: processes.used_since(begin),
            broken: None,
        };
        println!("{}", report.object());
        Ok(())
    }
}

impl EchoServerArgs {
    pub(crate) async fn run(self) -> Result<(), Problem> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        std::io::stdout().flush()?;
        let (_reporter, health) = tonic_health::server::health_reporter();
        // When the other end is gone, so is the reason to be.
        let orphaned = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().for_each(drop));
        let served = Server::builder()
            .tcp_nodelay(true)
            .add_service(health)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::select! {
            served = served => served.when("the server that does nothing"),
            _ = orphaned => Ok(()),
        }
    }
}
