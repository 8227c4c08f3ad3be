//! What a call costs with nothing behind it: a bare gRPC server in a process of its own, called as the nodes are.
//!
//! The server has tonic's own settings, and one method, which answers with as many bytes as it is asked for. It is the
//! floor of every unary call: what Roster takes beyond it is Roster's.

use std::{
    convert::Infallible,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use roster::cli::bench::measure::{Caller, Live, Measure, Processes, Report, Schedule, Tally, Trouble, client};
use serde_json::{Map, json};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Context, Poll, Service, http},
    server::{NamedService, UnaryService},
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

use crate::problem::{Problem, While as _};

/// Clients that share a connection, as in the other workloads.
const CLIENTS_PER_CONNECTION: usize = 16;
const METHOD: &str = "/bench.Echo/Call";
/// What tonic lets a client take is 4 MiB, tag and length included.
const ANSWER_MAX_BYTES: u32 = (4 << 20) - 16;

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Question {
    #[prost(uint32, tag = "1")]
    answer_bytes: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(bytes = "bytes", tag = "1")]
    filling: prost::bytes::Bytes,
}

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
    /// How many bytes each answer has
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(ANSWER_MAX_BYTES)))]
    answer_bytes: u32,
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

struct Calling {
    client: tonic::client::Grpc<Channel>,
    question: Question,
}

impl Calling {
    async fn ask(&mut self) -> Result<Answer, Status> {
        let ready = self.client.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let method = http::uri::PathAndQuery::from_static(METHOD);
        let codec = ProstCodec::<Question, Answer>::default();
        let answer = self.client.unary(Request::new(self.question), method, codec).await?;
        Ok(answer.into_inner())
    }
}

impl Caller for Calling {
    async fn call(&mut self) -> Result<u64, Trouble> {
        let answer = self.ask().await;
        let answer = answer.map_err(|status| Trouble::new("FAILED", status.message()))?;
        if answer.filling.len() != self.question.answer_bytes as usize {
            return Err(Trouble::new("INCOMPLETE", "another answer than was asked for"));
        }
        Ok(1)
    }
}

/// The server's one method.
#[derive(Clone)]
struct Answering {
    filling: prost::bytes::Bytes,
}

impl Answering {
    fn new() -> Self {
        let filling = vec![b'x'; ANSWER_MAX_BYTES as usize].into();
        Self { filling }
    }
}

impl NamedService for Answering {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<Question> for Answering {
    type Response = Answer;
    type Future = std::future::Ready<Result<Response<Answer>, Status>>;

    fn call(&mut self, question: Request<Question>) -> Self::Future {
        let length = question.into_inner().answer_bytes as usize;
        let filling = self.filling.slice(..length.min(self.filling.len()));
        std::future::ready(Ok(Response::new(Answer { filling })))
    }
}

impl Service<http::Request<Body>> for Answering {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Answer, Question>::default());
            Ok(grpc.unary(method, request).await)
        })
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
            let calling = Calling {
                client: tonic::client::Grpc::new(channels[number % channels.len()].clone()),
                question: Question {
                    answer_bytes: self.answer_bytes,
                },
            };
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
        parameters.insert("answer_bytes".into(), json!(self.answer_bytes));
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
        // When the other end is gone, so is the reason to be.
        let orphaned = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().for_each(drop));
        // The builder's own option counts only for listeners that it opens itself.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let served = Server::builder()
            .add_service(Answering::new())
            .serve_with_incoming(incoming);
        tokio::select! {
            served = served => served.when("the server that does nothing"),
            _ = orphaned => Ok(()),
        }
    }
}
