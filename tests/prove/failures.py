"""Nodes that are killed, stopped and cut off, with a watcher at each of them all the time.

All checks here harm one cluster, one after another; each finds it whole and leaves it to the next to be healed.
"""

from __future__ import annotations

import time

import grpc

from .checks import check, equal, poll, require
from .client import (
    Refusal,
    Watching,
    batch,
    key,
    listed,
    of,
    record,
    refusal_of,
    refusal_of_status,
    register,
    span,
    stale,
)
from .cluster import everyone, is_unavailable
from .load import Keeper, Registrar, many_registers
from .stubs import pb
from .view import Watcher

# A write must be back by then after the loss of a leader; the goal is 650 ms on a machine with room.
GAP_MAX_MS = 3000
WITHOUT_QUORUM_S = 5.0
# What the clock of a busy test machine may add to a bound.
SLACK_S = 0.5


class Trouble:
    """The cluster that is harmed, and its watchers."""

    def __init__(self, world):
        self.cluster = world.cluster("trouble", proxied=True).start()
        self.watchers = [Watcher(node) for node in self.cluster.nodes]
        for watcher in self.watchers:
            watcher.start()
        self.compared = 0

    def compare(self) -> int:
        """Every watcher's view must equal a list at the same revision, each list from another node."""
        nodes = self.cluster.nodes
        for place, watcher in enumerate(self.watchers):
            revision = watcher.equals_list(nodes[(place + 1) % len(nodes)])
            self.compared += 1
        return revision

    def close(self) -> None:
        """Ends the watchers and the cluster."""
        for watcher in self.watchers:
            watcher.stop()
        self.cluster.close()


def trouble(world) -> Trouble:
    """The one that all checks here share, healed."""
    shared = world.shared("trouble", lambda: Trouble(world))
    shared.cluster.heal()
    return shared


@check("leader-killed-during-registers")
def leader_killed_registers(world):
    """kill -9 of the leader while four clients register: nothing acknowledged is missing."""
    shared = trouble(world)
    cluster = shared.cluster
    leader = cluster.leader()
    writers = [Registrar(cluster.nodes[i % 3 :] + cluster.nodes[: i % 3], "k1", f"w{i}") for i in range(4)]
    for writer in writers:
        writer.start()
    poll("writes go on", lambda: min(len(w.acknowledged) for w in writers) >= 50, 20)
    killed = time.monotonic()
    leader.kill()
    survivors = [server.name for server in cluster.others(leader.name)]
    for writer in writers:
        poll("a write after the kill", lambda w=writer: w.acknowledged_at[-1] > killed + 1.0, 20)
    back = min(moment for w in writers for moment in w.acknowledged_at if moment > killed + 0.02)
    for writer in writers:
        writer.stop()
    gap = everyone_gap(writers)
    records = listed(cluster[survivors[0]].node)[1]
    for writer in writers:
        writer.none_missing(records)
    leader.start()
    cluster.wait_ready()
    equal(listed(leader.node)[1], records, "the list of the node that came back")
    cluster.state_hashes()
    shared.compare()
    total = sum(len(w.acknowledged) for w in writers)
    require(gap < GAP_MAX_MS, f"no write for {gap:.0f} ms")
    return f"gap {gap:.0f} ms (first after {(back - killed) * 1000:.0f} ms), {total} acknowledged, 0 missing"


def everyone_gap(writers) -> float:
    """The longest time in which none of the writers was acknowledged, in ms."""
    moments = sorted(moment for writer in writers for moment in writer.acknowledged_at)
    return max((b - a) * 1000 for a, b in zip(moments, moments[1:]))


@check("leader-killed-during-renewals")
def leader_killed_renewals(world):
    """kill -9 of the leader while leases of 4 s are renewed through all nodes: none is lost."""
    shared = trouble(world)
    cluster = shared.cluster
    leader = cluster.leader()
    answers = many_registers(cluster.nodes[0], [record("k2", f"{i}") for i in range(300)], ttl=4.0)
    leases = [answer.instance.lease_id for answer in answers]
    order = [leader.node] + [server.node for server in cluster.others(leader.name)]
    keepers = [
        Keeper(order[i:] + order[:i], leases[i * 100 : (i + 1) * 100], 4.0, every_s=0.1) for i in range(3)
    ]
    for keeper in keepers:
        keeper.start()
    poll("renewals go on", lambda: min(len(k.acknowledged_at) for k in keepers) >= 5, 10)
    leader.kill()
    killed = time.monotonic()
    for keeper in keepers:
        poll("a renewal after the kill", lambda k=keeper: k.acknowledged_at[-1] > killed + 5.0, 20)
    for keeper in keepers:
        keeper.stop()
        keeper.none_lost()
    survivor = cluster.others(leader.name)[0].node
    equal(len(listed(survivor, of("k2"))[1]), 300, "instances listed")
    gap = max(keeper.gap_ms() for keeper in keepers)
    for lease in leases:
        survivor.leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=lease))
    leader.start()
    cluster.wait_ready()
    shared.compare()
    require(gap < GAP_MAX_MS, f"no renewal for {gap:.0f} ms")
    gaps = "/".join(f"{keeper.gap_ms():.0f}" for keeper in keepers)
    return f"gaps {gaps} ms (client at the leader first), 300 leases, 0 lost"


@check("two-of-three-stopped", limit_s=150)
def no_quorum(world):
    """A minority says so within 5 s, answers stale reads with their age, and ends no lease; the rest back, everything
    goes on."""
    shared = trouble(world)
    cluster = shared.cluster
    leader = cluster.leader()
    survivor = leader  # the harder case: it believes that it leads
    held = register(survivor.node, record("k3", "leased"), ttl=3.0)
    registered = time.monotonic()
    stopped = cluster.others(leader.name)
    for server in stopped:
        server.kill()
    calls = {
        # Proposed just before the quorum was missed, it may yet take effect: it has a service of its own.
        "register": lambda: register(survivor.node, record("k3-late", "x"), timeout=10),
        "list": lambda: survivor.node.registry.List(pb.ListRequest(selector=of("k3")), timeout=10),
        "get": lambda: survivor.node.registry.Get(pb.GetRequest(key=key("k3", "leased")), timeout=10),
        "grant": lambda: survivor.node.leases.GrantLease(pb.GrantLeaseRequest(ttl=span(5)), timeout=10),
    }

    def refused_in_time(what: str) -> tuple:
        begun = time.monotonic()
        try:
            answer = calls[what]()
        except grpc.RpcError as error:
            answer = refusal_of(error)
        return answer, time.monotonic() - begun

    slowest = 0.0
    for what, (answer, took) in zip(calls, everyone(calls, refused_in_time)):
        slowest = max(slowest, took)
        require(is_unavailable(answer, "NO_QUORUM", "NO_LEADER"), f"{what} without a quorum: {str(answer)[:200]}")
        require(took < WITHOUT_QUORUM_S + SLACK_S, f"{what} took {took:.1f} s to be refused")

    def gone_for_long():
        answer = survivor.node.registry.List(pb.ListRequest(selector=of("k3"), read=stale()))
        require(answer.header.stale, "a stale answer does not say so")
        present = [i.key.id for i in answer.instances]
        require("leased" in present, "a lease ended without a quorum")
        return answer if time.monotonic() > registered + 9.0 else None  # three TTLs

    answer = poll("three TTLs pass", gone_for_long, 20)
    age = answer.header.age.ToMilliseconds() / 1000
    require(answer.header.HasField("age") and age > 5.0, f"age {age:.1f} s after about 9 s without a quorum")
    status = survivor.node.status()
    require(not status.lease_clock_running, "the lease clock is said to run")
    cli = world.process("stale-list")
    cli.spawn([world.binary, "--endpoints", survivor.client_address, "list", "k3", "--stale"])
    equal(cli.wait(15), 0, f"exit code of `roster list --stale`: {cli.output()[-200:]!r}")
    require("leased" in cli.output(), "`roster list --stale` does not list it")
    for server in stopped:
        server.start()
    begun = time.monotonic()
    ready = cluster.wait_ready()
    instance_there = "leased" in [name[2] for name in listed(survivor.node, of("k3"))[1]]
    again = poll("the lease ends once there is a quorum", lambda: not listed(survivor.node, of("k3"))[1], 10)
    require(again, "the lease did not end")
    ended = time.monotonic() - begun
    require(ended <= 3.0 + 1.0 + ready + 2.0, f"the lease ended {ended:.1f} s after the nodes were back")
    renewal = survivor.node.leases.Renew(pb.RenewRequest(lease_ids=[held.instance.lease_id]))
    equal(renewal.results[0].outcome, pb.RenewResult.NOT_FOUND, "renewal of the ended lease")
    register(survivor.node, record("k3", "after"), permanent=True)
    shared.compare()
    there = "still there" if instance_there else "ended while they came back"
    return f"refused in at most {slowest:.2f} s, stale age {age:.1f} s, back after {ready:.2f} s, lease {there}"


def cut_off(world, whom):
    """One node's peer links are cut: what its watcher, its keep-alive client and its readers are told."""
    shared = trouble(world)
    cluster = shared.cluster
    lonely = whom(cluster)
    others = [server.node for server in cluster.others(lonely.name)]
    answers = many_registers(lonely.node, [record("k4", f"{i}") for i in range(20)], ttl=5.0)
    keeper = Keeper([lonely.node, *others], [a.instance.lease_id for a in answers], 5.0, every_s=0.5)
    keeper.start()
    poll("renewals through the node", lambda: len(keeper.acknowledged_at) >= 3, 10)
    with Watching(lonely.node, of("k4"), snapshot=True) as watching:
        watching.next()
        cut = time.monotonic()
        cluster.links.cut_off(lonely.name, [server.name for server in cluster.others(lonely.name)])
        refusal = told_by_watch(watching)
        told = time.monotonic() - cut
    require(is_unavailable(refusal, "NO_QUORUM", "NO_LEADER"), f"the watcher was told {refusal}")
    require(told <= 12.0, f"the watcher was told after {told:.1f} s")
    require(len(keeper.switches) + len(keeper.unconfirmed) > 0, "the keep-alive client noticed nothing")
    require(keeper.unconfirmed, f"no UNCONFIRMED; instead {keeper.switches[:2]}")
    sent, answered, node = keeper.unconfirmed[0]
    equal(node, lonely.name, "who said UNCONFIRMED")
    unconfirmed = answered - sent
    require(unconfirmed <= 1.25 + SLACK_S, f"UNCONFIRMED took {unconfirmed:.2f} s, with a TTL of 5 s")
    begun = time.monotonic()
    for call in (
        lambda s: s.node.registry.List(pb.ListRequest(selector=of("k4")), timeout=10),
        lambda s: register(s.node, record("k4", "x"), timeout=10),
    ):
        answer = everyone([lonely], call)[0]
        require(is_unavailable(answer, "NO_QUORUM", "NO_LEADER"), f"a cut-off node answered {str(answer)[:200]}")
    require(time.monotonic() - begun < 2 * (WITHOUT_QUORUM_S + SLACK_S), "a cut-off node refused too late")
    equal(len(listed(others[0], of("k4"))[1]), 20, "instances listed by the others")
    cluster.links.heal()
    healed = cluster.wait_ready()
    keeper.stop().none_lost()
    equal(len(listed(lonely.node, of("k4"))[1]), 20, "instances listed by the node that was cut off")
    for answer in answers:
        others[0].leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=answer.instance.lease_id))
    shared.compare()
    return (
        f"watcher told after {told:.1f} s, UNCONFIRMED after {unconfirmed * 1000:.0f} ms, "
        f"20 leases kept elsewhere, whole {healed:.1f} s after healing"
    )


def told_by_watch(watching) -> Refusal:
    """How a watch ends: by a CANCELED message or by its status."""
    deadline = time.monotonic() + 14
    try:
        while True:
            message = watching.next(max(0.01, deadline - time.monotonic()))
            if message.kind == pb.WatchResponse.CANCELED:
                return refusal_of_status(message.status)
    except grpc.RpcError as error:
        return refusal_of(error)


@check("follower-cut-off")
def follower_cut_off(world):
    """A follower without its peers."""
    return cut_off(world, lambda cluster: cluster.follower())


@check("leader-cut-off")
def leader_cut_off(world):
    """A leader without its followers, which elect another."""
    return cut_off(world, lambda cluster: cluster.leader())


@check("all-killed-under-load")
def all_killed(world):
    """kill -9 of all three under load, restart: what was acknowledged and lives is there."""
    shared = trouble(world)
    cluster = shared.cluster
    writers = [Registrar(cluster.nodes[i % 3 :], "k5", f"p{i}", pause_s=0) for i in range(2)]
    writers.append(Registrar(cluster.nodes, "k5", "leased", ttl=60.0))
    for writer in writers:
        writer.start()
    poll("load", lambda: sum(len(w.acknowledged) for w in writers) >= 600, 30)
    for server in cluster:
        server.signal(9)
    for server in cluster:
        server.kill()
    for writer in writers:
        writer.stop()
    highest = max(writer.highest_revision for writer in writers)
    begun = time.monotonic()
    for server in cluster:
        server.start()
    cluster.wait_ready()
    back = time.monotonic() - begun
    revision, records = listed(cluster.nodes[0])
    require(revision >= highest, f"revision {revision} after {highest} was seen")
    for writer in writers:
        writer.none_missing(records)
    cluster.same_lists()
    cluster.state_hashes()
    shared.compare()
    total = sum(len(writer.acknowledged) for writer in writers)
    return f"{total} acknowledged, 0 missing, revision {highest} -> {revision}, back after {back:.1f} s"


@check("all-restarted-with-long-timeouts")
def all_restarted(world):
    """kill -9 of all three, whose election timeouts are 50 s and more, and restart: they greet each other, and elect one
    long before."""
    cluster = world.cluster("patient")
    patient = {"election_min": "50s", "election_max": "60s"}
    for server in cluster:
        server.start(**patient)
    cluster.wait_ready()
    register(cluster.nodes[0], record("k11", "kept"), permanent=True)
    for server in cluster:
        server.kill()
    for server in cluster:
        server.start(**patient)
    back = cluster.wait_ready(within_s=30)
    for node in cluster.nodes:
        equal(list(listed(node, of("k11"))[1]), [("default", "k11", "kept")], f"what {node.name} lists")
    cluster.close()
    return f"a leader after {back:.2f} s"


@check("leader-paused-for-three-ttls")
def leader_paused(world):
    """SIGSTOP of the leader for 3 TTLs: leases that are renewed elsewhere live; it expires nobody when it resumes."""
    shared = trouble(world)
    cluster = shared.cluster
    leader = cluster.leader()
    others = [server.node for server in cluster.others(leader.name)]
    answers = many_registers(others[0], [record("k6", f"{i}") for i in range(200)], ttl=3.0)
    keeper = Keeper(others, [answer.instance.lease_id for answer in answers], 3.0, every_s=0.3)
    keeper.start()
    poll("renewals", lambda: len(keeper.acknowledged_at) >= 3, 10)
    begun = time.monotonic()
    leader.pause()
    poll("three TTLs pass", lambda: keeper.lost or time.monotonic() > begun + 9.0, 15)
    keeper_gap = keeper.gap_ms()
    leader.resume()
    resumed = time.monotonic()
    poll("two more TTLs pass", lambda: keeper.lost or time.monotonic() > resumed + 6.0, 15)
    keeper.stop().none_lost()
    cluster.wait_ready()
    for server in cluster:
        equal(len(listed(server.node, of("k6"))[1]), 200, f"instances listed by {server.name}")
    for answer in answers:
        others[0].leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=answer.instance.lease_id))
    cluster.state_hashes()
    shared.compare()
    return f"200 leases of 3 s kept over a pause of 9 s, longest without a renewal {keeper_gap:.0f} ms"


@check("compacted-and-stopped-readers", limit_s=240)
def compacted(world):
    """More changes than the history holds: a watcher that resumes from before them, and one that stopped reading,
    are reset and then whole."""
    shared = trouble(world)
    cluster = shared.cluster
    node = cluster.nodes[1]
    # Large enough that no window of the transport holds what the stopped reader misses.
    records = [record("k7", f"{i:04}", metadata={"pad": "x" * 1000}) for i in range(1000)]
    batch(cluster.nodes[0], records)
    selector = of("k7")
    resumed = Watcher(node, selector, "the watcher that resumes")
    resumed.start()
    resumed.equals_list(node)
    resumed.stop()
    stopped = Watching(node, selector, snapshot=True)
    stopped_view = Watcher(node, selector, "the watcher that stopped reading").view
    while stopped_view.revision is None:
        stopped_view.apply(stopped.next())
    begun = time.monotonic()
    for turn in range(90):
        for instance in records:
            instance.version = f"turn-{turn}"
        batch(cluster.nodes[turn % 3], records)
    flood = time.monotonic() - begun
    revision, wanted = listed(node, selector)

    again = Watcher(node, selector, "the watcher that resumes")
    again.view = resumed.view
    again.start()
    again.wait_revision(revision)
    equal(again.view.resets, ["COMPACTED"], "resets of the watcher that resumed")
    again.equals_list(cluster.nodes[0])
    again.stop()

    messages = 0
    deadline = time.monotonic() + 60
    while stopped_view.revision < revision:
        stopped_view.apply(stopped.next(max(0.01, deadline - time.monotonic())))
        messages += 1
    stopped.call.cancel()
    require(stopped_view.records == wanted, "the view of the watcher that stopped reading differs from the list")
    kinds = set(stopped_view.resets)
    require(kinds and kinds <= {"LAGGED", "COMPACTED"}, f"resets of the watcher that stopped reading: {kinds}")
    shared.compare()
    for start in range(0, 1000, 200):
        calls = [
            node.registry.Deregister.future(pb.DeregisterRequest(key=instance.key), timeout=20)
            for instance in records[start : start + 200]
        ]
        for call in calls:
            call.result()
    return (
        f"91,000 changes of 1 kB in {flood:.1f} s; resumed: COMPACTED, then whole; "
        f"stopped: {'+'.join(sorted(kinds))} after {messages} messages, then whole"
    )
