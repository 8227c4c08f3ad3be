//! The compose project: the commands that start, harm and end it.

use std::{
    ffi::OsString,
    io,
    net::TcpListener,
    path::{Path, PathBuf},
};

use crate::processes::shell;

/// Where a node's container keeps its data.
const DATA: &str = "/var/lib/roster";
/// A container is given so long to stop: longer than a node needs.
const STOP_S: &str = "15";
/// The volume that keeps the data of a node that is wiped.
const SAVED: &str = "saved";

/// One compose project with a name and ports of its own. Cheap to clone; what it does blocks.
#[derive(Clone, Debug)]
pub(super) struct Project {
    name: String,
    file: PathBuf,
    image: String,
    /// `docker compose` where it is, else `docker-compose`.
    command: Vec<&'static str>,
    ports: Vec<u16>,
}

impl Project {
    /// Of the nodes n1, n2 …, whose client ports are published on free ports of this machine.
    ///
    /// # Errors
    /// Neither `docker compose` nor `docker-compose` works here; there is no such image; or there is a project of that
    /// name already, which is somebody's and not to be harmed.
    pub(super) fn new(name: String, file: &Path, image: &str, nodes: usize) -> io::Result<Self> {
        let command = if shell::run("docker", &["compose", "version"]).is_ok() {
            vec!["docker", "compose"]
        } else {
            shell::run("docker-compose", &["version"])?;
            vec!["docker-compose"]
        };
        shell::run("docker", &["image", "inspect", image])?;
        let of_project = format!("label=com.docker.compose.project={name}");
        let containers = shell::run("docker", &["ps", "-aq", "--filter", &of_project])?;
        let volumes = shell::run("docker", &["volume", "ls", "-q", "--filter", &of_project])?;
        if !containers.trim().is_empty() || !volumes.trim().is_empty() {
            return Err(io::Error::other(format!("there is a compose project {name} already")));
        }
        Ok(Self {
            name,
            file: file.to_owned(),
            image: image.to_owned(),
            command,
            ports: free_ports(nodes)?,
        })
    }

    /// The port of this machine at which clients reach a node.
    pub(super) fn port(&self, node: usize) -> u16 {
        self.ports[node]
    }

    /// Creates what is missing and starts everything.
    pub(super) fn up(&self) -> io::Result<()> {
        self.compose(&["up", "-d", "--no-build"]).map(drop)
    }

    /// Creates one node's container and volume without starting it.
    pub(super) fn create(&self, node: usize) -> io::Result<()> {
        self.compose(&["up", "--no-build", "--no-start", "--no-deps", &name(node)])
            .map(drop)
    }

    /// Stops and removes the containers and the network; with `volumes`, the data too.
    pub(super) fn down(&self, volumes: bool) -> io::Result<()> {
        let mut arguments = vec!["down", "--timeout", STOP_S];
        if volumes {
            arguments.push("--volumes");
            shell::run("docker", &["volume", "rm", "--force", &self.volume(SAVED)])?;
        }
        self.compose(&arguments).map(drop)
    }

    /// SIGTERM, and waits.
    pub(super) fn stop(&self, nodes: &[usize]) -> io::Result<()> {
        let names: Vec<String> = nodes.iter().map(|&node| name(node)).collect();
        let mut arguments = vec!["stop", "--timeout", STOP_S];
        arguments.extend(names.iter().map(String::as_str));
        self.compose(&arguments).map(drop)
    }

    /// Removes a node's container and its volume: its data are gone.
    pub(super) fn wipe(&self, node: usize) -> io::Result<()> {
        self.compose(&["rm", "--force", "--stop", &name(node)])?;
        shell::run("docker", &["volume", "rm", &self.volume(&name(node))]).map(drop)
    }

    /// Copies a stopped node's volume to another one, with owners and times.
    pub(super) fn save(&self, node: usize) -> io::Result<()> {
        self.copy(&self.volume(&name(node)), &self.volume(SAVED))
    }

    /// Copies it back, into the empty volume of a node that was created, and forgets it.
    pub(super) fn restore(&self, node: usize) -> io::Result<()> {
        self.copy(&self.volume(SAVED), &self.volume(&name(node)))?;
        shell::run("docker", &["volume", "rm", &self.volume(SAVED)]).map(drop)
    }

    /// In a container, as root there: who owns what is the volume's to know, not this machine's.
    fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (format!("{from}:/from:ro"), format!("{to}:/to"));
        let container = ["run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "cp"];
        let copy = ["--volume", &from, "--volume", &to, &self.image, "-a", "/from/.", "/to/"];
        shell::run("docker", &[&container[..], &copy[..]].concat()).map(drop)
    }

    fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }

    /// SIGKILL.
    pub(super) fn kill(&self, node: usize) -> io::Result<()> {
        shell::run("docker", &["kill", &self.container(node)?]).map(drop)
    }

    /// Starts a container that was killed or stopped.
    pub(super) fn start(&self, node: usize) -> io::Result<()> {
        shell::run("docker", &["start", &self.container(node)?]).map(drop)
    }

    /// Freezes all processes of a container, or lets them go on.
    pub(super) fn pause(&self, node: usize, paused: bool) -> io::Result<()> {
        let verb = if paused { "pause" } else { "unpause" };
        shell::run("docker", &[verb, &self.container(node)?]).map(drop)
    }

    /// Takes a container off its network: no peer and no client reaches it.
    pub(super) fn disconnect(&self, node: usize) -> io::Result<()> {
        shell::run(
            "docker",
            &["network", "disconnect", &self.network(), &self.container(node)?],
        )
        .map(drop)
    }

    /// Puts it back, under the name by which the others know it; its address may be another.
    pub(super) fn connect(&self, node: usize) -> io::Result<()> {
        let (alias, container) = (name(node), self.container(node)?);
        let arguments = ["network", "connect", "--alias", &alias, &self.network(), &container];
        shell::run("docker", &arguments).map(drop)
    }

    /// How often a container was started again because it had ended, and what its last end was.
    pub(super) fn restarts(&self, node: usize) -> io::Result<(u32, i32)> {
        let format = "{{.RestartCount}} {{.State.ExitCode}}";
        let told = shell::run("docker", &["inspect", "--format", format, &self.container(node)?])?;
        let mut numbers = told.split_whitespace();
        let mut next = || numbers.next().unwrap_or_default();
        Ok((next().parse().unwrap_or(0), next().parse().unwrap_or(0)))
    }

    /// The last lines of a node's log.
    pub(super) fn log(&self, node: usize, lines: u32) -> io::Result<String> {
        let container = self.container(node)?;
        let script = format!("docker logs --tail {lines} {container} 2>&1");
        shell::run("sh", &["-c", &script])
    }

    /// Copies a stopped node's data directory to a folder that does not exist yet, with owners and times.
    pub(super) fn copy_out(&self, node: usize, to: &Path) -> io::Result<()> {
        let from = format!("{}:{DATA}", self.container(node)?);
        shell::run(
            "docker",
            &[OsString::from("cp"), "--archive".into(), from.into(), to.into()],
        )
        .map(drop)
    }

    fn network(&self) -> String {
        format!("{}_default", self.name)
    }

    /// Running or not.
    fn container(&self, node: usize) -> io::Result<String> {
        let filter = |label: &str, value: &str| format!("label=com.docker.compose.{label}={value}");
        let (project, service) = (filter("project", &self.name), filter("service", &name(node)));
        let found = shell::run("docker", &["ps", "-aq", "--filter", &project, "--filter", &service])?;
        let id = found.lines().next().map(str::to_owned);
        id.ok_or_else(|| io::Error::other(format!("{} has no container", name(node))))
    }

    fn compose(&self, arguments: &[&str]) -> io::Result<String> {
        let mut words: Vec<OsString> = vec![format!("ROSTER_IMAGE={}", self.image).into()];
        for (node, port) in self.ports.iter().enumerate() {
            words.push(format!("ROSTER_N{}_PORT={port}", node + 1).into());
        }
        words.extend(self.command.iter().map(OsString::from));
        words.extend(["--project-name".into(), OsString::from(&self.name), "--file".into()]);
        words.push(self.file.clone().into());
        words.extend(arguments.iter().map(OsString::from));
        shell::run("env", &words)
    }
}

/// A node's name, and its service's in the compose file.
pub(super) fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

/// Ports that were free a moment ago, each another.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0"));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}
