"""Real `roster server` processes: started, stopped, killed, paused and restarted.

Every process has its own data directory and log below the run's folder. Nothing here sleeps for a guess: what is
waited for is polled with a deadline.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import grpc

from .checks import Failed, equal, poll, require
from .client import Node, Refusal, everything, listed, record, refusal_of, register
from .links import Links
from .stubs import pb

START_S = 30.0
STOP_S = 15.0
# Below the ports that the kernel gives to outgoing connections: a port whose node is dead must not be taken by one.
PORTS = range(15_000, 30_000)
_given: set = set()


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on and that this run has not given out before."""
    for port in random.SystemRandom().sample(PORTS, 500):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise Failed("no free port")


def environment(**more) -> dict:
    """The environment of a process: ours without any ROSTER_ setting."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROSTER_")}
    return {**clean, "RUST_BACKTRACE": "1", **more}


class Process:
    """A process with its output in a file."""

    def __init__(self, log: Path):
        self.log = log
        self.popen: subprocess.Popen | None = None

    def spawn(self, command: list, env: dict | None = None, preexec=None, cwd=None) -> None:
        """Starts it; output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as out:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment() if env is None else env,
                start_new_session=True,
                preexec_fn=preexec,
                cwd=cwd,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs (or stands still)."""
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number: int) -> None:
        """Sends it a signal, if it still runs."""
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        if self.alive:
            self.signal(signal.SIGKILL)
            self.popen.wait(10)

    def wait(self, within_s: float) -> int:
        """Waits for its end and returns its exit code (negative: the signal that killed it)."""
        try:
            return self.popen.wait(within_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.log.stem} still runs after {within_s:g} s") from None

    def output(self) -> str:
        """Everything that it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Server(Process):
    """One node of a cluster."""

    def __init__(self, cluster: "Cluster", name: str):
        super().__init__(cluster.root / "logs" / f"{name}.log")
        self.cluster = cluster
        self.name = name
        self.data = cluster.root / name
        self.client_port = free_port()
        self.peer_port = free_port()
        self.advertised_port = free_port() if cluster.proxied else self.peer_port
        self.node: Node | None = None

    @property
    def client_address(self) -> str:
        """Where clients reach it."""
        return f"127.0.0.1:{self.client_port}"

    def command(self, **changes) -> list:
        """Its command line. `changes` replaces flags by name (`data_dir=…`); None leaves one out."""
        flags = {
            "name": self.name,
            "data_dir": self.data,
            "client_addr": self.client_address,
            "peer_addr": f"127.0.0.1:{self.peer_port}",
            "peer_advertise_addr": f"127.0.0.1:{self.advertised_port}" if self.cluster.proxied else None,
            "initial_cluster": self.cluster.initial_cluster,
            **changes,
        }
        command = [self.cluster.binary, "server"]
        for flag, value in flags.items():
            if value is True:
                command.append("--" + flag.replace("_", "-"))
            elif value is not None:
                command += ["--" + flag.replace("_", "-"), str(value)]
        return command

    def start(self, **changes) -> "Server":
        """Starts it, and connects to its client port."""
        self.spawn(self.command(**changes), environment(ROSTER_LOG=self.cluster.log_level))
        if self.node is None:
            self.node = Node(self.name, self.client_address)
        return self

    def fails_to_start(self, *words: str, within_s: float = 20.0, **changes) -> str:
        """Starts it, expects it to exit non-zero by itself and to name the cause: one of the words, in any case.
        Returns the line that does."""
        before = len(self.output())
        self.start(**changes)
        try:
            code = self.wait(within_s)
        finally:
            self.kill()
        text = self.output()[before:]
        require(code > 0, f"exited with {code} instead of an error: {text[-300:]!r}")
        require("panicked at" not in text, f"panicked: {text[-300:]!r}")
        for line in reversed(text.splitlines()):
            if any(word.lower() in line.lower() for word in words):
                return line.strip()
        raise Failed(f"exited with {code}, and none of {words} is in {text[-300:]!r}")

    def terminate(self) -> tuple:
        """SIGTERM; returns the exit code and how many seconds it took."""
        begun = time.monotonic()
        self.signal(signal.SIGTERM)
        code = self.wait(STOP_S)
        return code, time.monotonic() - begun

    def pause(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)


class Cluster:
    """Nodes n1, n2, … of one cluster."""

    def __init__(self, binary: str, root: Path, size: int = 3, proxied: bool = False, log_level: str = "info"):
        self.binary = binary
        self.root = root
        self.proxied = proxied
        self.log_level = log_level
        self.servers = {f"n{i}": Server(self, f"n{i}") for i in range(1, size + 1)}
        self.initial_cluster = ",".join(f"{s.name}=127.0.0.1:{s.advertised_port}" for s in self.servers.values())
        self.links: Links | None = None
        if proxied:
            self.links = Links(lambda: {s.name: s.pid for s in self.servers.values() if s.alive})
            for server in self.servers.values():
                self.links.add(server.name, server.advertised_port, server.peer_port)

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def __iter__(self):
        return iter(self.servers.values())

    @property
    def nodes(self) -> list:
        """The API of every node that was ever started."""
        return [server.node for server in self if server.node is not None]

    @property
    def endpoints(self) -> str:
        """All client addresses, as the command line takes them."""
        return ",".join(server.client_address for server in self)

    def others(self, name: str) -> list:
        """The servers but this one."""
        return [server for server in self if server.name != name]

    def start(self) -> "Cluster":
        """Starts all and waits until each would answer a linearizable read."""
        for server in self:
            server.start()
        self.wait_ready()
        return self

    def heal(self) -> None:
        """Everything that was cut, paused or killed runs again, and the cluster is ready."""
        if self.links:
            self.links.heal()
        for server in self:
            server.resume()
            if not server.alive:
                server.start()
        self.wait_ready()

    def wait_ready(self, names=None, within_s: float = START_S) -> float:
        """Waits until each of the nodes answers a linearizable read; returns how long that took."""
        begun = time.monotonic()
        for server in self:
            if names is None or server.name in names:
                poll(f"{server.name} answers a linearizable read", lambda s=server: self._reads(s), within_s)
        return time.monotonic() - begun

    @staticmethod
    def _reads(server: Server) -> bool:
        if not server.alive:
            raise Failed(f"{server.name} has exited: {server.output()[-300:]!r}")
        try:
            server.node.registry.ListNamespaces(pb.ListNamespacesRequest(page_size=1), timeout=2)
        except grpc.RpcError as error:
            raise Failed(str(refusal_of(error))) from None
        return True

    def leader(self, among=None, within_s: float = 10.0) -> Server:
        """The server whose leadership most of the asked nodes confirm, itself included."""

        def agreed():
            votes: dict = {}
            for server in self:
                if (among is None or server.name in among) and server.alive:
                    try:
                        status = server.node.status(timeout=1)
                    except grpc.RpcError as error:
                        if among is None:
                            continue
                        raise Failed(str(refusal_of(error))) from None
                    votes.setdefault((status.header.term, status.leader), set()).add(server.name)
            for (_, leader), voters in sorted(votes.items(), reverse=True):
                if leader in voters and len(voters) * 2 > len(self.servers):
                    return self[leader]
            raise Failed(f"they say {votes}")

        return poll("the nodes agree on a leader", agreed, within_s)

    def follower(self) -> Server:
        """A server that does not lead."""
        return self.others(self.leader().name)[0]

    def state_hashes(self, within_s: float = 20.0) -> int:
        """Compares all nodes' state hashes at one applied index, and returns the index. While the index does not move
        by itself, small writes move it."""
        deadline = time.monotonic() + within_s
        last = "never asked"
        for attempt in range(100):
            at = max(server.node.status().applied_index for server in self) + 4
            asked = [
                server.node.cluster.GetStateHash.future(pb.GetStateHashRequest(at_index=at), timeout=5)
                for server in self
            ]
            mover = next(iter(self)).node
            count = 0
            while not all(call.done() for call in asked):
                count += 1
                fields = {"metadata": {"count": f"{attempt}.{count}"}}
                register(mover, record("prove-hash", "mover", "prove", **fields), permanent=True)
                time.sleep(0.02)
            try:
                answers = [call.result() for call in asked]
            except grpc.RpcError as error:
                last = str(refusal_of(error))
            else:
                for answer in answers:
                    equal(answer.applied_index, at, f"applied_index of {answer.header.node}")
                hashes = {answer.header.node: answer.hash.hex()[:16] for answer in answers}
                require(len(set(hashes.values())) == 1, f"state hashes at index {at} differ: {hashes}")
                require(answers[0].hash, "an empty state hash")
                return at
            if time.monotonic() > deadline:
                break
        raise Failed(f"no common state hash within {within_s:g} s ({last})")

    def same_lists(self) -> tuple:
        """Linearizable lists of all nodes at one revision must be equal; returns the revision and the records."""

        def same():
            answers = [listed(server.node) for server in self if server.alive]
            return answers[0] if all(answer == answers[0] for answer in answers) else None

        return poll("all nodes list the same at one revision", same, 10)

    def close(self) -> None:
        """Kills what runs and closes every connection."""
        for server in self:
            if server.node is not None:
                server.node.close()
                server.node = None
            server.kill()
        if self.links:
            self.links.close()
            self.links = None

    def remove_data(self) -> None:
        """Deletes the data directories; logs stay."""
        for server in self:
            shutil.rmtree(server.data, ignore_errors=True)


def everyone(servers, call) -> list:
    """Calls `call(server)` for all at once on threads; returns what each returned, or the Refusal or Failed."""
    servers = list(servers)
    results: list = [None] * len(servers)

    def one(place, server):
        try:
            results[place] = call(server)
        except grpc.RpcError as error:
            results[place] = refusal_of(error)
        except Failed as failed:
            results[place] = failed

    threads = [threading.Thread(target=one, args=(i, s), daemon=True) for i, s in enumerate(servers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def is_unavailable(answer, *reasons: str) -> bool:
    """Whether an answer of `everyone` is UNAVAILABLE for one of these reasons."""
    return isinstance(answer, Refusal) and answer.code == "UNAVAILABLE" and answer.reason in reasons


__all__ = [
    "Cluster",
    "Process",
    "Server",
    "environment",
    "everyone",
    "everything",
    "free_port",
    "is_unavailable",
]
