"""Three nodes and what the API promises while nothing goes wrong."""

from __future__ import annotations

import re
import time


from .checks import Failed, check, equal, poll, require
from .client import (
    Watching,
    batch,
    everything,
    grant,
    key,
    key_of,
    listed,
    of,
    pages,
    record,
    refused,
    register,
    span,
    stale,
)
from .stubs import pb
from .view import Watcher


def outcome(answer) -> str:
    """The outcome of a Register by name."""
    return pb.RegisterResponse.Outcome.Name(answer.outcome)


def ids(records) -> list:
    """The ids among records by key, sorted."""
    return sorted(name[2] for name in records)


@check("register-at-1-list-at-2-and-3")
def register_and_list(world):
    """What node 1 acknowledged, nodes 2 and 3 list at once, and the same."""
    cluster = world.healthy()
    n1, n2, n3 = cluster.nodes
    begun = time.monotonic()
    for number in range(100):
        answer = register(n1, record("seen", f"i{number}"))
        equal(outcome(answer), "CREATED", "outcome")
        for node in (n2, n3):
            revision, records = listed(node, of("seen"))
            require(revision >= answer.header.revision, f"{node.name} lists at {revision}, before the write")
            require(len(records) == number + 1, f"{node.name} lists {len(records)} of {number + 1}")
    per_round = (time.monotonic() - begun) * 1000 / 100
    lists = [listed(node, of("seen"))[1] for node in cluster.nodes]
    require(lists[0] == lists[1] == lists[2], "the nodes list different records")
    made_up = register(n2, record("seen-unnamed")).instance.key.id
    require(made_up, "an empty id was not made up")
    require(key_of(key("seen-unnamed", made_up)) in listed(n3, of("seen-unnamed"))[1], "the made-up id is not listed")
    return f"100 writes each seen at once by 2 nodes, {per_round:.1f} ms a round"


@check("batch")
def batches(world):
    """A batch is one revision, all or nothing, under one lease or permanent."""
    n1, n2, n3 = world.healthy().nodes
    lease = grant(n1, 60).lease.lease_id
    before = listed(n2)[0]
    answer = batch(n2, [record("batch", f"b{i}") for i in range(999)] + [record("batch")], lease=lease)
    require(answer.changed, "changed is not set")
    equal(len(answer.ids), 1000, "ids")
    equal(answer.ids[:2], ["b0", "b1"], "first ids")
    require(answer.ids[999], "the empty id was not made up")
    equal(answer.header.revision, before + 1, "revision of a batch of 1,000")
    records = listed(n3, of("batch"))[1]
    equal(len(records), 1000, "records listed")
    equal({r.create_revision for r in records.values()}, {answer.header.revision}, "create revisions")
    equal({r.lease_id for r in records.values()}, {lease}, "leases")
    again = batch(n1, [record("batch", f"b{i}") for i in range(999)], lease=lease)
    require(not again.changed and again.header.revision == answer.header.revision, "the same batch moved the revision")
    refused(
        lambda: batch(n1, [record("batch-bad", "ok"), record("batch-bad", "bad", weight=70_000)]),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        outcome="not_applied",
        path="instances[1].weight",
    )
    equal(listed(n2, of("batch-bad"))[1], {}, "records of a refused batch")
    revoked = n3.leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=lease))
    require(revoked.existed and revoked.removed == 1000, f"revoke says {revoked.existed}, {revoked.removed}")
    equal(revoked.header.revision, answer.header.revision + 1, "revision of the revoke")
    equal(listed(n1, of("batch"))[1], {}, "records after the revoke")
    return "1,000 in one revision, none of a refused batch, 1,000 gone in one revision"


@check("pages-of-one-revision-over-nodes")
def paging(world):
    """Pages taken from different nodes while writes go on are of one revision, whole and without repeats."""
    cluster = world.healthy()
    nodes = cluster.nodes
    batch(nodes[0], [record("paged", f"p{i:04}") for i in range(700)])
    turn = iter(range(10_000))
    seen, revisions, count = [], set(), 0
    for page in pages(nodes[0], of("paged"), page_size=50, next_node=lambda _: nodes[next(turn) % 3]):
        count += 1
        require(len(page.instances) <= 50, f"a page of {len(page.instances)}")
        seen += [instance.key.id for instance in page.instances]
        revisions.add(page.header.revision)
        # Written while the list is under way: on a page to come and on one that has been.
        register(nodes[count % 3], record("paged", f"p{600 + count:04}", tags=["late"]), permanent=True)
        register(nodes[count % 3], record("paged", f"q{count:04}"), permanent=True)
        nodes[1].registry.Deregister(pb.DeregisterRequest(key=key("paged", f"p{690 - count:04}")))
    equal(len(revisions), 1, f"revisions of {count} pages")
    equal(seen, [f"p{i:04}" for i in range(700)], "what the pages held")
    defaults = next(pages(nodes[2], of("paged"), page_size=0))
    require(len(defaults.instances) == 500 and defaults.next_page_token, f"a default page of {len(defaults.instances)}")
    return f"{count} pages from 3 nodes at revision {revisions.pop()}"


@check("filters")
def filters(world):
    """Every field and operator of a match, prefixes, namespaces, and `serving`."""
    n1, n2, _ = world.healthy().nodes
    batch(
        n1,
        [
            record("f-a", "1", zone="z1", region="r1", version="1.0", tags=["blue"], metadata={"team": "x"}),
            record("f-a", "2", zone="z2", region="r1", version="2.0", tags=["blue", "new"], status=pb.Instance.DRAINING),
            record("f-b", "3", zone="z1", weight=0, metadata={"team": "y"}),
            record("f-b", "4", status=pb.Instance.STARTING, ports=[pb.Port(name="grpc", number=1)]),
            record("f-a", "5", namespace="other", zone="z1"),
        ],
    )

    def chosen(selector) -> list:
        return ids(listed(n2, selector)[1])

    def match(field, op, *values):
        return pb.Match(field=field, op=pb.Match.Op.Value(op), values=values)

    both = {"service_prefix": "f-"}
    stories = [
        ("prefix", pb.Selector(**both), ["1", "2", "3", "4"]),
        ("two services", of("f-a", "f-b"), ["1", "2", "3", "4"]),
        ("other namespace", of("f-a", namespace="other"), ["5"]),
        ("all namespaces", pb.Selector(all_namespaces=True, **both), ["1", "2", "3", "4", "5"]),
        ("serving", pb.Selector(serving=True, **both), ["1"]),
        ("zone in", pb.Selector(matches=[match("zone", "IN", "z1", "z9")], **both), ["1", "3"]),
        ("zone not in", pb.Selector(matches=[match("zone", "NOT_IN", "z1")], **both), ["2", "4"]),
        ("region exists", pb.Selector(matches=[match("region", "EXISTS")], **both), ["1", "2"]),
        ("version in", pb.Selector(matches=[match("version", "IN", "2.0")], **both), ["2"]),
        ("status in", pb.Selector(matches=[match("status", "IN", "UP")], **both), ["1", "3"]),
        ("tag in", pb.Selector(matches=[match("tag", "IN", "new", "old")], **both), ["2"]),
        ("tag not in", pb.Selector(matches=[match("tag", "NOT_IN", "new")], **both), ["1", "3", "4"]),
        ("port in", pb.Selector(matches=[match("port", "IN", "grpc")], **both), ["4"]),
        ("metadata in", pb.Selector(matches=[match("metadata.team", "IN", "y")], **both), ["3"]),
        ("metadata exists", pb.Selector(matches=[match("metadata.team", "EXISTS")], **both), ["1", "3"]),
        (
            "all must hold",
            pb.Selector(matches=[match("tag", "IN", "blue"), match("zone", "NOT_IN", "z2")], **both),
            ["1"],
        ),
    ]
    for what, selector, wanted in stories:
        equal(chosen(selector), wanted, what)
    return f"{len(stories)} selectors"


@check("watch-filter-enters-and-leaves")
def watch_filter(world):
    """An instance that stops matching is a removal, one that begins to match is a put."""
    n1, n2, _ = world.healthy().nodes
    register(n1, record("enters", "a", status=pb.Instance.STARTING), permanent=True)
    put, remove = pb.Change.PUT, pb.Change.REMOVE
    with Watching(n2, of("enters", serving=True), snapshot=True) as watching:
        first = watching.next()
        require(first.kind == pb.WatchResponse.SNAPSHOT and not first.changes and not first.more, "a full snapshot")

        def changed(update, kind, reason):
            n1.registry.Update(update)
            message = watching.until(lambda m: m.changes)
            change = message.changes[0]
            equal((len(message.changes), change.kind, change.reason), (1, kind, reason), "change")

        a = key("enters", "a")
        unset, left = pb.Change.REASON_UNSPECIFIED, pb.Change.LEFT_SELECTOR
        changed(pb.UpdateRequest(key=a, status=pb.Instance.UP), put, unset)
        changed(pb.UpdateRequest(key=a, weight=0), remove, left)
        n1.registry.Update(pb.UpdateRequest(key=a, version="9"))  # outside: nobody is told
        changed(pb.UpdateRequest(key=a, weight=5), put, unset)
        n1.registry.Deregister(pb.DeregisterRequest(key=a))
        change = watching.until(lambda m: m.changes).changes[0]
        equal((change.kind, change.reason), (remove, pb.Change.DEREGISTERED), "change")
    return "entered twice, left once, deregistered"


@check("holding-own-shared-permanent")
def holding(world):
    """An own lease lives with its instance, a shared one holds many, a permanent record needs none."""
    n1, n2, n3 = world.healthy().nodes
    own = register(n1, record("held", "own"), ttl=1.5)
    require(own.instance.lease_id > 0, "an own lease has no id")
    equal(own.instance.ttl.ToMilliseconds(), 1500, "ttl in ms")
    shown = n2.leases.GetLease(pb.GetLeaseRequest(lease_id=own.instance.lease_id))
    require(shown.lease.own and shown.lease.instances == 1, f"the own lease shows as {shown.lease}")
    default = register(n1, record("held", "default"))
    equal(default.instance.ttl.ToMilliseconds(), 15_000, "default ttl in ms")
    n1.registry.Deregister(pb.DeregisterRequest(key=key("held", "default")))
    refused(
        lambda: n3.leases.GetLease(pb.GetLeaseRequest(lease_id=default.instance.lease_id)),
        "NOT_FOUND",
        "LEASE_NOT_FOUND",
    )
    shared = grant(n2, 1.5).lease.lease_id
    for number in range(3):
        register(n3, record("held", f"shared{number}"), lease=shared)
    register(n1, record("held", "permanent"), permanent=True)
    shown = n1.leases.GetLease(pb.GetLeaseRequest(lease_id=shared))
    require(not shown.lease.own and shown.lease.instances == 3, f"the shared lease shows as {shown.lease}")
    equal(sorted(k.id for k in shown.instances), ["shared0", "shared1", "shared2"], "what it holds")
    poll("both leases end", lambda: ids(listed(n2, of("held"))[1]) == ["permanent"], 5)
    gone = n1.registry.Get(pb.GetRequest(key=key("held", "permanent"))).instance
    equal(gone.lease_id, 0, "lease of a permanent record")
    answer = n3.leases.Renew(pb.RenewRequest(seq=7, lease_ids=[shared]))
    equal((answer.seq, answer.results[0].outcome), (7, pb.RenewResult.NOT_FOUND), "renewal of an ended lease")
    return "own and shared leases ended, the permanent record stayed"


@check("take-over")
def take_over(world):
    """A Register takes over whatever holds the instance; the own lease that loses it ends in the same revision."""
    n1, n2, n3 = world.healthy().nodes
    first = register(n1, record("taken", "a"), ttl=60)
    shared = grant(n2, 60).lease.lease_id
    second = register(n2, record("taken", "a"), lease=shared)
    equal(outcome(second), "TOOK_OVER", "outcome of shared over own")
    equal(second.instance.lease_id, shared, "lease")
    answer = n3.leases.Renew(pb.RenewRequest(lease_ids=[first.instance.lease_id, shared]))
    equal([r.outcome for r in answer.results], [pb.RenewResult.NOT_FOUND, pb.RenewResult.RENEWED], "renewals")
    equal(answer.results[1].instances, 1, "instances of the shared lease")
    third = register(n3, record("taken", "a"), permanent=True)
    equal(outcome(third), "TOOK_OVER", "outcome of permanent over shared")
    answer = n1.leases.Renew(pb.RenewRequest(lease_ids=[shared]))
    equal((answer.results[0].outcome, answer.results[0].instances), (pb.RenewResult.RENEWED, 0), "what it still holds")
    newer = register(n1, record("taken", "b", incarnation=10), ttl=60)
    newest = register(n1, record("taken", "b", incarnation=11), ttl=60)
    equal(outcome(newest), "TOOK_OVER", "outcome of a greater incarnation")
    require(newest.instance.lease_id != newer.instance.lease_id, "a greater incarnation kept its predecessor's lease")
    answer = n2.leases.Renew(pb.RenewRequest(lease_ids=[newer.instance.lease_id]))
    equal(answer.results[0].outcome, pb.RenewResult.NOT_FOUND, "the predecessor's renewal")
    return "shared over own, permanent over shared, greater incarnation over smaller"


@check("fencing")
def fencing(world):
    """A smaller incarnation can't register, update or deregister, not even late, not even after Deregister."""
    n1, n2, n3 = world.healthy().nodes
    k = key("fenced", "a")
    register(n1, record("fenced", "a", incarnation=100))
    register(n2, record("fenced", "a", incarnation=200))
    attempts = [
        lambda: register(n3, record("fenced", "a", incarnation=100)),
        lambda: register(n3, record("fenced", "a")),  # 0 over a non-zero one
        lambda: n1.registry.Update(pb.UpdateRequest(key=k, weight=1, incarnation=100)),
        lambda: n2.registry.Deregister(pb.DeregisterRequest(key=k, incarnation=100)),  # the late shutdown hook
    ]
    before = listed(n1, of("fenced"))
    for attempt in attempts:
        refused(attempt, "FAILED_PRECONDITION", "FENCED", outcome="not_applied")
    equal(listed(n2, of("fenced")), before, "the list after four fenced attempts")
    gone = n3.registry.Deregister(pb.DeregisterRequest(key=k, incarnation=200))
    require(gone.existed, "the owner's Deregister found nothing")
    again = lambda: register(n1, record("fenced", "a", incarnation=200))  # noqa: E731
    refused(again, "FAILED_PRECONDITION", "FENCED", outcome="not_applied")
    register(n1, record("fenced", "a", incarnation=201))
    n2.registry.Deregister(pb.DeregisterRequest(key=k))  # an operator's, which names no incarnation
    return "4 attempts of a zombie and 1 after the end, all FENCED"


@check("repeated-register-moves-nothing")
def idempotence(world):
    """The same Register again renews, moves no revision and wakes no watcher; the other writes repeat as well."""
    n1, n2, n3 = world.healthy().nodes
    first = register(n1, record("again", "a", tags=["y", "x"]), ttl=30)
    revision = first.header.revision
    with Watching(n2, of("again"), snapshot=True, progress_interval=span(0.2)) as watching:
        # The watch begins with what its own node has; it may be a moment behind.
        while watching.next().position.revision < revision:
            pass
        for node in (n1, n2, n3):
            answer = register(node, record("again", "a", tags=["x", "y"]), ttl=30)
            equal(outcome(answer), "UNCHANGED", "outcome")
            equal(answer.instance, first.instance, "record")
            equal(answer.header.revision, revision, "revision")
        for _ in range(3):
            message = watching.next()
            equal(message.kind, pb.WatchResponse.PROGRESS, "what the watcher was sent")
            equal(message.position.revision, revision, "its position")
    changed = register(n3, record("again", "a", tags=["x"]), ttl=30)
    equal((outcome(changed), changed.instance.lease_id), ("CHANGED", first.instance.lease_id), "a different record")
    equal(changed.header.revision, revision + 1, "revision of a change")
    for existed in (True, False):
        gone = n1.registry.Deregister(pb.DeregisterRequest(key=key("again", "a")))
        equal((gone.existed, gone.header.revision), (existed, revision + 2), "Deregister")
    own = (1 << 62) + world.rng.randrange(1 << 40)
    grants = [grant(node, 30, own) for node in (n1, n2)]
    equal(grants[0].header.revision, grants[1].header.revision, "revision of the same grant again")
    for existed in (True, False):
        equal(n2.leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=own)).existed, existed, "Revoke")
    for _ in range(2):
        equal(n1.leases.Renew(pb.RenewRequest(lease_ids=[own])).results[0].outcome, pb.RenewResult.NOT_FOUND, "Renew")
    return "3 repeated Registers, no revision, no watch message"


@check("expected-revisions")
def expected(world):
    """Compare-and-set by mod_revision, and only-if-absent."""
    n1, n2, _ = world.healthy().nodes
    made = register(n1, record("cas", "a"), permanent=True, expected=0)
    refusal = refused(
        lambda: register(n2, record("cas", "a", tags=["t"]), permanent=True, expected=0),
        "ABORTED",
        "REVISION_MISMATCH",
        outcome="not_applied",
    )
    equal(refusal.metadata.get("revision"), str(made.instance.mod_revision), "the current revision in the refusal")
    changed = n2.registry.Update(
        pb.UpdateRequest(key=key("cas", "a"), weight=7, expected_mod_revision=made.instance.mod_revision)
    )
    require(changed.changed and changed.instance.weight == 7, "the update was not made")
    stale_removal = pb.DeregisterRequest(key=key("cas", "a"), expected_mod_revision=made.instance.mod_revision)
    refused(lambda: n1.registry.Deregister(stale_removal), "ABORTED", "REVISION_MISMATCH", outcome="not_applied")
    other_lease = pb.DeregisterRequest(key=key("cas", "a"), lease_id=12345)
    require(not n1.registry.Deregister(other_lease).existed, "another lease's Deregister removed it")
    require(len(listed(n2, of("cas"))[1]) == 1, "the record is gone")
    return "4 conditions kept"


@check("stale-reads")
def stale_reads(world):
    """A stale read says so and tells its age; `min_revision` waits; `max_age` is met by asking first."""
    cluster = world.healthy()
    ages = []
    for server in cluster:
        node = server.node
        poll(
            f"{node.name} knows its age",
            lambda n=node: n.registry.List(pb.ListRequest(selector=of("none"), read=stale())).header.HasField("age"),
            5,
        )
        answer = node.registry.List(pb.ListRequest(selector=of("none"), read=stale()))
        require(answer.header.stale and answer.header.node == node.name, f"header says {answer.header}")
        ages.append(answer.header.age.ToMilliseconds())
        fresh = node.registry.List(pb.ListRequest(selector=of("none"), read=stale(0.4)))
        require(fresh.header.age.ToMilliseconds() <= 400, f"age {fresh.header.age.ToMilliseconds()} ms of at most 400")
        equal(node.registry.List(pb.ListRequest(selector=of("none"))).header.stale, False, "stale of a default read")
    n1, n2, n3 = cluster.nodes
    for number in range(50):
        revision = register(n1, record("own-writes", f"{number}")).header.revision
        read = pb.ReadOptions(consistency=pb.ReadOptions.STALE, min_revision=revision)
        answer = (n2, n3)[number % 2].registry.Get(pb.GetRequest(key=key("own-writes", f"{number}"), read=read))
        require(answer.header.revision >= revision, "a read below min_revision")
    return f"ages {'/'.join(str(age) for age in ages)} ms, 50 own writes read elsewhere"


@check("watch-resumes-on-another-node")
def resume_elsewhere(world):
    """A position taken at one node, or from a list, continues at another: no gap, no duplicate, while writes go on."""
    nodes = world.healthy().nodes
    page = nodes[0].registry.List(pb.ListRequest(selector=of("moves")))
    position, view, steps = page.position, set(), 0
    for turn in range(12):
        written = register(nodes[turn % 3], record("moves", f"m{turn}"), permanent=True).header.revision
        with Watching(nodes[(turn + 1) % 3], of("moves"), after=position) as watching:
            while position.revision < written:
                message = watching.next()
                require(message.kind != pb.WatchResponse.SNAPSHOT, "a snapshot instead of what followed")
                for change in message.changes:
                    require(change.revision > position.revision, "a change from before the position")
                    require(change.instance.key.id not in view, f"{change.instance.key.id} twice")
                    view.add(change.instance.key.id)
                if not message.more:
                    position = message.position
                    steps += 1
    equal(view, {f"m{turn}" for turn in range(12)}, "what was seen over 12 watches")
    return f"12 watches over 3 nodes, {steps} steps"


@check("watch-many-half-closed")
def watch_many(world):
    """Many watches on one stream, which live on when the client half-closes its side; one is cancelled before."""
    nodes = world.healthy().nodes
    requests = [
        pb.WatchManyRequest(create=pb.CreateWatch(watch_id=i, watch=pb.WatchRequest(selector=of(f"many{i}"))))
        for i in range(1, 21)
    ] + [pb.WatchManyRequest(cancel=pb.CancelWatch(watch_id=20))]
    call = nodes[1].registry.WatchMany(iter(requests), timeout=20)  # the iterator ends: half-closed
    begun, cancelled, seen = set(), set(), {}
    written = False
    for message in call:
        if message.kind == pb.WatchResponse.SNAPSHOT and not message.more:
            begun.add(message.watch_id)
        if message.kind == pb.WatchResponse.CANCELED:
            cancelled.add(message.watch_id)
        for change in message.changes:
            seen[message.watch_id] = change.instance.key.service
        if not written and begun | cancelled == set(range(1, 21)) and cancelled:
            written = True
            for i in range(1, 21):
                register(nodes[0], record(f"many{i}", "a"), permanent=True)
        if len(seen) == 19:
            break
    call.cancel()
    equal(cancelled, {20}, "cancelled watches")
    equal(seen, {i: f"many{i}" for i in range(1, 20)}, "changes by watch")
    return "19 watches lived on after the half-close, 1 was cancelled"


@check("list-and-watch-join-under-writes", limit_s=60)
def join(world):
    """Watches that begin while writes go on: their snapshot and changes join without gap or duplicate."""
    from .load import Registrar

    cluster = world.healthy()
    writers = [Registrar(cluster.nodes, "joined", f"j{i}", pause_s=0) for i in range(2)]
    for writer in writers:
        writer.start()
    watchers = []
    try:
        for turn in range(30):
            watcher = Watcher(cluster.nodes[turn % 3], of("joined"), f"watcher {turn}")
            watcher.start()
            watchers.append(watcher)
            poll("its snapshot", lambda w=watcher: w.failure or w.view.revision, 10)
    finally:
        for writer in writers:
            writer.stop()
    revision, records = listed(cluster.nodes[0], of("joined"))
    for watcher in watchers:
        watcher.wait_revision(revision)
        require(watcher.view.at(revision) == records, f"{watcher.view.name} differs from the list at {revision}")
        watcher.stop()
    for writer in writers:
        writer.none_missing(records)
    return f"30 watches begun within {len(records)} writes"


@check("lists-of-services-and-namespaces")
def summaries(world):
    """ListServices and ListNamespaces count what is there."""
    n1, n2, _ = world.healthy().nodes
    status = pb.Instance
    batch(
        n1,
        [record("sum-a", f"{i}", "sums", status=s) for i, s in enumerate([status.UP, status.UP, status.DOWN])]
        + [record("sum-b", "x", "sums", status=status.STARTING), record("sum-b", "y", "sums", status=status.DRAINING)],
    )
    answer = n2.registry.ListServices(pb.ListServicesRequest(namespace="sums"))
    counts = {s.service: (s.starting, s.up, s.draining, s.down) for s in answer.services}
    equal(counts, {"sum-a": (0, 2, 0, 1), "sum-b": (1, 0, 1, 0)}, "services")
    answer = n2.registry.ListNamespaces(pb.ListNamespacesRequest())
    found = {n.namespace: (n.services, n.instances) for n in answer.namespaces}
    equal(found.get("sums"), (2, 5), "namespace")
    return "2 services, 5 instances, by status"


@check("state-hashes-agree")
def hashes(world):
    """All nodes hold the same state at one applied index."""
    cluster = world.healthy()
    index = cluster.state_hashes()
    revision, records = cluster.same_lists()
    return f"at index {index}; {len(records)} records at revision {revision}"


@check("quiet-log")
def quiet_log(world):
    """A run in which nothing goes wrong logs no WARN or ERROR once the nodes have found each other."""
    cluster = world.cluster("quiet").start()
    marks = {server.name: len(server.output()) for server in cluster}
    for number in range(50):
        register(cluster.nodes[number % 3], record("quiet", f"{number}"))
    with Watching(cluster.nodes[1], everything(), snapshot=True) as watching:
        watching.next()
    for server in cluster:
        listed(server.node)
        for line in server.output()[marks[server.name] :].splitlines():
            if re.search(r"\b(WARN|ERROR)\b", line):
                raise Failed(f"{server.name} logged: {line.strip()}")
    codes = []
    for name in ("n3", "n2", "n1"):
        codes.append(cluster[name].terminate()[0])
    equal(codes, [0, 0, 0], "exit codes after SIGTERM, one after another")
    for server in cluster:
        for line in server.output().splitlines():
            require(not re.search(r"\bERROR\b|panicked at", line), f"{server.name} logged: {line.strip()}")
    cluster.close()
    return "no WARN or ERROR line"
