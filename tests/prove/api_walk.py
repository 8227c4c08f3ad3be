"""The API walk: every RPC that the server's own descriptor names is called. One without a case here fails the walk."""

from __future__ import annotations

import grpc
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from .checks import Failed, check, equal, require
from .client import CALL_S, Watching, batch, grant, key, of, record, refusal_of, register, span
from .stubs import pb

# The same messages serve both: v1 is v1alpha under its final name.
REFLECTION = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


def reflect(node, requests) -> list:
    """Asks the server's reflection service, under whichever name it has."""
    last = None
    for method in REFLECTION:
        call = node.channel.stream_stream(
            method,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        try:
            return list(call(iter(requests), timeout=CALL_S))
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNIMPLEMENTED:
                raise
            last = error
    raise Failed(f"no reflection service: {refusal_of(last)}")


def described_methods(node) -> dict:
    """Full method name -> (client streams, server streams), of every `roster.v1` service that reflection names."""
    answer = reflect(node, [reflection_pb2.ServerReflectionRequest(list_services="*")])[0]
    services = [service.name for service in answer.list_services_response.service]
    require("grpc.health.v1.Health" in services, f"no health service among {services}")
    ours = [name for name in services if name.startswith("roster.v1.")]
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in ours]
    methods = {}
    for response in reflect(node, asked):
        require(response.HasField("file_descriptor_response"), f"reflection: {response.error_response}")
        for encoded in response.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
            for service in file.service:
                name = f"{file.package}.{service.name}"
                if name in ours:
                    for method in service.method:
                        methods[f"{name}/{method.name}"] = (method.client_streaming, method.server_streaming)
    return methods


def contract_methods() -> dict:
    """The same, of `proto/` in this checkout."""
    methods = {}
    for file in pb.files:
        for service in file.services_by_name.values():
            for method in service.methods:
                streams = (method.client_streaming, method.server_streaming)
                methods[f"{service.full_name}/{method.name}"] = streams
    return methods


CASES: dict = {}


def case(method: str):
    """Adds the case of one RPC."""

    def add(function):
        CASES[f"roster.v1.{method}"] = function
        return function

    return add


def headed(answer):
    """Checks what every answer carries."""
    header = answer.header
    require(len(header.cluster_id) == 16, f"cluster id {header.cluster_id!r}")
    require(header.node and header.leader and header.term > 0, f"header {header}")
    return answer


@case("Registry/Register")
def _register(node):
    answer = headed(register(node, record("walk", "a")))
    require(answer.HasField("renew_after"), "no renew_after")
    require(answer.instance.HasField("registered_at"), "no registered_at")
    equal((answer.instance.weight, answer.instance.status), (100, pb.Instance.UP), "defaults")


@case("Registry/BatchRegister")
def _batch(node):
    equal(list(headed(batch(node, [record("walk", "b"), record("walk", "c")])).ids), ["b", "c"], "ids")


@case("Registry/Update")
def _update(node):
    request = pb.UpdateRequest(
        key=key("walk", "a"),
        status=pb.Instance.DRAINING,
        weight=3,
        version="2",
        add_tags=["t"],
        set_metadata={"k": "v"},
    )
    answer = headed(node.registry.Update(request))
    made = answer.instance
    require(answer.changed, "changed is not set")
    equal((made.status, made.weight, made.version), (pb.Instance.DRAINING, 3, "2"), "fields")
    equal((list(made.tags), dict(made.metadata)), (["t"], {"k": "v"}), "tags and metadata")
    request = pb.UpdateRequest(key=key("walk", "a"), remove_tags=["t"], remove_metadata=["k"])
    made = node.registry.Update(request).instance
    equal((list(made.tags), dict(made.metadata)), ([], {}), "tags and metadata removed")
    require(not node.registry.Update(request).changed, "the same update changed something")


@case("Registry/Get")
def _get(node):
    equal(headed(node.registry.Get(pb.GetRequest(key=key("walk", "b")))).instance.key.id, "b", "id")


@case("Registry/List")
def _list(node):
    answer = headed(node.registry.List(pb.ListRequest(selector=of("walk"))))
    equal(answer.position.revision, answer.header.revision, "position")
    equal(answer.position.cluster_id, answer.header.cluster_id, "cluster of the position")
    equal([i.key.id for i in answer.instances], ["a", "b", "c"], "ids")


@case("Registry/ListServices")
def _services(node):
    answer = headed(node.registry.ListServices(pb.ListServicesRequest(page_size=1)))
    equal(len(answer.services), 1, "services on a page of 1")


@case("Registry/ListNamespaces")
def _namespaces(node):
    answer = headed(node.registry.ListNamespaces(pb.ListNamespacesRequest()))
    require("default" in [n.namespace for n in answer.namespaces], "no namespace default")


@case("Registry/Watch")
def _watch(node):
    with Watching(node, of("walk"), now=True, progress_interval=span(0.2)) as watching:
        headed(watching.next())  # comes at once, even if empty
        message = watching.until(lambda m: m.kind == pb.WatchResponse.PROGRESS)
        register(node, record("walk", "d"), permanent=True)
        step = watching.until(lambda m: m.changes)
        equal(step.changes[0].instance.key.id, "d", "id")
        require(step.position.revision > message.position.revision, "a change that is not after the progress")


@case("Registry/WatchMany")
def _watch_many(node):
    def create(watch_id):
        return pb.WatchManyRequest(create=pb.CreateWatch(watch_id=watch_id, watch=pb.WatchRequest(selector=of("walk"))))

    call = node.registry.WatchMany(iter([create(1), create(2)]), timeout=CALL_S)
    whole = set()
    for message in call:
        if message.kind == pb.WatchResponse.SNAPSHOT and not message.more:
            whole.add(message.watch_id)
        if whole == {1, 2}:
            break
    call.cancel()
    equal(whole, {1, 2}, "watches that began")


@case("Registry/Deregister")
def _deregister(node):
    for name, existed in (("a", True), ("b", True), ("c", True), ("d", True), ("a", False)):
        equal(headed(node.registry.Deregister(pb.DeregisterRequest(key=key("walk", name)))).existed, existed, name)


@case("Leases/GrantLease")
def _grant(node):
    answer = headed(grant(node, 30))
    require(0 < answer.lease.lease_id < 1 << 62, f"lease id {answer.lease.lease_id}")
    require(0 < answer.renew_after.ToMilliseconds() < 30_000, f"renew_after {answer.renew_after.ToMilliseconds()} ms")
    own = (1 << 62) + 77
    equal(grant(node, 30, own).lease.lease_id, own, "a caller's own id")


@case("Leases/GetLease")
def _lease(node):
    lease = grant(node, 30).lease.lease_id
    register(node, record("walk-lease", "a"), lease=lease)
    answer = headed(node.leases.GetLease(pb.GetLeaseRequest(lease_id=lease)))
    equal(answer.lease.ttl.ToMilliseconds(), 30_000, "ttl in ms")
    require(25_000 < answer.lease.remaining.ToMilliseconds() <= 30_000, "remaining")
    equal([k.id for k in answer.instances], ["a"], "instances")


@case("Leases/ListLeases")
def _leases(node):
    wanted = {grant(node, 30).lease.lease_id for _ in range(3)}
    seen, token = set(), ""
    while True:
        answer = headed(node.leases.ListLeases(pb.ListLeasesRequest(page_size=2, page_token=token)))
        seen |= {lease.lease_id for lease in answer.leases}
        token = answer.next_page_token
        if not token:
            break
    require(wanted <= seen, f"leases {wanted - seen} are not listed")


@case("Leases/Renew")
def _renew(node):
    lease = grant(node, 30).lease.lease_id
    answer = headed(node.leases.Renew(pb.RenewRequest(seq=5, lease_ids=[lease, 999_999_999])))
    equal(answer.seq, 5, "seq")
    outcomes = [result.outcome for result in answer.results]
    equal(outcomes, [pb.RenewResult.RENEWED, pb.RenewResult.NOT_FOUND], "outcomes")


@case("Leases/KeepAlive")
def _keep_alive(node):
    lease = grant(node, 30).lease.lease_id
    requests = [pb.RenewRequest(seq=i, lease_ids=[lease] if i != 3 else [999_999_999]) for i in range(1, 6)]
    answers = sorted(node.leases.KeepAlive(iter(requests), timeout=CALL_S), key=lambda answer: answer.seq)
    equal([answer.seq for answer in answers], [1, 2, 3, 4, 5], "seqs of a pipelined stream")
    renewed, missing = pb.RenewResult.RENEWED, pb.RenewResult.NOT_FOUND
    outcomes = [answer.results[0].outcome for answer in answers]
    equal(outcomes, [renewed, renewed, missing, renewed, renewed], "one lease's trouble on the stream")


@case("Leases/RevokeLease")
def _revoke(node):
    lease = grant(node, 30).lease.lease_id
    for existed in (True, False):
        answer = headed(node.leases.RevokeLease(pb.RevokeLeaseRequest(lease_id=lease)))
        equal(answer.existed, existed, "existed")


@case("Cluster/GetNodeStatus")
def _status(node):
    answer = headed(node.status())
    require(answer.version and answer.role, f"version {answer.version!r}, role {answer.role!r}")
    require(answer.applied_index > 0 and answer.log_index >= answer.applied_index, "indexes")
    require(answer.HasField("uptime"), "no uptime")


@case("Cluster/ListMembers")
def _members(node):
    members = headed(node.cluster.ListMembers(pb.ListMembersRequest())).members
    equal(sorted(m.name for m in members), ["n1", "n2", "n3"], "members")
    equal({m.role for m in members}, {pb.Member.VOTER}, "roles")
    require(all(m.peer_address for m in members), "a member without a peer address")
    require(len({m.member_id for m in members}) == 3, "member ids repeat")


@case("Cluster/GetStateHash")
def _hash(node):
    answer = headed(node.cluster.GetStateHash(pb.GetStateHashRequest()))
    require(answer.applied_index > 0 and answer.hash, "an empty hash")


@check("api-walk")
def walk(world):
    """Calls every RPC on every node."""
    cluster = world.healthy()
    node = cluster.nodes[0]
    described = described_methods(node)
    equal(described, contract_methods(), "the methods that reflection describes")
    missing = sorted(described.keys() - CASES.keys())
    require(not missing, f"no case for {missing}")
    unknown = sorted(CASES.keys() - described.keys())
    require(not unknown, f"cases for what the server does not have: {unknown}")
    for node in cluster.nodes:
        for method in CASES:
            try:
                CASES[method](node)
            except Failed as failed:
                raise Failed(f"{method} at {node.name}: {failed}") from failed
            except grpc.RpcError as error:
                raise Failed(f"{method} at {node.name}: {refusal_of(error)}") from error
    return f"{len(described)} RPCs at 3 nodes"


@check("health-service")
def health(world):
    """grpc.health.v1 answers for the process and for the registry; unknown services are NOT_FOUND."""
    node = world.healthy().nodes[1]
    # grpc.health.v1.HealthCheckRequest has one field, the service's name; the response one enum.
    check_health = node.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=lambda name: b"\x0a" + bytes([len(name)]) + name if name else b"",
        response_deserializer=lambda data: data,
    )
    for name in (b"", b"roster.v1.Registry"):
        equal(check_health(name, timeout=CALL_S), b"\x08\x01", f"health of {name.decode()!r}")
    try:
        check_health(b"no.such.Service", timeout=CALL_S)
    except grpc.RpcError as error:
        equal(error.code().name, "NOT_FOUND", "health of an unknown service")
    else:
        raise Failed("an unknown service is healthy")
    return "SERVING for the process and the registry"


@check("plain-http")
def plain_http(world):
    """/livez, /readyz and /metrics answer plain HTTP on the client port."""
    import urllib.request

    server = next(iter(world.healthy()))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    sizes = []
    for path in ("/livez", "/readyz", "/metrics"):
        with opener.open(f"http://{server.client_address}{path}", timeout=5) as response:
            equal(response.status, 200, path)
            sizes.append(len(response.read()))
    require(sizes[2] > 0, "/metrics is empty")
    return f"/metrics has {sizes[2]} bytes"
