"""A node's API as the checks call it: stubs with a default deadline, errors taken apart, records and selectors
in one line."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from .checks import Failed, equal, require
from .stubs import pb

CALL_S = 10.0
# The contract's limit: a larger response fails here as it would fail a user.
RESPONSE_MAX_BYTES = 2 << 20
CHANNEL = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", RESPONSE_MAX_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]


def span(seconds: float) -> duration_pb2.Duration:
    """A `Duration` of so many seconds."""
    nanos = round(seconds * 1e9)
    return duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def seconds(duration: duration_pb2.Duration) -> float:
    """A `Duration` in seconds."""
    return duration.seconds + duration.nanos / 1e9


@dataclass
class Refusal:
    """An error of the API, taken apart."""

    code: str
    reason: str = ""
    domain: str = ""
    message: str = ""
    metadata: dict = field(default_factory=dict)
    violations: list = field(default_factory=list)
    retry_after: float | None = None
    quota: bool = False
    resource: str = ""

    @property
    def outcome(self) -> str:
        """`not_applied`, `unknown`, or empty."""
        return self.metadata.get("outcome", "")

    @property
    def fields(self) -> list:
        """The paths that the violations name."""
        return [path for path, _ in self.violations]

    def __str__(self):
        text = f"{self.code}/{self.reason or '-'}"
        if self.outcome:
            text += f" {self.outcome}"
        if self.fields:
            text += f" {self.fields}"
        return f"{text} ({self.message})"


def refusal_of_status(status: status_pb2.Status, code: str | None = None) -> Refusal:
    """Takes a `google.rpc.Status` apart."""
    if code is None:
        code = next((c.name for c in grpc.StatusCode if c.value[0] == status.code), str(status.code))
    refusal = Refusal(code, message=status.message)
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            refusal.reason, refusal.domain, refusal.metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            refusal.retry_after = seconds(error_details_pb2.RetryInfo.FromString(detail.value).retry_delay)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            refusal.violations = [(v.field, v.description) for v in bad.field_violations]
        elif detail.Is(error_details_pb2.QuotaFailure.DESCRIPTOR):
            refusal.quota = True
        elif detail.Is(error_details_pb2.ResourceInfo.DESCRIPTOR):
            info = error_details_pb2.ResourceInfo.FromString(detail.value)
            refusal.resource = info.resource_name or info.resource_type
    return refusal


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Takes a failed call apart."""
    try:
        status = rpc_status.from_call(error)
    except ValueError as mismatch:
        # This library leaves the message percent-encoded when the status comes before the request was sent whole.
        status = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        if status is None or "%20" not in (error.details() or ""):
            raise Failed(f"the status and its details disagree: {mismatch}") from None
        status = status_pb2.Status.FromString(status)
    if status is None:
        return Refusal(error.code().name, message=error.details() or "")
    return refusal_of_status(status, error.code().name)


def refused(call, code: str, *reasons: str, outcome: str | None = None, path: str | None = None) -> Refusal:
    """Makes a call that must be refused with that code and one of these reasons, and returns the refusal. `path`:
    a field that it must name."""
    try:
        answer = call()
    except grpc.RpcError as error:
        refusal = refusal_of(error)
    else:
        raise Failed(f"answered {str(answer)[:200]!r} instead of {code}/{'|'.join(reasons)}")
    require(refusal.code == code and refusal.reason in reasons, f"{refusal} instead of {code}/{'|'.join(reasons)}")
    equal(refusal.domain, "roster", "ErrorInfo.domain")
    if outcome is not None:
        equal(refusal.outcome, outcome, f"outcome of {refusal}")
    if path is not None:
        require(path in refusal.fields, f"{refusal} does not name the field {path}")
    return refusal


class _Unary:
    """A unary call with a default deadline."""

    def __init__(self, method):
        self._method = method

    def __call__(self, request, timeout=CALL_S, **more):
        return self._method(request, timeout=timeout, **more)

    def future(self, request, timeout=CALL_S, **more):
        """Makes the call without waiting for it."""
        return self._method.future(request, timeout=timeout, **more)


class _Calls:
    """A generated stub whose unary calls have a default deadline; streams are ended by whoever opens them."""

    def __init__(self, stub):
        self._stub = stub

    def __getattr__(self, name):
        method = getattr(self._stub, name)
        return _Unary(method) if isinstance(method, grpc.UnaryUnaryMultiCallable) else method


class Node:
    """One node's client port."""

    def __init__(self, name: str, address: str):
        self.name = name
        self.address = address
        self.channel = grpc.insecure_channel(address, CHANNEL)
        self.registry = _Calls(pb.RegistryStub(self.channel))
        self.leases = _Calls(pb.LeasesStub(self.channel))
        self.cluster = _Calls(pb.ClusterStub(self.channel))

    def status(self, timeout=2.0):
        """Its own view of itself; needs no quorum."""
        return self.cluster.GetNodeStatus(pb.GetNodeStatusRequest(), timeout=timeout)

    def close(self) -> None:
        """Ends its connection and every stream on it."""
        self.channel.close()


def key(service: str, id: str, namespace: str = ""):
    """An instance's key."""
    return pb.InstanceKey(namespace=namespace, service=service, id=id)


def record(service: str, id: str = "", namespace: str = "", **fields):
    """An instance with an address and a port unless others are given."""
    fields.setdefault("address", "10.0.0.1")
    fields.setdefault("ports", [pb.Port(name="http", number=8080, protocol="http")])
    return pb.Instance(key=key(service, id, namespace), **fields)


def register(node: Node, instance, *, ttl=None, lease=None, permanent=False, expected=None, timeout=CALL_S):
    """Registers an instance; without a hold it gets its own lease of the default TTL."""
    request = pb.RegisterRequest(instance=instance)
    if permanent:
        request.permanent = True
    elif lease is not None:
        request.lease_id = lease
    elif ttl is not None:
        request.own_lease.ttl.CopyFrom(span(ttl))
    if expected is not None:
        request.expected_mod_revision = expected
    return node.registry.Register(request, timeout=timeout)


def batch(node: Node, instances, *, lease=None, timeout=CALL_S):
    """Registers many, permanently unless a lease is named."""
    request = pb.BatchRegisterRequest(instances=instances)
    if lease is None:
        request.permanent = True
    else:
        request.lease_id = lease
    return node.registry.BatchRegister(request, timeout=timeout)


def grant(node: Node, ttl: float, lease_id: int = 0):
    """Grants a lease."""
    return node.leases.GrantLease(pb.GrantLeaseRequest(lease_id=lease_id, ttl=span(ttl)))


def of(*services: str, namespace: str = "", **fields):
    """A selector of these services."""
    return pb.Selector(namespace=namespace, services=pb.Services(names=services), **fields)


def everything():
    """A selector of all there is."""
    return pb.Selector(all_namespaces=True, all_services=True)


def stale(max_age: float | None = None):
    """Read options that take what the node has."""
    options = pb.ReadOptions(consistency=pb.ReadOptions.STALE)
    if max_age is not None:
        options.max_age.CopyFrom(span(max_age))
    return options


def key_of(instance_or_key) -> tuple:
    """A key as a tuple, with the default namespace spelled out."""
    k = getattr(instance_or_key, "key", instance_or_key)
    return (k.namespace or "default", k.service, k.id)


def pages(node: Node, selector, read=None, page_size: int = 5000, timeout=CALL_S, next_node=None):
    """Yields a list's pages. `next_node` is asked for the pages after the first."""
    token = ""
    while True:
        request = pb.ListRequest(selector=selector, page_size=page_size, page_token=token)
        if read is not None:
            request.read.CopyFrom(read)
        response = node.registry.List(request, timeout=timeout)
        yield response
        token = response.next_page_token
        if not token:
            return
        node = next_node(node) if next_node else node


def listed(node: Node, selector=None, read=None, page_size: int = 5000, timeout=CALL_S, next_node=None):
    """A whole list: its revision, and the records by key. All pages must be of one revision, without repeats."""
    records, revision = {}, None
    for page in pages(node, everything() if selector is None else selector, read, page_size, timeout, next_node):
        if revision is None:
            revision = page.header.revision
        equal(page.header.revision, revision, "revision of a later page")
        for instance in page.instances:
            require(key_of(instance) not in records, f"{key_of(instance)} is on two pages")
            records[key_of(instance)] = instance
    return revision, records


class Watching:
    """A watch whose messages are taken one by one, each with a deadline."""

    def __init__(self, node: Node, selector, timeout: float | None = None, **request):
        self.call = node.registry.Watch(pb.WatchRequest(selector=selector, **request), timeout=timeout)

    def next(self, within_s: float = CALL_S):
        """The next message. Ends the watch and fails if none comes in time."""
        import threading

        timer = threading.Timer(within_s, self.call.cancel)
        timer.start()
        try:
            return next(self.call)
        except StopIteration:
            raise Failed("the watch ended without a status") from None
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.CANCELLED:
                raise Failed(f"no watch message within {within_s:g} s") from None
            raise
        finally:
            timer.cancel()

    def until(self, wanted, within_s: float = CALL_S):
        """Takes messages until one satisfies `wanted`, and returns it."""
        deadline = time.monotonic() + within_s
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()))
            if wanted(message):
                return message

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.call.cancel()
