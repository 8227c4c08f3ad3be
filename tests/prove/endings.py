"""How leases end, and how nodes do."""

from __future__ import annotations

import signal
import threading
import time

import grpc

from .checks import Failed, check, equal, poll, require
from .client import Node, everything, listed, of, record, refusal_of, refusal_of_status, register
from .failures import SLACK_S, trouble
from .load import Keeper, Registrar, many_registers
from .stubs import pb
from .view import Watcher

ENDING_TOGETHER = 10_000
WATCHES = 100


@check("lease-ends-between-5-and-6-s")
def ends_in_time(world):
    """Leases of 5 s that nobody renews: gone from list and watch not before 5 s and not after 6 s."""
    cluster = world.healthy()
    watchers = [Watcher(node, of("ends")) for node in cluster.nodes]
    for watcher in watchers:
        watcher.start()
        poll("its snapshot", lambda w=watcher: w.view.revision is not None or w.failure, 10)
    earliest, latest = 99.0, 0.0
    sent, acknowledged = {}, {}
    for number in range(5):
        name = ("default", "ends", f"e{number}")
        sent[name] = time.monotonic()
        register(cluster.nodes[number % 3], record("ends", f"e{number}"), ttl=5.0)
        acknowledged[name] = time.monotonic()
    listed_gone: dict = {}
    while len(listed_gone) < 5:
        asked = time.monotonic()
        present = listed(cluster.nodes[0], of("ends"))[1]
        answered = time.monotonic()
        for name in sent:
            if name not in present and name not in listed_gone:
                listed_gone[name] = answered
                require(answered - sent[name] >= 5.0, f"{name[2]} left the list after {answered - sent[name]:.3f} s")
                require(asked - acknowledged[name] <= 6.0, f"{name[2]} left after {asked - acknowledged[name]:.3f} s")
            elif name in present:
                late = asked - acknowledged[name]
                require(late <= 6.0, f"{name[2]} is still listed after {late:.3f} s")
        time.sleep(0.01)
    for watcher in watchers:
        poll("its removals", lambda w=watcher: len(w.removed_at) == 5, 3)
        watcher.sound()
        for name, moment in watcher.removed_at.items():
            earliest = min(earliest, moment - sent[name])
            latest = max(latest, moment - acknowledged[name])
        watcher.stop()
    require(earliest >= 5.0, f"a watch showed the end after {earliest:.3f} s")
    require(latest <= 6.0, f"a watch showed the end after {latest:.3f} s")
    lists = [listed_gone[name] - acknowledged[name] for name in sent]
    return f"list {min(lists):.2f}-{max(lists):.2f} s, watches on 3 nodes {earliest:.2f}-{latest:.2f} s"


@check("10000-leases-end-together", limit_s=180)
def end_together(world):
    """10,000 leases with one deadline, while others renew: they go at once, and nobody else is harmed."""
    shared = trouble(world)
    cluster = shared.cluster
    ttl = 20.0
    begun = time.monotonic()
    answers = []
    for part in range(10):
        node = cluster.nodes[part % 3]
        answers += many_registers(node, [record("k8", f"{part}-{i}") for i in range(ENDING_TOGETHER // 10)], ttl=ttl)
    made = time.monotonic() - begun
    leases = [answer.instance.lease_id for answer in answers]
    require(made < ttl - 2, f"{ENDING_TOGETHER} registers took {made:.1f} s: this machine is too slow for the check")
    kept = many_registers(cluster.nodes[0], [record("k8-kept", f"{i}") for i in range(200)], ttl=3.0)
    keepers = [
        Keeper(cluster.nodes[i:] + cluster.nodes[:i], [a.instance.lease_id for a in kept[i::2]], 3.0, every_s=0.25)
        for i in range(2)
    ]
    for keeper in keepers:
        keeper.start()
    sent = time.monotonic()
    renewal = cluster.nodes[1].leases.Renew(pb.RenewRequest(lease_ids=leases), timeout=10)
    acknowledged = time.monotonic()
    outcomes = {result.outcome for result in renewal.results}
    equal(outcomes, {pb.RenewResult.RENEWED}, f"outcomes of {ENDING_TOGETHER} renewals in one message")
    watchers = [Watcher(node, of("k8")) for node in cluster.nodes]
    for watcher in watchers:
        watcher.start()

    def all_gone():
        for watcher in watchers:
            watcher.sound()
        return all(len(watcher.removed_at) == ENDING_TOGETHER for watcher in watchers)

    poll(f"all {ENDING_TOGETHER} leave every watch", all_gone, ttl + 20, every_s=0.1)
    slowest_before = max(keeper.slowest_ms for keeper in keepers)
    moments = sorted(moment for watcher in watchers for moment in watcher.removed_at.values())
    first, last = moments[0] - sent, moments[-1] - acknowledged
    for watcher in watchers:
        watcher.stop()
    for keeper in keepers:
        keeper.stop().none_lost()
    equal(listed(cluster.nodes[2], of("k8"))[1], {}, "what is left of them")
    equal(len(listed(cluster.nodes[2], of("k8-kept"))[1]), 200, "those that renewed")
    require(first >= ttl, f"the first left after {first:.2f} s of {ttl:g}")
    # TTL + 1 s, and 20,000 leases a second.
    require(last <= ttl + 1.0 + ENDING_TOGETHER / 20_000 + SLACK_S, f"the last left after {last:.2f} s of {ttl:g}")
    for answer in kept:
        cluster.nodes[0].leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=answer.instance.lease_id))
    shared.compare()
    return (
        f"gone {first - ttl:.2f}-{last - ttl:.2f} s after their TTL, 200 others kept, "
        f"slowest renewal {slowest_before:.0f} ms"
    )


@check("sigterm-with-100-watches")
def sigterm(world):
    """SIGTERM of the leader with 100 open watches and writers: exit 0 within 10 s, leadership handed over, the
    watches end with SHUTTING_DOWN."""
    shared = trouble(world)
    cluster = shared.cluster
    leader = cluster.leader()
    ends: list = []
    begun: list = []

    # Four connections: a server may limit the streams of one.
    clients = [Node(leader.name, leader.client_address) for _ in range(4)]

    def watch(client):
        call = client.registry.Watch(pb.WatchRequest(selector=everything()))
        first = True
        try:
            for message in call:
                if first:
                    begun.append(True)
                    first = False
                if message.kind == pb.WatchResponse.CANCELED:
                    ends.append(refusal_of_status(message.status))
                    return
            ends.append(None)
        except grpc.RpcError as error:
            ends.append(refusal_of(error))

    threads = [threading.Thread(target=watch, args=(clients[i % 4],), daemon=True) for i in range(WATCHES)]
    for thread in threads:
        thread.start()
    poll(f"{WATCHES} watches begin", lambda: len(begun) == WATCHES, 30)
    writers = [Registrar([s.node for s in cluster.others(leader.name)], "k9", f"t{i}") for i in range(2)]
    writers.append(Registrar([leader.node, *(s.node for s in cluster.others(leader.name))], "k9", "at-leader"))
    for writer in writers:
        writer.start()
    poll("writes", lambda: min(len(w.acknowledged) for w in writers) >= 20, 20)
    asked = time.monotonic()
    code, took = leader.terminate()
    equal(code, 0, "exit code")
    require(took <= 10.0, f"it took {took:.1f} s to end")
    successor = cluster.leader(among=[server.name for server in cluster.others(leader.name)])
    for writer in writers:
        poll("a write afterwards", lambda w=writer: w.acknowledged_at[-1] > asked + took, 10)
        writer.stop()
    gap = max(
        (b - a) * 1000
        for writer in writers[:2]
        for a, b in zip(writer.acknowledged_at, writer.acknowledged_at[1:])
        if b > asked
    )
    for thread in threads:
        thread.join(5)
    for client in clients:
        client.close()
    equal(len(ends), WATCHES, "watches that ended")
    wrong = [end for end in ends if end is None or (end.code, end.reason) != ("UNAVAILABLE", "SHUTTING_DOWN")]
    require(not wrong, f"{len(wrong)} watches ended otherwise, first {wrong[0] if wrong else ''}")
    # Handed over, not waited for: without a transfer the others need an election timeout to notice.
    require(gap < 1000, f"no write at the others for {gap:.0f} ms")
    cluster.heal()
    records = listed(cluster.nodes[0])[1]
    for writer in writers:
        writer.none_missing(records)
    shared.compare()
    return f"exit 0 after {took:.2f} s, {successor.name} leads, gap {gap:.0f} ms, {WATCHES} x SHUTTING_DOWN"


@check("sigterm-of-each-in-turn")
def rolling_restart(world):
    """Every node is stopped and started in turn under load: nothing acknowledged is missing, all exit 0."""
    shared = trouble(world)
    cluster = shared.cluster
    writers = [Registrar(cluster.nodes[i:] + cluster.nodes[:i], "k10", f"r{i}") for i in range(2)]
    for writer in writers:
        writer.start()
    slowest = 0.0
    for server in cluster:
        code, took = server.terminate()
        equal(code, 0, f"exit code of {server.name}")
        slowest = max(slowest, took)
        server.start()
        cluster.wait_ready()
    for writer in writers:
        writer.stop()
    records = listed(cluster.nodes[0])[1]
    for writer in writers:
        writer.none_missing(records)
    cluster.state_hashes()
    shared.compare()
    gap = max(writer.gap_ms() for writer in writers)
    total = sum(len(writer.acknowledged) for writer in writers)
    return f"3 restarts, slowest stop {slowest:.2f} s, gap {gap:.0f} ms, {total} acknowledged, 0 missing"


@check("watchers-through-all-of-this")
def watchers_through_all(world):
    """The watchers that stood at each node through the checks above: no gap, no duplicate, equal to a list."""
    shared = trouble(world)
    revision = shared.compare()
    shared.cluster.same_lists()
    parts = []
    for watcher in shared.watchers:
        watcher.sound()
        view = watcher.view
        parts.append(
            f"{watcher.node.name} {view.steps} steps, {watcher.streams} streams, resets {len(view.resets)}"
        )
        for _, refusal in watcher.ends:
            known = refusal.code == "UNAVAILABLE" or refusal.code in ("CANCELLED", "INTERNAL", "UNKNOWN")
            require(known, f"a watch of {watcher.node.name} ended with {refusal}")
    for server in shared.cluster:
        if "panicked at" in server.output():
            raise Failed(f"{server.name} panicked")
    return f"at revision {revision}, {shared.compared} comparisons: " + "; ".join(parts)


@check("signals-while-starting")
def signal_early(world):
    """SIGTERM to a node that still waits for its peers ends it cleanly."""
    cluster = world.cluster("early")
    server = cluster["n1"].start()

    def listens():
        if not server.alive:
            raise Failed(f"it exited: {server.output()[-300:]!r}")
        try:
            server.node.status(timeout=1)
        except grpc.RpcError as error:
            return bool(refusal_of(error).reason)
        return True

    poll("its client port answers", listens, 15)
    server.signal(signal.SIGTERM)
    begun = time.monotonic()
    code = server.wait(10)
    equal(code, 0, "exit code")
    with_watch = time.monotonic() - begun
    cluster.close()
    return f"exit 0 after {with_watch:.2f} s"
