"""The error table: each row is provoked, and its code, reason, details and outcome compared.

`LATER` lists the rows whose calls the contract does not have yet.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import time

import grpc
from google.rpc import status_pb2

from .checks import Failed, Skipped, check, equal, poll, require
from .client import (
    Refusal,
    Watching,
    batch,
    everything,
    grant,
    key,
    of,
    record,
    refusal_of,
    refusal_of_status,
    refused,
    register,
    span,
    stale,
)
from .stubs import pb

TABLE = {
    "UNAVAILABLE": ("NO_LEADER", "NO_QUORUM", "LEADER_CHANGED", "SHUTTING_DOWN", "NOT_READY", "TOO_STALE"),
    "INVALID_ARGUMENT": ("INVALID_FIELD",),
    "NOT_FOUND": ("INSTANCE_NOT_FOUND", "LEASE_NOT_FOUND", "MEMBER_NOT_FOUND"),
    "ALREADY_EXISTS": ("LEASE_EXISTS",),
    "ABORTED": ("REVISION_MISMATCH", "PAGE_EXPIRED"),
    "FAILED_PRECONDITION": ("FENCED", "LAST_VOTER", "MEMBERSHIP_IN_PROGRESS", "NOT_CAUGHT_UP"),
    "OUT_OF_RANGE": ("REVISION_IN_FUTURE",),
    "RESOURCE_EXHAUSTED": ("TOO_MANY_INSTANCES", "TOO_MANY_LEASES", "TOO_MANY_WATCHES", "OVERLOADED", "DISK_FULL"),
    "DEADLINE_EXCEEDED": ("OUTCOME_UNKNOWN",),
    "UNAUTHENTICATED": ("TOKEN_INVALID",),
    "PERMISSION_DENIED": ("NOT_ALLOWED",),
}
LATER = {
    "LAST_VOTER": "membership",
    "MEMBERSHIP_IN_PROGRESS": "membership",
    "NOT_CAUGHT_UP": "membership",
    "MEMBER_NOT_FOUND": "membership",
    "TOKEN_INVALID": "tokens",
    "NOT_ALLOWED": "tokens",
}
LEASES_MAX = 1_000_000
ROWS: dict = {}


def row(reason: str, outcome: str | None = None, limit_s: int = 60, logs: dict | None = None):
    """Adds the provocation of one row: a function that returns the Refusal, or a list of them. `outcome`: what the
    failed write must say of itself. `logs`: as in `check`."""
    code = next(code for code, reasons in TABLE.items() if reason in reasons)

    def add(function):
        ROWS[reason] = function

        @check(f"error-row-{reason}", limit_s, logs)
        def run(world):
            answers = function(world)
            for refusal in answers if isinstance(answers, list) else [answers]:
                detailed(refusal, code, reason)
                if outcome is not None:
                    equal(refusal.outcome, outcome, f"outcome of {refusal}")
            return f"{code}" + (f", {outcome}" if outcome else "")

        return function

    return add


def detailed(refusal: Refusal, code: str, reason: str) -> None:
    """A refusal must have the code of its row and the details that go with it."""
    equal((refusal.code, refusal.reason, refusal.domain), (code, reason, "roster"), f"row of {refusal}")
    require(refusal.message, "an empty message")
    if code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
        require(refusal.retry_after is not None, f"{refusal} has no RetryInfo")
    if code == "RESOURCE_EXHAUSTED":
        require(refusal.quota, f"{refusal} has no QuotaFailure")
    if code == "INVALID_ARGUMENT":
        require(refusal.violations, f"{refusal} names no field")
    if code == "NOT_FOUND":
        require(refusal.resource, f"{refusal} has no ResourceInfo")


def watch_refusal(node, request, within_s: float = 10.0) -> Refusal:
    """How a watch that must not begin is refused: by its status, or by a CANCELED message."""
    call = node.registry.Watch(request, timeout=within_s)
    try:
        for message in call:
            if message.kind == pb.WatchResponse.CANCELED:
                return refusal_of_status(message.status)
    except grpc.RpcError as error:
        return refusal_of(error)
    finally:
        call.cancel()
    raise Failed("the watch was not refused")


@row("INVALID_FIELD", outcome="not_applied")
def _invalid(world):
    bad = record("-bad-", "x", address="no spaces here", ports=[pb.Port(number=0)])
    refusal = refused(lambda: register(world.healthy().nodes[1], bad), "INVALID_ARGUMENT", "INVALID_FIELD")
    wanted = {"instance.key.service", "instance.address", "instance.ports[0].number"}
    require(wanted <= set(refusal.fields), f"all violations at once: {refusal.fields} lacks {wanted}")
    return refusal


@row("INSTANCE_NOT_FOUND")
def _no_instance(world):
    node = world.healthy().nodes[2]
    k = key("absent", "x")
    update = refused(
        lambda: node.registry.Update(pb.UpdateRequest(key=k, weight=1)),
        "NOT_FOUND",
        "INSTANCE_NOT_FOUND",
        outcome="not_applied",
    )
    return [update, refused(lambda: node.registry.Get(pb.GetRequest(key=k)), "NOT_FOUND", "INSTANCE_NOT_FOUND")]


@row("LEASE_NOT_FOUND")
def _no_lease(world):
    node = world.healthy().nodes[1]
    get = refused(lambda: node.leases.GetLease(pb.GetLeaseRequest(lease_id=987_654)), "NOT_FOUND", "LEASE_NOT_FOUND")
    held = refused(
        lambda: register(node, record("no-lease", "x"), lease=987_654),
        "NOT_FOUND",
        "LEASE_NOT_FOUND",
        outcome="not_applied",
    )
    return [get, held]


@row("LEASE_EXISTS", outcome="not_applied")
def _lease_exists(world):
    n1, n2, _ = world.healthy().nodes
    own = (1 << 62) + 1 + world.rng.randrange(1 << 40)
    grant(n1, 30, own)
    return refused(lambda: grant(n2, 31, own), "ALREADY_EXISTS", "LEASE_EXISTS")


@row("REVISION_MISMATCH", outcome="not_applied")
def _mismatch(world):
    n1, n2, _ = world.healthy().nodes
    made = register(n1, record("mismatch", "x"), permanent=True).instance
    refusal = refused(
        lambda: register(n2, record("mismatch", "x", weight=1), permanent=True, expected=made.mod_revision + 999),
        "ABORTED",
        "REVISION_MISMATCH",
    )
    equal(refusal.metadata.get("revision"), str(made.mod_revision), "the current revision")
    return refusal


@row("FENCED", outcome="not_applied")
def _fenced(world):
    n1, n2, _ = world.healthy().nodes
    register(n1, record("fence-row", "x", incarnation=9))
    k = key("fence-row", "x")
    return refused(
        lambda: n2.registry.Deregister(pb.DeregisterRequest(key=k, incarnation=8)), "FAILED_PRECONDITION", "FENCED"
    )


@row("REVISION_IN_FUTURE")
def _future(world):
    node = world.healthy().nodes[1]
    page = node.registry.List(pb.ListRequest(selector=of("none")))
    after = pb.Position(cluster_id=page.position.cluster_id, revision=page.position.revision + 1_000_000)
    return watch_refusal(node, pb.WatchRequest(selector=of("none"), after=after))


@row("PAGE_EXPIRED")
def _page_expired(world):
    node = world.healthy().nodes[0]
    batch(node, [record("pinned", "a"), record("pinned", "b")])
    request = pb.ListRequest(selector=of("pinned"), page_size=1)
    first = node.registry.List(request).next_page_token
    for number in range(70):  # a node keeps 64 pins
        register(node, record("pinned", "a", metadata={"n": str(number)}), permanent=True)
        node.registry.List(request)
    request.page_token = first
    return refused(lambda: node.registry.List(request), "ABORTED", "PAGE_EXPIRED")


@row("TOO_MANY_INSTANCES", outcome="not_applied")
def _too_many_instances(world):
    node = world.healthy().nodes[1]
    lease = grant(node, 60).lease.lease_id
    for part in range(10):
        batch(node, [record("many", f"{part}-{i}") for i in range(1000)], lease=lease)
    try:
        return refused(
            lambda: register(node, record("many", "one-more"), lease=lease), "RESOURCE_EXHAUSTED", "TOO_MANY_INSTANCES"
        )
    finally:
        node.leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=lease))


@row("TOO_MANY_WATCHES")
def _too_many_watches(world):
    node = world.healthy().nodes[2]
    creates = [
        pb.WatchManyRequest(
            create=pb.CreateWatch(watch_id=i, watch=pb.WatchRequest(selector=of("none"), now=True))
        )
        for i in range(1, 1002)
    ]
    call = node.registry.WatchMany(iter(creates), timeout=20)
    try:
        for message in call:
            if message.kind == pb.WatchResponse.CANCELED:
                equal(message.watch_id, 1001, "the watch that was refused")
                return refusal_of_status(message.status)
    except grpc.RpcError as error:
        return refusal_of(error)
    finally:
        call.cancel()
    raise Failed("1,001 watches on one stream")


@row("NOT_READY")
def _not_ready(world):
    cluster = world.cluster("alone")
    server = cluster["n1"].start()

    def answered():
        try:
            server.node.registry.List(pb.ListRequest(selector=everything()), timeout=2)
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            return refusal if refusal.reason else None
        raise Failed("a node without a cluster lists")

    try:
        return poll("a node that waits for its peers says so", answered, 15)
    finally:
        cluster.close()


def rows_cluster(world):
    """A cluster whose nodes are paused and stopped for the rows of trouble."""
    cluster = world.shared("rows", lambda: world.cluster("rows").start())
    cluster.heal()
    return cluster


@row("NO_LEADER")
def _no_leader(world):
    """Both rows of a minority: which of the two a node says depends on when it last heard of a leader."""
    cluster = rows_cluster(world)
    leader = cluster.leader()
    survivor, other = cluster.others(leader.name)
    leader.pause()
    other.pause()
    try:

        def says_no_leader():
            refusal = refused(
                lambda: register(survivor.node, record("minority", "x")), "UNAVAILABLE", "NO_LEADER", "NO_QUORUM"
            )
            equal(refusal.outcome, "not_applied", f"outcome of {refusal}")
            detailed(refusal, "UNAVAILABLE", refusal.reason)
            return refusal if refusal.reason == "NO_LEADER" else None

        return poll("a follower without a leader says NO_LEADER", says_no_leader, 20)
    finally:
        cluster.heal()


@row("NO_QUORUM", outcome="not_applied")
def _no_quorum(world):
    cluster = rows_cluster(world)
    leader = cluster.leader()
    for server in cluster.others(leader.name):
        server.pause()
    try:

        def says_no_quorum():
            try:
                register(leader.node, record("minority", "x"))
            except grpc.RpcError as error:
                refusal = refusal_of(error)
                # What was appended before the loss was noticed is unknown; what comes later must not be.
                return refusal if (refusal.reason, refusal.outcome) == ("NO_QUORUM", "not_applied") else None
            raise Failed("a leader without a quorum acknowledged a write")

        return poll("a leader without a quorum says NO_QUORUM, not_applied", says_no_quorum, 30)
    finally:
        cluster.heal()


@row("TOO_STALE")
def _too_stale(world):
    cluster = rows_cluster(world)
    leader = cluster.leader()
    survivor, other = cluster.others(leader.name)
    leader.pause()
    other.pause()
    try:
        time.sleep(0.5)  # the age that is refused
        request = pb.ListRequest(selector=everything(), read=stale(0.3))
        return refused(lambda: survivor.node.registry.List(request), "UNAVAILABLE", "TOO_STALE")
    finally:
        cluster.heal()


@row("OUTCOME_UNKNOWN", outcome="unknown")
def _outcome_unknown(world):
    """The caller's deadline passes while the write is appended and not committed. The deadline is told to the server
    alone, so that its answer arrives instead of the client's own."""
    if not shutil.which("curl"):
        raise Skipped("no curl, which sets grpc-timeout without a deadline of its own")
    cluster = rows_cluster(world)
    leader = cluster.leader()
    for server in cluster.others(leader.name):
        server.pause()
    try:
        request = pb.RegisterRequest(instance=record("unknown", "x"), permanent=True)
        return curl_call(leader, "/roster.v1.Registry/Register", request.SerializeToString(), "200m")
    finally:
        cluster.heal()


def curl_call(server, method: str, message: bytes, timeout: str) -> Refusal:
    """A unary call by curl with that `grpc-timeout`; returns its error."""
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    headers = ["content-type: application/grpc", "te: trailers", f"grpc-timeout: {timeout}"]
    command = ["curl", "-sS", "--noproxy", "*", "--http2-prior-knowledge", "-m", "10", "-D", "-", "-o", "/dev/null"]
    for header in headers:
        command += ["-H", header]
    command += ["--data-binary", "@-", f"http://{server.client_address}{method}"]
    done = subprocess.run(command, input=frame, capture_output=True, timeout=15, check=False)
    fields = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    require("grpc-status" in fields, f"no grpc-status: {fields} {done.stderr.decode()!r}")
    encoded = fields.get("grpc-status-details-bin", "")
    status = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    code = next(c.name for c in grpc.StatusCode if c.value[0] == int(fields["grpc-status"]))
    return refusal_of_status(status, code)


@row("LEADER_CHANGED", outcome="unknown", limit_s=90)
def _leader_changed(world):
    """A follower has handed a write over, and the leader dies before it answers: it stands still when the write comes,
    and is then killed."""
    cluster = rows_cluster(world)
    leader = cluster.leader()
    follower = cluster.others(leader.name)[0]
    # The way to the leader is open before it matters.
    register(follower.node, record("changing", "before"), permanent=True)
    leader.pause()
    request = pb.RegisterRequest(instance=record("changing", "under-way"), permanent=True)
    call = follower.node.registry.Register.future(request, timeout=8)
    time.sleep(0.2)
    require(not call.done(), "the write was answered while the leader stood still")
    leader.kill()
    try:
        error = call.exception()
        require(error is not None, "a write that a dead leader took was acknowledged")
        return refusal_of(error)
    finally:
        cluster.heal()


@row("OVERLOADED", outcome="not_applied", limit_s=90)
def _overloaded(world):
    """More writes at once than a node takes, while no quorum takes them off its hands."""
    cluster = rows_cluster(world)
    leader = cluster.leader()
    for server in cluster.others(leader.name):
        server.pause()
    try:
        large = {f"k{number}": "v" * 4000 for number in range(15)}
        request = pb.RegisterRequest(instance=record("flood", "x", metadata=large), permanent=True)
        calls = [leader.node.registry.Register.future(request, timeout=8) for _ in range(1_000)]
        reasons: dict = {}
        for call in calls:
            error = call.exception()
            if error is not None:
                refusal = refusal_of(error)
                if refusal.reason == "OVERLOADED":
                    return refusal
                reasons[refusal.reason] = reasons.get(refusal.reason, 0) + 1
        raise Skipped(f"1,000 writes at once were refused as {reasons}")
    finally:
        cluster.heal()


@row("TOO_MANY_LEASES", outcome="not_applied", limit_s=240)
def _too_many_leases(world):
    """As many leases as a cluster may have, granted by a load generator; then one more, alone and with an instance."""
    if shutil.which("h2load") is None:
        raise Skipped("no h2load to grant a million leases")
    cluster = world.cluster("leases").start()
    try:
        leader = cluster.leader()
        message = pb.GrantLeaseRequest(ttl=span(24 * 3600)).SerializeToString()
        body = world.folder("leases-body") / "grant"
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        load = ["h2load", "-n", str(LEASES_MAX), "-c", "8", "-m", "200", "-d", str(body)]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        url = f"http://{leader.client_address}/roster.v1.Leases/GrantLease"
        subprocess.run([*load, *headers, url], check=True, capture_output=True, timeout=200)
        # Whatever the load generator lost on the way is granted here.
        for _ in range(10_000):
            try:
                grant(leader.node, 24 * 3600)
            except grpc.RpcError as error:
                alone = refusal_of(error)
                break
        else:
            raise Failed("ten thousand leases more were granted")
        with_instance = refused(
            lambda: register(cluster.nodes[0], record("one-more", "x"), ttl=30), "RESOURCE_EXHAUSTED", "TOO_MANY_LEASES"
        )
        register(cluster.nodes[1], record("one-more", "permanent"), permanent=True)
        return [alone, with_instance]
    finally:
        cluster.close()


@row(
    "DISK_FULL",
    outcome="not_applied",
    limit_s=90,
    logs={"the disk is nearly full": "which is for a person to look at"},
)
def _disk_full(world):
    """Data directories with hardly any room: what would grow the registry is refused, what shrinks it is not, and with
    room again everything is taken."""
    if os.geteuid() != 0:
        raise Skipped("mounting a small file system needs root")
    cluster = world.cluster("full")
    mounted = []
    try:
        for server in cluster:
            server.data.mkdir(parents=True)
            mount = ["mount", "-t", "tmpfs", "-o", "size=90m,mode=0700", "tmpfs", str(server.data)]
            if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
                raise Skipped("tmpfs can't be mounted here")
            mounted.append(str(server.data))
        cluster.start()
        answers = []

        def refused():
            try:
                register(cluster.nodes[0], record("full", "x"), permanent=True)
            except grpc.RpcError as error:
                answers.append(refusal_of(error))
            return answers

        poll("a register is refused", refused, 10)
        gone = cluster.nodes[1].registry.Deregister(pb.DeregisterRequest(key=key("full", "x")), timeout=5)
        require(gone.header.revision >= 0, "a Deregister is refused on a full disk")
        for folder in mounted:
            subprocess.run(["mount", "-o", "remount,size=400m", folder], check=True, capture_output=True)
        poll("there is room again", lambda: taken(cluster.nodes[2], record("full", "y")), 10)
        return answers
    finally:
        cluster.close()
        for folder in mounted:
            subprocess.run(["umount", folder], check=True, capture_output=True)


def taken(node, instance) -> bool:
    """Whether the node takes a register."""
    try:
        register(node, instance, permanent=True)
    except grpc.RpcError:
        return False
    return True


@row("SHUTTING_DOWN")
def _shutting_down(world):
    cluster = rows_cluster(world)
    server = cluster.follower()
    with Watching(server.node, everything(), snapshot=True) as watching:
        watching.next()
        server.signal(signal.SIGTERM)
        try:
            message = watching.until(lambda m: m.kind == pb.WatchResponse.CANCELED, 12)
            return refusal_of_status(message.status)
        except grpc.RpcError as error:
            return refusal_of(error)
        finally:
            equal(server.wait(12), 0, "exit code")
            world.forget("rows")


@check("error-rows-are-all-accounted-for")
def accounted(world):
    """Every row of the table is provoked here, or named as not yet reachable."""
    reasons = {reason for row_reasons in TABLE.values() for reason in row_reasons}
    accounted_for = ROWS.keys() | LATER.keys()
    equal(sorted(reasons ^ accounted_for), [], "rows without a case, or cases without a row")
    later = ", ".join(sorted(LATER))
    return f"{len(ROWS)} of {len(reasons)} provoked; not yet reachable: {later}"
