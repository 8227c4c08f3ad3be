"""A leader whose disk takes writes and never finishes them: it must not stay in office, and its process must end."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from .checks import Skipped, check, poll, require
from .client import listed, record, register
from .disk import command, disk_cluster, hold_syncs, power_cuts
from .failures import GAP_MAX_MS, everyone_gap
from .load import Registrar

# A write that waits this long never ends; the rest is for noticing, and for a busy machine.
HUNG_AFTER_S = 10.0
NOTICED_WITHIN_S = HUNG_AFTER_S + 5.0
# Longer than all of the check: for the node the sync never ends.
HELD_S = 90.0
CAUSE = "the disk has not finished a write for"
LOGS = {"the node can't go on": "the check holds the leader's disk up, and the leader ends for it"}


class Office:
    """A leader at work, with writers at the others."""

    def __init__(self, cluster, service: str):
        self.cluster = cluster
        self.leader = cluster.leader()
        self.others = [server.node for server in cluster.others(self.leader.name)]
        register(self.leader.node, record(service, "before"), permanent=True)
        self.writers = [Registrar(self.others[i:] + self.others[:i], service, f"w{i}") for i in range(2)]
        for writer in self.writers:
            writer.start()
        poll("writes", lambda: min(len(w.acknowledged) for w in self.writers) >= 20, 20)

    def handed_over(self, since: float) -> float:
        """Waits until another node leads; returns after how many seconds."""
        names = [server.name for server in self.cluster.others(self.leader.name)]

        def another_leads():
            return self.cluster.leader(among=names, within_s=0.5).name != self.leader.name

        poll("another node leads", another_leads, max(0.0, since + NOTICED_WITHIN_S + 3.0 - time.monotonic()))
        after = time.monotonic() - since
        require(after >= HUNG_AFTER_S * 0.9, f"the leader gave up after {after:.1f} s already")
        return after

    def close(self) -> str:
        """Ends the writers, heals the cluster and compares; returns the figures."""
        written = max(moment for writer in self.writers for moment in writer.acknowledged_at)
        for writer in self.writers:
            poll("writes go on", lambda w=writer: w.acknowledged_at[-1] > written + 1.0, 20)
            writer.stop()
        self.cluster.heal()
        for server in self.cluster:
            records = listed(server.node)[1]
            for writer in self.writers:
                writer.none_missing(records)
        self.cluster.state_hashes()
        gap = everyone_gap(self.writers)
        require(gap < GAP_MAX_MS, f"no write for {gap:.0f} ms")
        total = sum(len(writer.acknowledged) for writer in self.writers)
        return f"gap {gap:.0f} ms, {total} acknowledged, 0 missing"


def main_thread(server) -> str:
    """The state of a process's main thread: Z when it has exited."""
    stat = Path(f"/proc/{server.pid}/stat").read_text(encoding="utf-8")
    return stat.rpartition(")")[2].split()[0]


@check("leader-whose-sync-hangs", limit_s=150, logs=LOGS)
def sync_hangs(world):
    """The leader's syncs never end: its process ends with an error that says so, another node leads, and nothing
    acknowledged is missing."""
    strace = shutil.which("strace")
    if not strace:
        raise Skipped("no strace")
    office = Office(disk_cluster(world), "hung")
    leader = office.leader
    tracer = hold_syncs(world, strace, leader, HELD_S)
    held = time.monotonic()
    try:
        poll("it names the cause", lambda: CAUSE in leader.output(), NOTICED_WITHIN_S)
        named = time.monotonic() - held
        after = office.handed_over(held)
    finally:
        # A process whose thread is held back by a tracer can't end.
        tracer.kill()
    code = leader.wait(10)
    require(code > 0, f"it ended with {code}")
    return f"named after {named:.1f} s, another leads after {after:.1f} s, exit {code}, {office.close()}"


@check("leader-whose-disk-freezes", limit_s=150, logs=LOGS)
def disk_freezes(world):
    """The leader's whole file system stands still: another node leads within 15 s, though the frozen process can't be
    reaped; when the disk goes on, the process is gone."""
    if not shutil.which("fsfreeze"):
        raise Skipped("no fsfreeze")
    shared = power_cuts(world)
    office = Office(shared.cluster, "frozen")
    leader = office.leader
    mountpoint = shared.images[leader.name].mountpoint
    command("fsfreeze", "--freeze", mountpoint)
    frozen = time.monotonic()
    try:
        after = office.handed_over(frozen)
        require(CAUSE in leader.output(), f"the cause is not named: {leader.output()[-300:]!r}")
        poll("nothing is left of the process but the frozen write", lambda: main_thread(leader) == "Z", 10)
    finally:
        command("fsfreeze", "--unfreeze", mountpoint)
    code = leader.wait(10)
    require(code > 0, f"it ended with {code}")
    figures = office.close()
    world.forget("power")
    return f"another leads after {after:.1f} s, exit {code}, {figures}"
