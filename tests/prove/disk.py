"""What nodes find on their disks: flipped bytes, torn tails, another node's directory, nothing at all, what a power
cut left, and a log whose sync was late."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from .checks import Failed, Skipped, check, equal, poll, require
from .client import listed, of, record, register
from .cluster import everyone, is_unavailable
from .load import Registrar, many_registers

# RocksDB's log: blocks of 32 KiB, records with a header of checksum (4), length (2), type (1).
BLOCK_BYTES = 32 << 10
HEADER_BYTES = 7
FULL_RECORD = 1
IMAGE_MIB = 160
# How long each sync of the leader is held back, and how soon after its kill -9 it must be running again.
SYNC_HELD_S = 1.5
RESTART_WITHIN_S = 0.1


def disk_cluster(world):
    """The cluster whose disks are harmed, healed."""
    cluster = world.shared("disk", lambda: world.cluster("disk").start())
    cluster.heal()
    return cluster


def log_files(data: Path) -> list:
    """RocksDB's write-ahead logs below a data directory, oldest first."""
    found = [path for path in data.rglob("*.log") if path.stem.isdigit()]
    require(found, f"no write-ahead log below {data}: {[str(p) for p in data.rglob('*')][:20]}")
    return sorted(found, key=lambda path: int(path.stem))


def followed(cluster, service: str, count: int):
    """A follower that was killed with so many records in its log."""
    follower = cluster.follower()
    many_registers(cluster.leader().node, [record(service, f"{i}") for i in range(count)])
    listed(follower.node, of(service))
    follower.kill()
    return follower


@check("flipped-byte-in-the-log")
def flipped_byte(world):
    """One flipped byte in the middle of the log: the node refuses to start and names the place."""
    cluster = disk_cluster(world)
    server = followed(cluster, "flipped", 1500)
    log = max(log_files(server.data), key=lambda path: path.stat().st_size)
    size = log.stat().st_size
    require(size > 20_000, f"the log has only {size} bytes")
    place = size // 2
    flip(log, place)
    line = server.fails_to_start("corrupt", "checksum")
    named = str(server.data) in server.output() or log.name in server.output()
    require(named, f"neither the directory nor {log.name} is named: {line}")
    flip(log, place)
    server.start()
    cluster.wait_ready()
    cluster.state_hashes()
    return f"byte {place} of {size}: {line}"


def flip(path: Path, place: int) -> None:
    """Flips all bits of one byte."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0xFF]))
        file.flush()
        os.fsync(file.fileno())


@check("torn-tail-of-the-log")
def torn_tail(world):
    """A record that a crash left half-written at the end of the log: the node starts, and nothing is missing."""
    cluster = disk_cluster(world)
    server = followed(cluster, "torn", 300)
    log = log_files(server.data)[-1]
    torn = tear(log)
    server.start()
    cluster.wait_ready()
    equal(len(listed(server.node, of("torn"))[1]), 300, "records at the node that recovered")
    cluster.state_hashes()
    return f"{torn} bytes of a record of 1,000 at the end of {log.name}: recovered"


def tear(log: Path) -> int:
    """Appends the beginning of a record, as a crash in the middle of a write leaves it; returns how many bytes."""
    room = BLOCK_BYTES - log.stat().st_size % BLOCK_BYTES
    # What is left of a block that can't hold a header is filled with zeros, as RocksDB does.
    padding = b"\0" * room if room < HEADER_BYTES else b""
    header = b"\x12\x34\x56\x78" + (1000).to_bytes(2, "little") + bytes([FULL_RECORD])
    with open(log, "ab") as file:
        file.write(padding + header + b"t" * 50)
        file.flush()
        os.fsync(file.fileno())
    return HEADER_BYTES + 50


@check("swapped-data-directory")
def swapped(world):
    """A node that is started on another node's directory refuses; with its own it is back."""
    cluster = disk_cluster(world)
    server, other = cluster.others(cluster.leader().name)
    server.kill()
    other.kill()
    line = server.fails_to_start("belongs to", "another node", "other node", other.name, data_dir=other.data)
    cluster.heal()
    cluster.state_hashes()
    return line


@check("wiped-node-casts-no-vote", limit_s=150)
def wiped_node(world):
    """A node without its data, whose peers have a cluster: it exits, even when its vote would be needed; two wiped
    nodes found no second cluster."""
    cluster = disk_cluster(world)
    register(cluster.nodes[0], record("wiped", "x"), permanent=True)
    leader = cluster.leader()
    wiped, other = cluster.others(leader.name)
    cluster_id = other.node.status().header.cluster_id
    wiped.kill()
    kept = wiped.data.with_name(f"{wiped.name}-kept")
    wiped.data.rename(kept)
    leader.kill()  # now the wiped node's vote would make a quorum
    line = wiped.fails_to_start("remove this member", within_s=20)
    answers = everyone([other], lambda s: register(s.node, record("wiped", "y"), timeout=6))
    require(is_unavailable(answers[0], "NO_LEADER", "NO_QUORUM"), f"a write with a wiped voter: {answers[0]}")

    # Two of three wiped: with the third they must not make a new cluster, nor without it.
    other.kill()
    kept_other = other.data.with_name(f"{other.name}-kept")
    other.data.rename(kept_other)
    shutil.rmtree(wiped.data, ignore_errors=True)
    leader.start()
    begun = time.monotonic()
    wiped.start()
    other.start()

    def nobody_serves():
        for server in (wiped, other, leader):
            if server.alive:
                answer = everyone([server], lambda s: register(s.node, record("wiped", "z"), timeout=2))[0]
                if hasattr(answer, "header"):
                    raise RuntimeError(f"{server.name} serves cluster {answer.header.cluster_id}")
        return not wiped.alive and not other.alive or time.monotonic() > begun + 15

    poll("the wiped nodes end, or serve nothing", nobody_serves, 30)
    ended = [server.name for server in (wiped, other) if not server.alive]
    equal(sorted(ended), sorted([wiped.name, other.name]), "wiped nodes that exited")
    for server, place in ((wiped, kept), (other, kept_other)):
        shutil.rmtree(server.data, ignore_errors=True)
        place.rename(server.data)
    cluster.heal()
    equal(cluster.nodes[0].status().header.cluster_id, cluster_id, "cluster id")
    require(("default", "wiped", "x") in listed(cluster.nodes[1], of("wiped"))[1], "the record is missing")
    cluster.state_hashes()
    return line


@check("flock-of-a-data-directory")
def locked(world):
    """Two processes never share a data directory."""
    cluster = disk_cluster(world)
    server, other = cluster.others(cluster.leader().name)
    other.kill()
    advertised = f"127.0.0.1:{server.peer_port}"
    line = other.fails_to_start(
        "in use", "lock", data_dir=server.data, name=server.name, peer_advertise_addr=advertised
    )
    cluster.heal()
    return line


class Image:
    """An ext4 file system in a file, mounted where a node keeps its data. A copy of the file, taken after kill -9, is
    what a power cut would have left: only what was synced."""

    def __init__(self, file: Path, mountpoint: Path):
        self.file, self.mountpoint = file, mountpoint
        self.device = ""

    def make(self) -> "Image":
        """Makes the file system and mounts it."""
        with open(self.file, "wb") as file:
            file.truncate(IMAGE_MIB << 20)
        command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.file)
        return self.mount()

    def mount(self) -> "Image":
        """Mounts it; the journal is replayed as after a power cut."""
        self.mountpoint.mkdir(parents=True, exist_ok=True)
        self.device = command("losetup", "-f", "--show", self.file).strip()
        command("mount", "-o", "commit=300", self.device, self.mountpoint)
        return self

    def cut(self, copy: Path) -> "Image":
        """Copies the image as it is and gives the mount point to the copy."""
        command("cp", "--sparse=always", self.file, copy)
        self.unmount()
        return Image(copy, self.mountpoint)

    def unmount(self) -> None:
        """Lets go of it."""
        if self.device:
            command("umount", self.mountpoint)
            command("losetup", "-d", self.device)
            self.device = ""


def command(*words) -> str:
    """Runs a program that must succeed, and returns what it printed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(str(word) for word in words)}: {done.stderr.strip()}")
    return done.stdout


class PowerCuts:
    """A cluster whose nodes keep their data on images."""

    def __init__(self, world):
        needed = ["losetup", "mkfs.ext4", "mount", "umount"]
        if os.geteuid() != 0:
            raise Skipped("needs root for loop-mounted file systems")
        missing = [name for name in needed if not shutil.which(name)]
        if missing:
            raise Skipped(f"needs {', '.join(missing)}")
        self.cluster = world.cluster("power")
        self.images: dict = {}
        try:
            for server in self.cluster:
                image = Image(self.cluster.root / f"{server.name}.img", self.cluster.root / f"{server.name}-disk")
                self.images[server.name] = image.make()
                server.data = image.mountpoint / "data"
        except Failed as failed:
            self.close()
            raise Skipped(f"no loop-mounted file system here: {failed}") from None
        self.cuts = 0
        self.cluster.start()

    def cut(self, server) -> None:
        """The power of a node that was killed goes; it will start from what the disk kept."""
        self.cuts += 1
        image = self.images[server.name].cut(self.cluster.root / f"{server.name}-cut{self.cuts}.img")
        self.images[server.name] = image.mount()

    def close(self) -> None:
        """Ends the nodes and unmounts."""
        self.cluster.close()
        for image in self.images.values():
            image.unmount()


def power_cuts(world) -> PowerCuts:
    """The one that the checks share, healed."""
    shared = world.shared("power", lambda: PowerCuts(world))
    shared.cluster.heal()
    return shared


@check("vote-survives-a-power-cut")
def vote_survives(world):
    """A vote that was answered is on disk: after a power cut the voter, alone, still stands in that term."""
    shared = power_cuts(world)
    cluster = shared.cluster
    terms = []
    for _ in range(3):
        leader = cluster.leader()
        leader.kill()
        survivors = [server.name for server in cluster.others(leader.name)]
        elected = cluster.leader(among=survivors)
        voter = next(server for server in cluster.others(leader.name) if server.name != elected.name)
        # With one of three gone, the elected needed this vote.
        term = elected.node.status().header.term
        voter.kill()
        shared.cut(voter)
        elected.kill()
        voter.start()
        poll("the voter, alone, says its term", lambda v=voter: hasattr(everyone([v], lambda s: s.node.status())[0], "header"), 15)
        status = voter.node.status()
        require(status.header.term >= term, f"term {status.header.term} after a vote in term {term}")
        terms.append(term)
        cluster.heal()
    cluster.state_hashes()
    return f"3 power cuts right after votes in terms {'/'.join(map(str, terms))}"


@check("power-cut-of-all-nodes", limit_s=150)
def power_cut_of_all(world):
    """The power of all nodes goes under load: nothing acknowledged is missing."""
    shared = power_cuts(world)
    cluster = shared.cluster
    highest = total = 0
    for turn in range(3):
        writers = [Registrar(cluster.nodes[i:], "power", f"{turn}-{i}", pause_s=0) for i in range(3)]
        for writer in writers:
            writer.start()
        poll("load", lambda w=writers: sum(len(one.acknowledged) for one in w) >= 300, 30)
        for server in cluster:
            server.signal(9)
        for server in cluster:
            server.kill()
        for server in cluster:
            shared.cut(server)
        for writer in writers:
            writer.stop()
        highest = max(highest, *(writer.highest_revision for writer in writers))
        for server in cluster:
            server.start()
        cluster.wait_ready()
        revision, records = listed(cluster.nodes[turn])
        require(revision >= highest, f"revision {revision} after {highest} was seen")
        for writer in writers:
            writer.none_missing(records)
        total += sum(len(writer.acknowledged) for writer in writers)
        cluster.state_hashes()
    world.forget("power")
    return f"3 cuts, {total} acknowledged, 0 missing"


@check("leader-sync-held-back", limit_s=150)
def sync_held_back(world):
    """The leader's fsync hangs while its followers acknowledge; kill -9, and it runs again within 100 ms: nothing
    acknowledged is lost, and the state hashes agree."""
    strace = shutil.which("strace")
    if not strace:
        raise Skipped("no strace")
    cluster = disk_cluster(world)
    acknowledged: dict = {}
    restarts, during = [], 0
    for turn in range(3):
        leader = cluster.leader()
        register(leader.node, record("held", f"before-{turn}"), permanent=True)
        tracer = hold_syncs(world, strace, leader)
        writers = [Registrar(cluster.nodes, "held", f"{turn}-{i}", pause_s=0) for i in range(4)]
        for writer in writers:
            writer.start()
        held = time.monotonic()
        while time.monotonic() < held + SYNC_HELD_S * 0.6 and leader.alive:
            time.sleep(0.01)
        leader.kill()
        killed = time.monotonic()
        leader.start()
        restarts.append((time.monotonic() - killed) * 1000)
        tracer.wait(10)
        during += sum(1 for w in writers for moment in w.acknowledged_at if held < moment < killed)
        poll("writes go on", lambda w=writers, k=killed: all(a.acknowledged_at and a.acknowledged_at[-1] > k + 1
                                                            for a in w), 20)
        for writer in writers:
            writer.stop()
            require(not writer.unexpected, f"refused unexpectedly: {writer.unexpected[:3]}")
            acknowledged.update(writer.acknowledged)
        cluster.wait_ready()
        records = listed(leader.node, of("held"))[1]
        for identity, revision in acknowledged.items():
            seen = records.get(("default", "held", identity))
            require(seen is not None, f"{identity}, acknowledged at revision {revision}, is missing")
            equal(seen.mod_revision, revision, f"revision of {identity}")
        cluster.same_lists()
        cluster.state_hashes()
    require(during > 0, "nothing was acknowledged while the leader's sync hung: the check proved nothing")
    require(max(restarts) <= RESTART_WITHIN_S * 1000, f"the leader was started again after {max(restarts):.0f} ms")
    times = "/".join(f"{ms:.0f}" for ms in restarts)
    return f"{during} acknowledged without the leader's disk, restarted after {times} ms, 0 of {len(acknowledged)} lost"


def hold_syncs(world, strace: str, leader, held_s: float = SYNC_HELD_S):
    """Delays every sync of a process from now on; returns once the tracer is attached."""
    tracer = world.process("strace")
    delay = int(held_s * 1_000_000)
    tracer.spawn(
        [strace, "-f", "-p", leader.pid, "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]
        + ["-e", f"inject=fsync,fdatasync:delay_enter={delay}"]
    )

    def attached():
        if not tracer.alive:
            raise Skipped(f"strace cannot attach here: {tracer.output().strip()[-200:]}")
        with open(f"/proc/{leader.pid}/status", encoding="ascii") as status:
            text = status.read()
        traced = re.search(r"^TracerPid:\s*(\d+)", text, re.MULTILINE)
        threads = os.listdir(f"/proc/{leader.pid}/task")
        return traced and int(traced.group(1)) == tracer.pid and all(
            f"TracerPid:\t{tracer.pid}" in Path(f"/proc/{leader.pid}/task/{thread}/status").read_text()
            for thread in threads
        )

    poll("strace is attached to every thread", attached, 10, every_s=0.01)
    return tracer
