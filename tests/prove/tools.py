"""The command line, the embedded mode, `roster run`, clients in other languages, and compose."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from . import go_client, readme
from .checks import Failed, Skipped, check, equal, poll, require
from .client import Node, key, listed, of, record, register
from .cluster import Process, environment, free_port
from .stubs import pb

RUN_TTL_S = 15.0
COMPOSE_S = 600

# What `roster run` starts here: it binds its port when `go` appears, ends with 7 when `stop` does, dies by SIGABRT
# when `crash` does, and says when it was asked to end.
CHILD = r"""
import os, pathlib, signal, socket, sys, time
port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
def asked(*_):
    (folder / "terminated").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, asked)
(folder / "pid.new").write_text(str(os.getpid()))
(folder / "pid.new").rename(folder / "pid")
listener = None
while True:
    if listener is None and (folder / "go").exists():
        listener = socket.create_server(("127.0.0.1", port))
    if (folder / "stop").exists():
        sys.exit(7)
    if (folder / "crash").exists():
        os.abort()
    time.sleep(0.02)
"""


def roster(world, endpoints: str, *words, within_s: float = 20.0) -> subprocess.CompletedProcess:
    """Runs the command line to its end."""
    return subprocess.run(
        [world.binary, *words],
        env=environment(ROSTER_ENDPOINTS=endpoints),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )


class Dev:
    """`roster dev --nodes 3`."""

    def __init__(self, world):
        self.process = world.process("dev")
        self.process.spawn([world.binary, "dev", "--nodes", "3", "--data-dir", world.folder("dev")])

        def printed():
            if not self.process.alive:
                raise Failed(f"roster dev exited: {self.process.output()[-400:]!r}")
            return self._addresses()

        self.addresses = poll("roster dev prints three endpoints", printed, 30)
        self.nodes = [Node(f"dev{i}", address) for i, address in enumerate(self.addresses, 1)]
        for node in self.nodes:
            poll(f"{node.address} answers", lambda n=node: self._answers(n), 30)

    def _addresses(self) -> list | None:
        found = list(dict.fromkeys(re.findall(r"127\.0\.0\.1:74\d\d", self.process.output())))
        return found[:3] if len(found) >= 3 else None

    @staticmethod
    def _answers(node) -> bool:
        import grpc

        try:
            listed(node, timeout=2)
        except grpc.RpcError:
            return False
        return True

    @property
    def endpoints(self) -> str:
        """As the command line takes them."""
        return ",".join(self.addresses)

    def close(self) -> None:
        """Ends it."""
        for node in self.nodes:
            node.close()
        self.process.kill()


def dev(world) -> Dev:
    """The one that the checks share."""
    return world.shared("dev", lambda: Dev(world))


@check("dev-three-nodes")
def dev_three_nodes(world):
    """`roster dev --nodes 3` is a full cluster in one process."""
    cluster = dev(world)
    n1, n2, n3 = cluster.nodes
    answer = register(n1, record("dev", "a"), permanent=True)
    for node in (n2, n3):
        revision, records = listed(node, of("dev"))
        require(revision >= answer.header.revision and len(records) == 1, f"{node.address} does not list it")
    members = n2.cluster.ListMembers(pb.ListMembersRequest()).members
    equal(len(members), 3, "members")
    equal(len({node.status().header.node for node in cluster.nodes}), 3, "nodes that answer on the three ports")
    done = roster(world, cluster.endpoints, "cluster", "status")
    equal(done.returncode, 0, f"exit code of `roster cluster status` ({done.stderr.strip()})")
    for member in members:
        require(member.name in done.stdout, f"`roster cluster status` does not show {member.name}: {done.stdout}")
    return f"3 members on {cluster.endpoints}"


@check("command-line")
def command_line(world):
    """Register, list, watch, update, wait, resolve, deregister; JSON as specified; exit codes; a closed pipe."""
    cluster = dev(world)

    def done(code: int, *words, contains: str = ""):
        result = roster(world, cluster.endpoints, *words)
        shown = f"`roster {' '.join(words)}`: {result.stdout.strip()[-150:]!r} {result.stderr.strip()[-150:]!r}"
        equal(result.returncode, code, f"exit code of {shown}")
        require(contains in result.stdout, f"{shown} lacks {contains!r}")
        return result

    done(0, "register", "cli", "--id", "a", "--address", "10.1.2.3", "--port", "http=8080/tcp", "--permanent",
         "--tag", "x", "--meta", "k=v")
    done(0, "list", "cli", contains="10.1.2.3")
    done(0, "list", "cli", "-o", "wide")
    answer = json.loads(done(0, "list", "cli", "-o", "json").stdout)
    instance = answer["instances"][0]
    equal((instance["key"]["id"], instance["status"], instance["weight"]), ("a", "UP", 100), "JSON of a record")
    equal(type(answer["header"]["revision"]), str, "type of a 64-bit number in JSON")
    require("leaseId" in instance and "zone" in instance, "a field with its default is absent from the JSON")
    done(0, "get", "cli/a", contains="a")
    done(0, "update", "cli", "a", "--weight", "7", "--tag", "+y", "--tag", "-x", "--meta", "k-")
    updated = json.loads(done(0, "get", "cli", "a", "-o", "json").stdout)["instance"]
    equal((updated["weight"], updated["tags"], updated["metadata"]), (7, ["y"], {}), "the updated record")
    done(0, "resolve", "cli", contains="10.1.2.3:8080")
    done(0, "wait", "cli", "--count", "1")
    done(0, "services", contains="cli")
    done(0, "namespaces", contains="default")
    done(0, "health")
    done(0, "health", "--ready")
    done(0, "deregister", "cli", "a")
    done(1, "get", "cli", "a")
    done(2, "no-such-command")
    done(2, "register", "cli", "--ttl", "soon")
    refused = roster(world, cluster.endpoints, "get", "cli", "a", "-o", "json")
    error = json.loads(refused.stderr)
    equal((error["code"], error["reason"]), ("NOT_FOUND", "INSTANCE_NOT_FOUND"), "the error as JSON")
    require({"message", "outcome", "details"} <= error.keys(), f"the error object has {sorted(error)}")
    away = roster(world, f"127.0.0.1:{free_port()}", "list", "cli", "--timeout", "3s")
    equal(away.returncode, 3, f"exit code without a connection ({away.stderr.strip()})")
    closed_pipe(world, cluster)
    return "15 commands, exit codes 0, 1, 2, 3"


def closed_pipe(world, cluster) -> None:
    """A reader that goes away ends `roster watch` in silence, at the next thing that it would print."""
    register(cluster.nodes[0], record("pipe", "0"), permanent=True)
    pipe = subprocess.Popen(
        ["sh", "-c", f"'{world.binary}' watch pipe | head -n 1 >/dev/null"],
        env=environment(ROSTER_ENDPOINTS=cluster.endpoints),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    count = iter(range(1, 10_000))

    def ended():
        register(cluster.nodes[0], record("pipe", f"{next(count)}"), permanent=True)
        return pipe.poll() is not None

    try:
        poll("`roster watch | head -n 1` ends", ended, 10)
        equal(pipe.stderr.read(), "", "what a closed pipe is answered with")
    finally:
        if pipe.poll() is None:
            os.killpg(pipe.pid, signal.SIGKILL)


@check("readme-python-client")
def readme_client(world):
    """The README's Python client, as it is printed, against the cluster that the README starts."""
    page = world.checkout / "README.md"
    require(page.exists(), "there is no README.md")
    folder = world.folder("readme")
    program = readme.prepare(page.read_text(), world.checkout, folder)
    cluster = dev(world)
    done = subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env=readme.environment(folder, ROSTER_ENDPOINTS=cluster.endpoints),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    require(done.returncode == 0, f"it exits with {done.returncode}: {done.stderr.strip()[-300:]}")
    require(done.stdout.strip(), "it prints nothing")
    lines = [line for line in readme.python_client(page.read_text()).splitlines() if line.strip()]
    return f"{len(lines)} lines; it printed: {done.stdout.strip().splitlines()[-1]}"


@check("dev-ends-cleanly")
def dev_ends(world):
    """SIGINT, as Ctrl-C sends it, ends `roster dev` with 0."""
    cluster = dev(world)
    begun = time.monotonic()
    cluster.process.signal(signal.SIGINT)
    code = cluster.process.wait(15)
    took = time.monotonic() - begun
    output = cluster.process.output()
    world.forget("dev")
    equal(code, 0, f"exit code ({output[-200:]!r})")
    require("panicked at" not in output, "it panicked")
    return f"exit 0 after {took:.2f} s"


class Run:
    """`roster run` with the child above."""

    def __init__(self, world, endpoints: str, name: str, *flags):
        self.folder = world.folder(f"run-{name}")
        self.service, self.port = f"run-{name}", free_port()
        child = self.folder / "child.py"
        child.write_text(CHILD)
        self.process: Process = world.process(f"run-{name}")
        self.process.spawn(
            [world.binary, "run", self.service, "--id", "r", "--address", "127.0.0.1", "--port", f"http={self.port}"]
            + [*flags, "--", sys.executable, child, str(self.port), self.folder],
            environment(ROSTER_ENDPOINTS=endpoints),
        )

    def say(self, word: str) -> None:
        """Tells the child."""
        (self.folder / word).touch()

    def child(self, within_s: float = 15.0) -> int:
        """The child's process id, once it runs."""
        file = self.folder / "pid"
        return int(poll("the child runs", lambda: file.exists() and file.read_text(), within_s))

    def record(self, node):
        """Its record; None if the registry has none."""
        return listed(node, of(self.service))[1].get(("default", self.service, "r"))

    def registered_again(self, node, held) -> float:
        """Waits until it has another lease than that record's; returns how long that took."""
        begun = time.monotonic()

        def again():
            record = self.record(node)
            return record is not None and record.lease_id != held.lease_id

        poll("it is registered again", again, RUN_TTL_S)
        return time.monotonic() - begun

    def status(self, node) -> str:
        """What the registry says of it: a status, or `absent`."""
        instance = self.record(node)
        return "absent" if instance is None else pb.Instance.Status.Name(instance.status)

    def becomes(self, node, status: str, within_s: float = 10.0) -> float:
        """Waits for a status; returns how long that took."""
        begun = time.monotonic()
        poll(f"{self.service} becomes {status} ({self.process.output()[-200:]!r})",
             lambda: self.status(node) == status, within_s)
        return time.monotonic() - begun

    def up(self, node) -> "Run":
        """Brings it from STARTING to UP."""
        self.becomes(node, "STARTING")
        self.say("go")
        self.becomes(node, "UP")
        return self

    def gone(self, node, code: int) -> float:
        """It must end with that code and have left the registry at once, not by its TTL."""
        begun = time.monotonic()
        equal(self.process.wait(10), code, f"exit code ({self.process.output()[-200:]!r})")
        self.becomes(node, "absent", 2.0)
        return time.monotonic() - begun

    def end(self) -> None:
        """Kills what is left, the child too."""
        self.process.kill()
        file = self.folder / "pid"
        if file.exists():
            try:
                os.kill(int(file.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass


def with_run(world, name: str, story, *flags, endpoints=None):
    """Tells one story of `roster run` on the healthy cluster."""
    cluster = world.healthy()
    run = Run(world, endpoints or cluster.endpoints, name, *flags)
    try:
        return story(run, cluster.nodes[2])
    finally:
        run.end()


@check("run-child-ends")
def run_child_ends(world):
    """STARTING, UP when its port accepts, gone when the child ends; `roster run` exits as the child does."""

    def story(run, node):
        run.up(node)
        run.say("stop")
        return f"STARTING, UP, gone {run.gone(node, 7) * 1000:.0f} ms after exit 7"

    return with_run(world, "ends", story)


@check("run-child-crashes")
def run_child_crashes(world):
    """A child that dies by SIGABRT is gone at once."""

    def story(run, node):
        run.up(node)
        run.say("crash")
        return f"gone after {run.gone(node, 128 + signal.SIGABRT) * 1000:.0f} ms, exit 134"

    return with_run(world, "crashes", story)


@check("run-child-is-killed")
def run_child_killed(world):
    """A child that is killed with -9 is gone at once."""

    def story(run, node):
        run.up(node)
        os.kill(run.child(), signal.SIGKILL)
        return f"gone after {run.gone(node, 128 + signal.SIGKILL) * 1000:.0f} ms, exit 137"

    return with_run(world, "killed", story)


@check("run-passes-signals-on")
def run_signal(world):
    """SIGTERM reaches the child, which ends as it likes; then the instance is gone."""

    def story(run, node):
        run.up(node)
        run.process.signal(signal.SIGTERM)
        took = run.gone(node, 0)
        require((run.folder / "terminated").exists(), "the child was not asked to end")
        return f"the child was asked, exit 0, gone after {took * 1000:.0f} ms"

    return with_run(world, "signal", story)


@check("run-itself-is-killed")
def run_killed(world):
    """`roster run` killed with -9 keeps nobody's lease alive: its instance ends with its TTL."""

    def story(run, node):
        run.up(node)
        run.process.kill()
        took = run.becomes(node, "absent", 5.0)
        # Renewed at some moment before the kill: gone by TTL + 1 s after it.
        require(took <= 3.5, f"gone only after {took:.2f} s")
        return f"gone after {took:.2f} s with a TTL of 2 s"

    return with_run(world, "itself", story, "--ttl", "2s")


@check("run-registers-again-after-a-lost-lease")
def run_lost_lease(world):
    """A lease that is revoked under it: it registers again."""

    def story(run, node):
        run.up(node)
        held = run.record(node)
        node.leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=held.lease_id))
        took = run.registered_again(node, held)
        run.becomes(node, "UP")
        run.say("stop")
        run.gone(node, 7)
        return f"registered again after {took:.2f} s"

    return with_run(world, "lost", story, "--ttl", "3s")


@check("run-stands-still-for-longer-than-its-ttl")
def run_stopped(world):
    """`roster run` stopped until its lease has ended: the instance goes, and comes back under a new lease when it wakes."""

    def story(run, node):
        run.up(node)
        held = run.record(node)
        run.process.signal(signal.SIGSTOP)
        try:
            went = run.becomes(node, "absent", 5.0)
            lost = listed(node, of(run.service))[0]
        finally:
            run.process.signal(signal.SIGCONT)
        took = run.registered_again(node, held)
        back = run.record(node)
        require(back.create_revision > lost, f"created at {back.create_revision}, and it was gone at {lost}")
        run.becomes(node, "UP")
        run.say("stop")
        run.gone(node, 7)
        return f"gone {went:.2f} s after it stood still, registered again {took:.2f} s after it woke"

    return with_run(world, "stopped", story, "--ttl", "3s")


@check("run-with-the-registry-away")
def run_away(world):
    """The child starts though the registry is away, and is registered once it is there; `--require` refuses."""
    cluster = world.cluster("away")
    run = Run(world, cluster.endpoints, "away")
    require_run = Run(world, cluster.endpoints, "require", "--require", "--timeout", "3s")
    try:
        run.child()
        run.say("go")
        code = require_run.process.wait(20)
        require(code != 0, "with --require it exits 0 though there is no registry")
        require(not (require_run.folder / "pid").exists(), "with --require it started its child")
        cluster.start()
        took = run.becomes(cluster.nodes[1], "UP", 15)
        run.say("stop")
        run.gone(cluster.nodes[1], 7)
        return f"registered {took:.2f} s after the cluster was ready; --require exits {code}"
    finally:
        run.end()
        require_run.end()
        cluster.close()


@check("go-client", limit_s=240)
def go(world):
    """A Go program, built from generated stubs with Debian's packages: registers, keeps alive, lists, watches."""
    program = go_client.build(world.checkout, world.folder("go"))
    process = world.process("go-client")
    process.spawn([program, next(iter(world.healthy())).client_address])
    code = process.wait(60)
    require(code == 0, f"exit code {code}: {process.output().strip()[-300:]}")
    return "; ".join(process.output().strip().splitlines())


@check("http-servers-under-run")
def http_servers(world):
    """Three real HTTP servers under `roster run`: resolved, each reached; one killed with -9 vanishes."""
    cluster = world.healthy()
    runs = []
    node = cluster.nodes[0]
    try:
        for number in range(3):
            port = free_port()
            process = world.process(f"http{number}")
            process.spawn(
                [world.binary, "run", "web", "--id", f"w{number}", "--address", "127.0.0.1", "--port", f"http={port}"]
                + ["--ttl", "2s", "--", sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
                environment(ROSTER_ENDPOINTS=cluster.endpoints),
                cwd=world.root,
            )
            runs.append((process, port))
        poll("all three are UP", lambda: len(listed(node, of("web", serving=True))[1]) == 3, 15)
        resolved = roster(world, cluster.endpoints, "resolve", "web").stdout.split()
        equal(sorted(resolved), sorted(f"127.0.0.1:{port}" for _, port in runs), "`roster resolve`")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for address in resolved:
            with opener.open(f"http://{address}/", timeout=5) as response:
                equal(response.status, 200, f"GET http://{address}/")
        runs[0][0].kill()
        begun = time.monotonic()
        poll("the killed one vanishes", lambda: len(listed(node, of("web"))[1]) == 2, 5)
        took = time.monotonic() - begun
        gone = key("web", "w0").id
        require(all(name[2] != gone for name in listed(node, of("web"))[1]), "the wrong one vanished")
        return f"3 servers reached through `roster resolve`, the killed one vanished after {took:.2f} s"
    finally:
        for process, port in runs:
            process.signal(signal.SIGTERM)
        for process, port in runs:
            if process.alive:
                try:
                    process.wait(10)
                except Failed:
                    process.kill()
        end_listener(runs[0][1] if runs else 0)


def end_listener(port: int) -> None:
    """Ends the server that a killed `roster run` has left behind: the process of ours that listens on that port."""
    from .links import owns_socket

    with open("/proc/net/tcp", encoding="ascii") as table:
        inodes = {
            columns[9]
            for columns in (line.split() for line in table.readlines()[1:])
            if columns[3] == "0A" and columns[1].endswith(f":{port:04X}")
        }
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and any(owns_socket(int(entry.name), inode) for inode in inodes):
            if str(port) in (entry / "cmdline").read_text(errors="replace"):
                os.kill(int(entry.name), signal.SIGKILL)


@check("compose", limit_s=COMPOSE_S + 30)
def compose(world):
    """The compose cluster: up, `docker kill` of the leader, lists through each surviving port, `down` and `up`."""
    script = world.checkout / "scripts" / "compose-test"
    if not script.exists():
        raise Skipped("no scripts/compose-test")
    process = world.process("compose")
    process.spawn([script], {**environment(), "ROSTER_BIN": world.binary}, cwd=world.checkout)
    code = process.wait(COMPOSE_S)
    lines = process.output().strip().splitlines() or [""]
    if code == 77:
        raise Skipped(lines[-1])
    require(code == 0, f"exit code {code}: {' / '.join(lines[-3:])}")
    return lines[-1]
