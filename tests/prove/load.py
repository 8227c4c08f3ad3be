"""Writers and renewers that run beside a fault and remember what was acknowledged."""

from __future__ import annotations

import queue
import threading
import time

import grpc

from .checks import Failed, require
from .client import Node, record, refusal_of, register
from .stubs import pb

# One attempt of a client that has other nodes to ask.
ATTEMPT_S = 2.0
# Registrars and keepers that run: a check that fails in the middle leaves its own behind.
_running: set = set()


def stop_leftovers() -> None:
    """Ends what a failed check has left running."""
    for thread in list(_running):
        try:
            thread.stop()
        except Failed:
            pass  # the check has failed already
        _running.discard(thread)


class Registrar(threading.Thread):
    """Registers instance after instance, each until it is acknowledged, on any node that answers."""

    def __init__(self, nodes, service: str, prefix: str, pause_s: float = 0.002, **hold):
        super().__init__(daemon=True, name=f"registrar-{prefix}")
        self.nodes = list(nodes)
        self.service, self.prefix, self.pause_s = service, prefix, pause_s
        self.hold = hold or {"permanent": True}
        self.acknowledged: dict = {}  # id -> mod_revision
        self.acknowledged_at: list = []
        self.refusals: dict = {}  # "CODE/REASON outcome" -> count
        self.unexpected: list = []
        self.highest_revision = 0
        self._stopped = threading.Event()

    def run(self):
        _running.add(self)
        at, number = 0, 0
        while not self._stopped.is_set():
            number += 1
            identity = f"{self.prefix}-{number}"
            while not self._stopped.is_set():
                node = self.nodes[at % len(self.nodes)]
                try:
                    answer = register(node, record(self.service, identity), timeout=ATTEMPT_S, **self.hold)
                except grpc.RpcError as error:
                    self._note(refusal_of(error))
                    at += 1
                    self._stopped.wait(0.01)
                    continue
                self.acknowledged[identity] = answer.instance.mod_revision
                self.acknowledged_at.append(time.monotonic())
                self.highest_revision = max(self.highest_revision, answer.header.revision)
                break
            if self.pause_s:
                self._stopped.wait(self.pause_s)

    def _note(self, refusal) -> None:
        label = f"{refusal.code}/{refusal.reason or '-'} {refusal.outcome}".strip()
        self.refusals[label] = self.refusals.get(label, 0) + 1
        if refusal.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"):
            self.unexpected.append(str(refusal))

    def stop(self) -> "Registrar":
        """Ends the loop and waits for the call under way."""
        self._stopped.set()
        self.join(ATTEMPT_S + 5)
        require(not self.is_alive(), f"{self.name} hangs in a call beyond its deadline")
        _running.discard(self)
        return self

    def gap_ms(self) -> float:
        """The longest time between two acknowledgements."""
        moments = self.acknowledged_at
        return max(((b - a) * 1000 for a, b in zip(moments, moments[1:])), default=float("inf"))

    def none_missing(self, records: dict) -> None:
        """Every acknowledged record is among these, as it was acknowledged."""
        for identity, revision in self.acknowledged.items():
            held = records.get(("default", self.service, identity))
            require(held is not None, f"{identity}, acknowledged at revision {revision}, is missing")
            require(held.mod_revision == revision, f"{identity} is of {held.mod_revision}, not of {revision}")
        require(not self.unexpected, f"refused unexpectedly: {self.unexpected[:3]}")


class RenewalStream:
    """One KeepAlive stream. Its reader runs on a thread, so that waiting for an answer has a deadline."""

    def __init__(self, node: Node):
        self.node = node
        self._out: queue.Queue = queue.Queue()
        self._in: queue.Queue = queue.Queue()
        self._seq = 0
        self._call = node.leases.KeepAlive(iter(self._out.get, None))
        threading.Thread(target=self._read, daemon=True, name=f"renewals-{node.name}").start()

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._in.put(answer)
        except grpc.RpcError as error:
            self._in.put(error)
        self._in.put(None)

    def renew(self, lease_ids, within_s: float):
        """Sends one renewal and returns its answer; raises Failed when the stream ends or nothing comes in time."""
        self._seq += 1
        self._out.put(pb.RenewRequest(seq=self._seq, lease_ids=lease_ids))
        deadline = time.monotonic() + within_s
        while True:
            try:
                answer = self._in.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Failed(f"{self.node.name} left a renewal unanswered for {within_s:g} s") from None
            if answer is None:
                raise Failed(f"{self.node.name} ended the keep-alive stream")
            if isinstance(answer, grpc.RpcError):
                raise Failed(f"{self.node.name} ended the keep-alive stream: {refusal_of(answer)}")
            if answer.seq == self._seq:
                return answer

    def close(self) -> None:
        """Ends the stream."""
        self._out.put(None)
        self._call.cancel()


class Keeper(threading.Thread):
    """Keeps leases alive as a careful client does: on one node's stream, and at once on the next node when that one
    fails or says UNCONFIRMED. A lease that is answered NOT_FOUND is lost."""

    def __init__(self, nodes, lease_ids, ttl_s: float, every_s: float | None = None):
        super().__init__(daemon=True, name="keeper")
        self.nodes = list(nodes)
        self.lease_ids = list(lease_ids)
        self.ttl_s = ttl_s
        self.every_s = ttl_s / 4 if every_s is None else every_s
        self.lost: set = set()
        self.renewed_sent: dict = {}  # lease -> when its last acknowledged renewal was sent
        self.acknowledged_at: list = []
        self.slowest_ms = 0.0
        self.unconfirmed: list = []  # (when sent, when answered, node)
        self.switches: list = []
        self._stopped = threading.Event()
        self._at = 0

    def run(self):
        _running.add(self)
        stream = None
        while not self._stopped.is_set():
            node = self.nodes[self._at % len(self.nodes)]
            try:
                if stream is None:
                    stream = RenewalStream(node)
                whole = self._round(stream)
            except (Failed, grpc.RpcError) as failed:
                whole = False
                self.switches.append(str(failed))
            if whole:
                self._stopped.wait(self.every_s)
            else:
                if stream is not None:
                    stream.close()
                stream = None
                self._at += 1
                self._stopped.wait(0.02)
        if stream is not None:
            stream.close()

    def _round(self, stream: RenewalStream) -> bool:
        sent = time.monotonic()
        answer = stream.renew([i for i in self.lease_ids if i not in self.lost], min(ATTEMPT_S, self.ttl_s / 4) + 1.0)
        now = time.monotonic()
        whole = True
        for result in answer.results:
            if result.outcome == pb.RenewResult.RENEWED:
                self.renewed_sent[result.lease_id] = sent
            elif result.outcome == pb.RenewResult.NOT_FOUND:
                self.lost.add(result.lease_id)
            else:
                whole = False
        if whole:
            self.acknowledged_at.append(now)
            self.slowest_ms = max(self.slowest_ms, (now - sent) * 1000)
        else:
            self.unconfirmed.append((sent, now, stream.node.name))
        return whole

    def stop(self) -> "Keeper":
        """Ends the loop."""
        self._stopped.set()
        self.join(10)
        _running.discard(self)
        return self

    def gap_ms(self) -> float:
        """The longest time between two whole acknowledgements."""
        moments = self.acknowledged_at
        return max(((b - a) * 1000 for a, b in zip(moments, moments[1:])), default=float("inf"))

    def none_lost(self) -> None:
        """No lease was answered NOT_FOUND, and all were renewed."""
        require(not self.lost, f"{len(self.lost)} of {len(self.lease_ids)} leases lost, first {sorted(self.lost)[:3]}")
        never = [lease for lease in self.lease_ids if lease not in self.renewed_sent]
        require(not never, f"{len(never)} leases were never renewed")


def many_registers(node: Node, records, window: int = 200, **hold) -> list:
    """Registers many with so many calls in flight; returns the answers in order."""
    waiting, answers = [], []

    def request(instance):
        message = pb.RegisterRequest(instance=instance)
        if "ttl" in hold:
            message.own_lease.ttl.FromMilliseconds(round(hold["ttl"] * 1000))
        elif "lease" in hold:
            message.lease_id = hold["lease"]
        else:
            message.permanent = True
        return message

    for instance in records:
        if len(waiting) >= window:
            answers.append(waiting.pop(0).result())
        waiting.append(node.registry.Register.future(request(instance), timeout=30))
    return answers + [call.result() for call in waiting]
