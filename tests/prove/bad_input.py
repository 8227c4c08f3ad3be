"""Requests that no careful client sends: each is refused with the field named, and the node lives on."""

from __future__ import annotations

import os
import socket
import time

import grpc

from .checks import Failed, check, equal, poll, require
from .client import (
    Watching,
    batch,
    everything,
    grant,
    key,
    listed,
    of,
    record,
    refusal_of,
    refused,
    register,
    span,
    stale,
)
from .error_rows import watch_refusal
from .stubs import pb


def invalid(node, call, path: str):
    """A call that must be refused for that field, and must change nothing."""
    before = listed(node, of("bad"))
    refusal = refused(call, "INVALID_ARGUMENT", "INVALID_FIELD", path=path)
    equal(listed(node, of("bad")), before, f"the list after {path} was refused")
    return refusal


def bad_record(**fields):
    """A record of service `bad`, whole but for these fields."""
    return record("bad", "x", **fields)


@check("bad-unknown-service")
def unknown_service(world):
    """Listing and watching what does not exist is an empty answer, not an error."""
    for node in world.healthy().nodes:
        equal(listed(node, of("nobody-has-this"))[1], {}, "list of an unknown service")
        equal(listed(node, of("nobody", namespace="nowhere"))[1], {}, "list of an unknown namespace")
    with Watching(world.healthy().nodes[0], of("nobody-has-this"), snapshot=True) as watching:
        first = watching.next()
        require(not first.changes and not first.more, "a watch of an unknown service begins empty")
    node = world.healthy().nodes[1]
    gone = node.registry.Deregister(pb.DeregisterRequest(key=key("nobody-has-this", "x")))
    require(not gone.existed, "Deregister of what does not exist says that it existed")
    return "empty lists, an empty watch"


@check("bad-names")
def names(world):
    """Empty, over-long and ill-formed names, each named by its path."""
    node = world.healthy().nodes[1]
    stories = [
        ("instance.key.service", record("", "x")),
        ("instance.key.service", record("s" * 254, "x")),
        ("instance.key.service", record("has space", "x")),
        ("instance.key.service", record("-edge", "x")),
        ("instance.key.service", record("a/b", "x")),
        ("instance.key.id", record("bad", "i" * 254)),
        ("instance.key.id", record("bad", "tab\t")),
        ("instance.key.namespace", record("bad", "x", "n" * 254)),
        ("instance.key.namespace", record("bad", "x", "ä")),
    ]
    for path, instance in stories:
        invalid(node, lambda i=instance: register(node, i), path)
    invalid(node, lambda: node.registry.Get(pb.GetRequest(key=key("", "x"))), "key.service")
    invalid(node, lambda: node.registry.Deregister(pb.DeregisterRequest(key=key("bad", ""))), "key.id")
    refusal = refused(lambda: register(node, pb.Instance()), "INVALID_ARGUMENT", "INVALID_FIELD")
    longest = register(node, record("s" * 253, "i" * 253, "n" * 253), permanent=True)
    equal(len(longest.instance.key.service), 253, "longest service name")
    node.registry.Deregister(pb.DeregisterRequest(key=longest.instance.key))
    return f"{len(stories) + 2} refused by path, an empty record as {refusal.fields}, 253 characters accepted"


@check("bad-addresses-and-ports")
def addresses(world):
    """Addresses, ports and weights out of their ranges."""
    node = world.healthy().nodes[2]
    port = pb.Port
    stories = [
        ("instance.address", bad_record(address="no spaces here")),
        ("instance.address", bad_record(address="a" * 300)),
        ("instance.ports[0].number", bad_record(ports=[port(number=0)])),
        ("instance.ports[1].number", bad_record(ports=[port(name="a", number=1), port(name="b", number=65_536)])),
        ("instance.ports[0].number", bad_record(ports=[port(number=-1)])),
        ("instance.ports[0].address", bad_record(ports=[port(number=1, address="not an address")])),
        ("instance.ports", bad_record(ports=[port(name=f"p{i}", number=i) for i in range(1, 18)])),
        ("instance.weight", bad_record(weight=65_536)),
        ("instance.status", bad_record(status=99)),
        ("instance.incarnation", bad_record(incarnation=-1)),
    ]
    for path, instance in stories:
        invalid(node, lambda i=instance: register(node, i), path)
    for address in ("10.0.0.1", "2001:db8::1", "host.example.org", "localhost"):
        register(node, record("good-address", "x", address=address), permanent=True)
    return f"{len(stories)} refused by path, IPv4, IPv6 and host names accepted"


@check("bad-ttl")
def ttl(world):
    """TTLs below 1 s, above 24 h, negative, not a duration."""
    node = world.healthy().nodes[0]
    for value in (0.999, 0.0, 24 * 3600 + 0.001, -5.0):
        invalid(node, lambda v=value: register(node, bad_record(), ttl=v), "own_lease.ttl")
        invalid(node, lambda v=value: grant(node, v), "ttl")
    request = pb.RegisterRequest(instance=bad_record())
    request.own_lease.ttl.nanos = 2_000_000_000
    invalid(node, lambda: node.registry.Register(request), "own_lease.ttl")
    invalid(node, lambda: node.leases.GrantLease(pb.GrantLeaseRequest()), "ttl")
    for value in (1.0, 24 * 3600.0):
        lease = grant(node, value).lease
        equal(lease.ttl.ToMilliseconds(), round(value * 1000), "ttl in ms")
        node.leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=lease.lease_id))
    invalid(node, lambda: grant(node, 5, 77), "lease_id")  # below 2^62
    invalid(node, lambda: grant(node, 5, -1), "lease_id")
    return "4 out of range, 2 malformed; 1 s and 24 h accepted"


@check("bad-sizes")
def sizes(world):
    """65 tags, a tag too long, metadata too large, a record of 64 KiB + 1, a message over 2 MiB."""
    node = world.healthy().nodes[1]
    entries = {f"k{i:02}": "v" for i in range(65)}
    stories = [
        ("instance.tags", bad_record(tags=[f"t{i}" for i in range(65)])),
        ("instance.tags[1]", bad_record(tags=["ok", "t" * 65])),
        ("instance.metadata", bad_record(metadata=entries)),
        ("instance.version", bad_record(version="v" * 300)),
    ]
    for path, instance in stories:
        invalid(node, lambda i=instance: register(node, i), path)
    register(node, record("good-size", "x", tags=[f"t{i}" for i in range(64)]), permanent=True)
    exact = sized_record(64 << 10)
    register(node, exact, permanent=True)
    node.registry.Deregister(pb.DeregisterRequest(key=exact.key))
    one_more = sized_record((64 << 10) + 1)
    invalid(node, lambda: register(node, one_more), "instance")
    big = pb.RegisterRequest(instance=bad_record(metadata={"k": "v" * (3 << 20)}))
    try:
        node.registry.Register(big)
    except grpc.RpcError as error:
        refusal = refusal_of(error)
        wanted = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "OUT_OF_RANGE")
        require(refusal.code in wanted, f"a message of 3 MiB is refused as {refusal}")
    else:
        raise Failed("a message of 3 MiB was accepted")
    listed(node, of("bad"))
    return f"{len(stories) + 1} refused by path, 64 KiB accepted, 3 MiB refused as {refusal.code}"


def sized_record(size: int):
    """A record of exactly so many encoded bytes, within every other limit."""
    made = record("sized", "x")
    for number in range(16):
        made.metadata[f"k{number:02}"] = "v" * 4000
    made.metadata["last"] = ""
    missing = size - made.ByteSize()
    for length in range(max(0, missing - 8), missing + 1):
        made.metadata["last"] = "v" * length
        if made.ByteSize() == size:
            return made
    raise Failed(f"no record of {size} bytes: {made.ByteSize()}")


@check("bad-batches")
def batches(world):
    """A batch of 1,001, an empty one, one with a key twice, one without a hold."""
    node = world.healthy().nodes[2]
    many = [record("bad", f"{i}") for i in range(1001)]
    invalid(node, lambda: batch(node, many), "instances")
    invalid(node, lambda: batch(node, [record("bad", "a"), record("bad", "a")]), "instances[1].key")
    unheld = pb.BatchRegisterRequest(instances=[record("bad", "a")])
    refused(lambda: node.registry.BatchRegister(unheld), "INVALID_ARGUMENT", "INVALID_FIELD", outcome="not_applied")
    ids = list(range(1, 10_002))
    invalid(node, lambda: node.leases.Renew(pb.RenewRequest(lease_ids=ids)), "lease_ids")
    return "1,001 instances, a key twice, no hold, 10,001 renewals refused"


@check("bad-unknown-lease")
def unknown_lease(world):
    """A lease that never was: refused where it is needed, said where it is not."""
    node = world.healthy().nodes[0]
    never = 424_242_424_242
    refused(
        lambda: register(node, bad_record(), lease=never), "NOT_FOUND", "LEASE_NOT_FOUND", outcome="not_applied"
    )
    refused(lambda: batch(node, [bad_record()], lease=never), "NOT_FOUND", "LEASE_NOT_FOUND", outcome="not_applied")
    refused(lambda: node.leases.GetLease(pb.GetLeaseRequest(lease_id=never)), "NOT_FOUND", "LEASE_NOT_FOUND")
    require(not node.leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=never)).existed, "Revoke says that it existed")
    answer = node.leases.Renew(pb.RenewRequest(lease_ids=[never]))
    equal(answer.results[0].outcome, pb.RenewResult.NOT_FOUND, "renewal")
    equal(listed(node, of("bad"))[1], {}, "records")
    return "Register, Batch, Get refused; Revoke and Renew say so"


@check("bad-positions-and-tokens")
def positions(world):
    """A revision in the future, a position of another cluster, page tokens that are foreign, mixed up or garbage."""
    cluster = world.healthy()
    node = cluster.nodes[1]
    page = node.registry.List(pb.ListRequest(selector=of("none")))
    future = pb.Position(cluster_id=page.position.cluster_id, revision=page.position.revision + 10_000)
    refusal = watch_refusal(node, pb.WatchRequest(selector=of("none"), after=future))
    equal((refusal.code, refusal.reason), ("OUT_OF_RANGE", "REVISION_IN_FUTURE"), "a future revision")
    other = pb.Position(cluster_id="00000000deadbeef", revision=3)
    with Watching(node, of("none"), after=other) as watching:
        first = watching.next()
        require(first.kind == pb.WatchResponse.SNAPSHOT, "another cluster's position gets a snapshot")
        equal(first.reset.reason, pb.Reset.OTHER_CLUSTER, "reset")

    batch(node, [record("tokens", f"{i}") for i in range(3)])
    token = node.registry.List(pb.ListRequest(selector=of("tokens"), page_size=1)).next_page_token
    require(token, "no page token")

    def taken(text, selector=None):
        request = pb.ListRequest(selector=of("tokens") if selector is None else selector, page_size=1, page_token=text)
        return lambda: node.registry.List(request)

    for text in ("garbage", "\u00e9\u00e9", "A" * 5000, token[:-2], token + "x"):
        refused(taken(text), "INVALID_ARGUMENT", "INVALID_FIELD", path="page_token")
    refused(taken(token, of("others")), "INVALID_ARGUMENT", "INVALID_FIELD", path="page_token")
    elsewhere = world.shared("elsewhere", lambda: world.cluster("elsewhere", size=1).start())
    try:
        foreign = elsewhere.nodes[0]
        batch(foreign, [record("tokens", f"{i}") for i in range(3)])
        from_there = foreign.registry.List(pb.ListRequest(selector=of("tokens"), page_size=1)).next_page_token
        try:
            taken(from_there)()
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            known = (("INVALID_ARGUMENT", "INVALID_FIELD"), ("ABORTED", "PAGE_EXPIRED"))
            require((refusal.code, refusal.reason) in known, f"another cluster's token is refused as {refusal}")
        else:
            raise Failed("another cluster's page token is taken")
    finally:
        world.forget("elsewhere")
    node.registry.List(pb.ListRequest(selector=of("tokens"), page_size=1, page_token=token))
    return f"6 bad tokens, another cluster's as {refusal.reason}; the good one still works"


@check("bad-selectors-and-options")
def selectors(world):
    """Selectors and read options that mean nothing are refused, never ignored."""
    node = world.healthy().nodes[0]
    match = pb.Match
    stories = [
        ("selector", pb.Selector()),
        ("selector.services.names", pb.Selector(services=pb.Services())),
        ("selector.services.names[0]", of("not a name")),
        ("selector.matches[0].field", of("a", matches=[match(field="colour", op=match.IN, values=["red"])])),
        ("selector.matches[0].op", of("a", matches=[match(field="zone", op=99, values=["z"])])),
        ("selector.matches[0].op", of("a", matches=[match(field="zone", values=["z"])])),
        ("selector.matches[0].values", of("a", matches=[match(field="zone", op=match.IN)])),
    ]
    for path, selector in stories:
        refusal = refused(
            lambda s=selector: node.registry.List(pb.ListRequest(selector=s)), "INVALID_ARGUMENT", "INVALID_FIELD"
        )
        require(any(f.startswith(path) for f in refusal.fields), f"{refusal} does not name {path}")
        in_watch = watch_refusal(node, pb.WatchRequest(selector=selector))
        equal((in_watch.code, in_watch.reason), ("INVALID_ARGUMENT", "INVALID_FIELD"), "the same in a watch")
    reads = [
        ("read.consistency", pb.ReadOptions(consistency=77)),
        ("read.max_age", pb.ReadOptions(consistency=pb.ReadOptions.STALE, max_age=span(-1))),
        ("read.min_revision", pb.ReadOptions(min_revision=-1)),
    ]
    for path, read in reads:
        invalid(node, lambda r=read: node.registry.List(pb.ListRequest(selector=of("a"), read=r)), path)
    invalid(node, lambda: node.registry.List(pb.ListRequest(selector=of("a"), page_size=-1)), "page_size")
    return f"{len(stories) + len(reads) + 1} refused by path"


@check("bad-bytes-on-both-ports")
def garbage(world):
    """Random bytes, a broken HTTP/2 preface, a huge frame length, half a request: on the client and the peer port."""
    cluster = world.healthy()
    server = cluster["n2"]
    rng = world.rng
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    count = 0
    for port in (server.client_port, server.peer_port):
        for payload in (
            rng.randbytes(4096),
            preface + rng.randbytes(2000),
            preface + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + rng.randbytes(100),
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /roster.v1.Registry/Register HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 50,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
            b"",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.settimeout(0.3)
                try:
                    connection.sendall(payload)
                    while connection.recv(4096):
                        pass
                except OSError:
                    pass
            count += 1
    for name in ("Register", "List", "Watch"):  # well-framed gRPC, ill-formed protobuf
        call = server.node.channel.unary_stream(
            f"/roster.v1.Registry/{name}",
            request_serializer=lambda data: data,
            response_deserializer=lambda data: data,
        )
        try:
            list(call(rng.randbytes(300), timeout=5))
        except grpc.RpcError as error:
            require(error.code().name in ("INTERNAL", "INVALID_ARGUMENT", "UNKNOWN"), f"{name}: {error.code().name}")
        else:
            raise Failed(f"{name} took 300 random bytes")
        count += 1
    try:
        server.node.channel.unary_unary("/roster.v1.Registry/NoSuchCall")(b"", timeout=5)
    except grpc.RpcError as error:
        equal(error.code().name, "UNIMPLEMENTED", "an unknown call")
    require(server.alive, "the node has ended")
    require("panicked at" not in server.output(), "the node panicked")
    register(server.node, record("after-garbage", "x"), permanent=True)
    for node in cluster.nodes:
        require(len(listed(node, of("after-garbage"))[1]) == 1, f"{node.name} does not list what came after")
    cluster.state_hashes()
    return f"{count} kinds of garbage, the node lives on"


@check("bad-client-that-never-reads", limit_s=90)
def never_reads(world):
    """Watches that are opened and never read: writers are not held up, and the node's memory stays bounded."""
    cluster = world.healthy()
    server = cluster["n3"]
    payload = {f"k{i}": os.urandom(1500).hex() for i in range(8)}  # 24 KB a record
    records = [record("unread", f"{i}", metadata=payload) for i in range(80)]
    batch(cluster.nodes[0], records[:40])
    batch(cluster.nodes[0], records[40:])
    calls = [server.node.registry.Watch(pb.WatchRequest(selector=of("unread"))) for _ in range(40)]
    before = resident_mib(server.pid)
    slowest = 0.0
    for turn in range(30):
        for instance in records:
            instance.tags[:] = [f"turn-{turn}"]
        begun = time.monotonic()
        batch(cluster.nodes[1], records[:40])
        batch(cluster.nodes[1], records[40:])
        slowest = max(slowest, (time.monotonic() - begun) / 2)
    grown = resident_mib(server.pid) - before
    require(slowest < 3, f"a write took {slowest:.1f} s beside watches that nobody reads")
    # 58 MiB were written past 40 watches: copies for each would be 2.3 GiB.
    require(grown < 700, f"the node grew by {grown:.0f} MiB")
    for call in calls:
        call.cancel()
    for part in (records[:40], records[40:]):
        for instance in part:
            server.node.registry.Deregister(pb.DeregisterRequest(key=instance.key))
    equal(listed(server.node, of("unread"))[1], {}, "what is left")
    return f"40 unread watches, slowest batch {slowest * 1000:.0f} ms, {grown:.0f} MiB more"


def resident_mib(pid: int) -> float:
    """A process's resident memory."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    raise Failed(f"no VmRSS of {pid}")


@check("bad-input-left-nothing-behind")
def nothing_left(world):
    """After all of this the nodes are alive, never panicked, and agree."""
    cluster = world.healthy()
    for server in cluster:
        require(server.alive, f"{server.name} has ended")
        require("panicked at" not in server.output(), f"{server.name} panicked")
        poll("a stale read", lambda s=server: s.node.registry.List(
            pb.ListRequest(selector=everything(), read=stale(), page_size=1)), 5)
    index = cluster.state_hashes()
    return f"state hashes agree at index {index}"
