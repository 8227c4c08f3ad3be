"""What a watcher must see, checked by a program.

`View` applies the messages of a watch as the contract tells a client to, and fails at the first one that no correct
server sends: a step that goes back or repeats itself, a removal of what was never there, a record born anew without a
removal between, a snapshot out of the blue. It can say what it held at an earlier revision, so that a list pinned at
that revision must equal it: a gap that no single message shows is found there.

`Watcher` keeps one view fed from one node through everything that happens to the node, resuming after its position.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

import grpc

from .checks import Failed, poll
from .client import Node, Refusal, everything, key_of, listed, refusal_of, refusal_of_status
from .stubs import pb

# How many steps a view can be taken back by.
STEPS_KEPT = 50_000


@dataclass
class Step:
    """One step of a view, and what undoes it."""

    before: int
    after: int
    undo: list


class View:
    """The records that a watcher holds, and how it came to hold them."""

    def __init__(self, name: str = "watch"):
        self.name = name
        self.records: dict = {}
        self.revision: int | None = None  # complete through here
        self.cluster_id = ""
        self.ended: Refusal | None = None
        self.steps = self.coalesced = self.snapshots = self.progress = 0
        self.resets: list = []
        self._floor = 0  # the revision of the snapshot that the kept steps stand on
        self._kept: deque = deque(maxlen=STEPS_KEPT)
        self._staged = None  # (kind, reset, [change]) of a step that is not whole
        self._lock = threading.Lock()

    def begin_stream(self) -> None:
        """A new stream begins: what was staged on the last one is void."""
        with self._lock:
            self._staged = None
            self.ended = None

    def position(self):
        """Where to resume, or None to begin with a snapshot."""
        with self._lock:
            if self.revision is None:
                return None
            return pb.Position(cluster_id=self.cluster_id, revision=self.revision)

    def apply(self, message) -> None:
        """Takes in one message."""
        with self._lock:
            kind = pb.WatchResponse.Kind.Name(message.kind)
            if kind == "CANCELED":
                self.ended = refusal_of_status(message.status)
            elif kind == "PROGRESS":
                self._take_progress(message)
            elif kind in ("SNAPSHOT", "CHANGES"):
                self._take_part(kind, message)
            else:
                self._fail(f"a message of kind {kind}")

    def _fail(self, text: str):
        raise Failed(f"{self.name} at revision {self.revision}: {text}")

    def _take_progress(self, message) -> None:
        if message.changes or message.more:
            self._fail("PROGRESS with changes or more")
        if self._staged is not None:
            self._fail("PROGRESS within a step")
        if not message.HasField("position"):
            self._fail("PROGRESS without a position")
        if self.revision is not None and message.position.revision < self.revision:
            self._fail(f"PROGRESS back to {message.position.revision}")
        self.progress += 1
        # Before the first snapshot there is no view that a position could speak for.
        if self.revision is not None:
            self.revision = message.position.revision

    def _take_part(self, kind: str, message) -> None:
        if self._staged is None:
            reset = pb.Reset.Reason.Name(message.reset.reason) if message.HasField("reset") else ""
            self._staged = (kind, reset, [])
        staged_kind, reset, changes = self._staged
        if staged_kind != kind:
            self._fail(f"{kind} within a {staged_kind} step")
        changes.extend(message.changes)
        if message.more:
            if message.HasField("position"):
                self._fail("a position on a message with more to come")
            return
        if not message.HasField("position"):
            self._fail(f"a whole {kind} step without a position")
        if message.position.revision != message.header.revision:
            self._fail(f"position {message.position.revision} differs from header {message.header.revision}")
        self._staged = None
        if kind == "SNAPSHOT":
            self._take_snapshot(reset, changes, message.position)
        else:
            self._take_step(changes, message.position.revision)

    def _take_snapshot(self, reset: str, changes, position) -> None:
        if self.revision is not None and not reset:
            self._fail("a snapshot without a reset, though there is a view")
        if self.revision is not None and reset != "OTHER_CLUSTER" and position.revision < self.revision:
            self._fail(f"a snapshot of {position.revision}, which is older")
        records = {}
        for change in changes:
            if change.kind != pb.Change.PUT:
                self._fail("a removal in a snapshot")
            name = key_of(change.instance)
            if name in records:
                self._fail(f"{name} twice in a snapshot")
            if change.instance.mod_revision > position.revision:
                self._fail(f"{name} of revision {change.instance.mod_revision} in a snapshot of {position.revision}")
            records[name] = change.instance
        self.snapshots += 1
        if reset:
            self.resets.append(reset)
        self.records, self.revision, self.cluster_id = records, position.revision, position.cluster_id
        self._floor = position.revision
        self._kept.clear()

    def _take_step(self, changes, after: int) -> None:
        before = self.revision
        if before is None:
            self._fail("changes before the first snapshot")
        if not changes and after == before:
            return  # the first message of a resumed watch comes at once, even if empty
        if after <= before:
            self._fail(f"a step to revision {after}, which is not later")
        # A step over several revisions may be coalesced: then it hides what came and went, and only its end is a
        # state that existed. (It may as well hold one change among grants of leases, which no watch shows.)
        several = after != before + 1
        last, seen, undo = before, set(), []
        for change in changes:
            if not before < change.revision <= after:
                self._fail(f"a change of revision {change.revision} in the step to {after}")
            if change.revision < last:
                self._fail(f"a change of revision {change.revision} after one of {last}")
            last = change.revision
            name = key_of(change.instance if change.kind == pb.Change.PUT else change.removed)
            if name in seen:
                self._fail(f"{name} twice in the step to {after}")
            seen.add(name)
            undo.append((name, self.records.get(name)))
            self._take_change(name, change, several)
        self.steps += 1
        self.coalesced += len({change.revision for change in changes}) > 1
        self.revision = after
        if len(self._kept) == STEPS_KEPT:
            self._floor = self._kept[0].after
        self._kept.append(Step(before, after, undo))

    def _take_change(self, name: tuple, change, several: bool) -> None:
        held = self.records.get(name)
        if change.kind == pb.Change.REMOVE:
            if held is None and not several:
                self._fail(f"a removal of {name}, which is not there")
            self.records.pop(name, None)
        elif change.kind == pb.Change.PUT:
            put = change.instance
            if held is not None and put.mod_revision <= held.mod_revision:
                self._fail(f"{name} of revision {put.mod_revision} after {held.mod_revision}")
            if held is not None and put.create_revision != held.create_revision and not several:
                self._fail(f"{name} was made anew at {put.create_revision} and its removal was never seen")
            if held is None and put.create_revision != put.mod_revision and not several:
                # A selector that it enters shows it in mid-life; a watch of everything can't.
                self._fail(f"{name} made at {put.create_revision} is seen first at {put.mod_revision}")
            self.records[name] = put
        else:
            self._fail(f"a change of kind {change.kind}")

    def at(self, revision: int) -> dict | None:
        """What it held at that revision; None when it isn't there yet, or the revision lies inside of a step or
        before what is kept."""
        with self._lock:
            if self.revision is None or revision > self.revision or revision < self._floor:
                return None
            records = dict(self.records)
            for step in reversed(self._kept):
                if step.after <= revision:
                    break
                if step.before < revision:
                    return None
                for name, old in reversed(step.undo):
                    if old is None:
                        records.pop(name, None)
                    else:
                        records[name] = old
                if step.before == revision:
                    break
            return records


def difference(seen: dict, wanted: dict) -> str:
    """How two sets of records differ, in a line; empty if they don't."""
    parts = []
    missing = sorted(wanted.keys() - seen.keys())
    extra = sorted(seen.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & seen.keys() if wanted[name] != seen[name])
    for label, names in (("missing", missing), ("extra", extra), ("different", other)):
        if names:
            parts.append(f"{len(names)} {label}, first {'/'.join(names[0])}")
    return "; ".join(parts)


class Watcher(threading.Thread):
    """Feeds a view from one node until it is stopped. A stream that ends is opened again after the position."""

    def __init__(self, node: Node, selector=None, name: str | None = None):
        super().__init__(daemon=True, name=f"watcher-{node.name}")
        self.node = node
        self.selector = selector
        self.view = View(name or f"watcher at {node.name}")
        self.failure: Failed | None = None
        self.ends: list = []  # (when, Refusal)
        self.streams = 0
        self.removed_at: dict = {}  # key -> when its removal arrived
        self._stopped = threading.Event()
        self._call = None

    def run(self):
        while not self._stopped.is_set():
            try:
                self._one_stream()
            except Failed as failed:
                self.failure = failed
                return
            except grpc.RpcError as error:
                if not self._stopped.is_set():
                    self.ends.append((time.monotonic(), refusal_of(error)))
            self._stopped.wait(0.05)

    def _one_stream(self) -> None:
        request = pb.WatchRequest(selector=everything() if self.selector is None else self.selector)
        position = self.view.position()
        if position is not None:
            request.after.CopyFrom(position)
        self.view.begin_stream()
        self._call = self.node.registry.Watch(request)
        self.streams += 1
        for message in self._call:
            self.view.apply(message)
            if message.kind == pb.WatchResponse.CHANGES:
                now = time.monotonic()
                for change in message.changes:
                    if change.kind == pb.Change.REMOVE:
                        self.removed_at[key_of(change.removed)] = now
            if self.view.ended is not None:
                self.ends.append((time.monotonic(), self.view.ended))

    def stop(self) -> None:
        """Ends the watch and waits for the thread."""
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()
        self.join(5)

    def sound(self) -> None:
        """Fails if the view failed."""
        if self.failure is not None:
            raise self.failure

    def wait_revision(self, revision: int, within_s: float = 15.0) -> None:
        """Waits until its view is complete through that revision."""

        def reached():
            self.sound()
            return self.view.revision is not None and self.view.revision >= revision

        poll(f"{self.view.name} reaches revision {revision} (stands at {self.view.revision})", reached, within_s)

    def equals_list(self, source: Node, within_s: float = 20.0) -> int:
        """Compares the view with a list of `source` at the same revision, and returns that revision. A list whose
        revision lies inside of a step is taken again."""
        selector = everything() if self.selector is None else self.selector

        def compared():
            self.sound()
            revision, wanted = listed(source, selector)
            self.wait_revision(revision)
            seen = self.view.at(revision)
            if seen is None:
                return None
            text = difference(seen, wanted)
            if text:
                self.failure = Failed(f"{self.view.name} differs from the list at revision {revision}: {text}")
                self.sound()
            return (revision,)

        try:
            return poll(f"{self.view.name} equals a list", compared, within_s)[0]
        except Failed:
            self.sound()
            raise
