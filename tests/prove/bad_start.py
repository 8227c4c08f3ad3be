"""Nodes that are started wrongly: each exits non-zero and names the cause, and the cluster that they would have
disturbed lives on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from .checks import Failed, Skipped, check, equal, poll, require
from .client import listed, of, record, register
from .cluster import free_port

NOBODY = 65534


def fresh(world, name: str = "wrong"):
    """A cluster of three whose nodes are not started."""
    return world.cluster(name)


@check("start-initial-cluster-without-oneself")
def without_oneself(world):
    """`--initial-cluster` must hold the node's own name."""
    cluster = fresh(world)
    others = ",".join(f"{s.name}=127.0.0.1:{s.peer_port}" for s in cluster.others("n1"))
    line = cluster["n1"].fails_to_start("initial-cluster", "initial_cluster", initial_cluster=others)
    cluster.close()
    return line


@check("start-non-loopback-without-insecure")
def non_loopback(world):
    """Without TLS anything but loopback needs `--insecure`; with it the node binds."""
    cluster = fresh(world)
    server = cluster["n1"]
    port = server.client_port
    line = server.fails_to_start(
        "insecure", client_addr=f"0.0.0.0:{port}", client_advertise_addr=f"127.0.0.1:{port}"
    )
    server.fails_to_start("insecure", peer_addr=f"0.0.0.0:{server.peer_port}",
                          peer_advertise_addr=f"127.0.0.1:{server.peer_port}")
    server.start(client_addr=f"0.0.0.0:{port}", client_advertise_addr=f"127.0.0.1:{port}", insecure=True)

    def bound():
        if not server.alive:
            raise Failed(f"it exited: {server.output()[-300:]!r}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    poll("with --insecure it listens", bound, 15)
    cluster.close()
    return line


@check("start-port-in-use")
def port_in_use(world):
    """A port that someone has: said which."""
    cluster = fresh(world)
    server = cluster["n1"]
    lines = []
    for flag, port in (("client_addr", server.client_port), ("peer_addr", server.peer_port)):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", port))
            holder.listen()
            lines.append(server.fails_to_start(str(port), **{flag: f"127.0.0.1:{port}"}))
    cluster.close()
    return lines[0]


@check("start-data-dir-without-permission")
def without_permission(world):
    """A data directory that may not be written."""
    cluster = fresh(world)
    server = cluster["n1"]
    locked = world.folder("locked")
    locked.chmod(0o500)
    command = [str(part) for part in server.command(data_dir=locked / "data")]
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if not setpriv:
            raise Skipped("root, and no setpriv to become someone else")
        drop = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        # The built binary may lie in root's own home, where nobody else looks: a copy beside the data serves.
        copy = Path(shutil.copy(world.binary, world.folder("for-nobody") / "roster"))
        copy.chmod(0o755)
        command[0] = str(copy)
        able = subprocess.run([*drop, "test", "-x", command[0]], check=False)
        if able.returncode != 0:
            raise Skipped(f"an unprivileged user cannot execute {command[0]}")
        command = drop + command
    process = world.process("locked")
    process.spawn(command)
    code = process.wait(20)
    text = process.output()
    require(code > 0, f"exit code {code}")
    require(str(locked) in text, f"the directory is not named: {text[-300:]!r}")
    require("ermission" in text, f"the cause is not named: {text[-300:]!r}")
    cluster.close()
    return text.strip().splitlines()[-1]


@check("start-two-nodes-with-one-name")
def one_name(world):
    """A name twice in the list; a second process on one data directory; a second, empty node under a name that a
    cluster's member has."""
    cluster = world.healthy()
    first = cluster["n1"]
    twice = fresh(world)
    server = twice["n1"]
    names = [f"{name}=127.0.0.1:{port}" for name, port in (("n1", server.peer_port), ("n1", 1), ("n2", 2))]
    lines = [server.fails_to_start("n1", "twice", "duplicate", initial_cluster=",".join(names))]

    ports = {"client_addr": f"127.0.0.1:{free_port()}", "peer_addr": f"127.0.0.1:{free_port()}"}
    second = fresh(world, "second")["n1"]
    lines.append(
        second.fails_to_start(
            "in use", "lock", data_dir=first.data, initial_cluster=cluster.initial_cluster,
            peer_advertise_addr=f"127.0.0.1:{first.peer_port}", **ports
        )
    )
    itself = f"n1=127.0.0.1:{second.peer_port}"
    peers = ",".join(part for part in cluster.initial_cluster.split(",") if not part.startswith("n1="))
    lines.append(second.fails_to_start("remove this member", "already", initial_cluster=f"{itself},{peers}"))
    lives_on(cluster)
    twice.close()
    return " | ".join(lines)


@check("start-wrong-cluster", limit_s=150)
def wrong_cluster(world):
    """A stranger that joins by `--initial-cluster`, and a member's name with another cluster's data."""
    cluster = world.healthy()
    stranger = fresh(world, "stranger")["n1"]
    listing = f"n9=127.0.0.1:{stranger.peer_port},{cluster.initial_cluster}"
    line = stranger.fails_to_start(
        "cluster", "member", name="n9", initial_cluster=listing, within_s=30, data_dir=stranger.data
    )

    theirs = world.cluster("theirs").start()
    ours = world.cluster("ours").start()
    register(theirs.nodes[0], record("from-elsewhere", "x"), permanent=True)
    for name in ("n3", "n2", "n1"):
        theirs[name].terminate()
    ours["n2"].kill()
    kept = ours["n2"].data.with_name("n2-kept")
    ours["n2"].data.rename(kept)
    shutil.copytree(theirs["n2"].data, ours["n2"].data)
    server = ours["n2"].start()
    told = world_words(server, ours, 20)
    equal(listed(ours.nodes[0], of("from-elsewhere"))[1], {}, "records of the other cluster")
    lives_on(ours, ["n1", "n3"])
    server.kill()
    shutil.rmtree(server.data)
    kept.rename(server.data)
    server.start()
    ours.wait_ready()
    ours.state_hashes()
    lives_on(cluster)
    theirs.close()
    ours.close()
    return f"stranger: {line} | foreign data: {told}"


def world_words(server, cluster, within_s: float) -> str:
    """What a node says that holds another cluster's data: it exits with an error, or it never serves and it or its
    peers log that the clusters differ."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and server.alive:
        for log in (server.output(), *(other.output() for other in cluster.others(server.name))):
            for line in log.splitlines():
                if "cluster" in line.lower() and ("another" in line.lower() or "other cluster" in line.lower()):
                    require(not reads(server), "it serves another cluster's data as if nothing were wrong")
                    return "refused by its peers: " + line.strip()
        time.sleep(0.1)
    if server.alive:
        raise Failed("it runs, and nobody has said that its cluster is another one")
    require(server.popen.returncode > 0, f"exit code {server.popen.returncode}")
    require("cluster" in server.output()[-2000:], f"the cause is not named: {server.output()[-300:]!r}")
    return "exited: " + server.output().strip().splitlines()[-1]


def reads(server) -> bool:
    """Whether it answers a linearizable read."""
    import grpc

    try:
        listed(server.node, timeout=6)
    except grpc.RpcError:
        return False
    return True


def lives_on(cluster, names=None) -> None:
    """The cluster reads and writes as before."""
    servers = [server for server in cluster if names is None or server.name in names]
    for server in servers:
        require(server.alive, f"{server.name} has ended")
        register(server.node, record("lives-on", server.name), permanent=True)
    require(len(listed(servers[0].node, of("lives-on"))[1]) >= len(servers), "a write is missing")
