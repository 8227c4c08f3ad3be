"""Tests of the prover itself, with no server: the watch checker must accept what a correct server sends and reject
each planted violation; the proxy must cut and heal; the pages, stubs and images must be what the checks take them for.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from . import disk, go_client, readme
from .bad_input import sized_record
from .checks import Failed, Skipped, equal, poll, require
from .client import key, record, span
from .cluster import free_port
from .links import Links
from .logs import Logs
from .runner import CHECKOUT
from .stubs import generate, pb
from .view import STEPS_KEPT, View, difference

CLUSTER = "00000000000000aa"
TESTS = []


def test(function):
    """Adds a test."""
    TESTS.append(function)
    return function


def message(kind: str, *changes, at=None, more=False, reset=None):
    """A watch message."""
    made = pb.WatchResponse(kind=pb.WatchResponse.Kind.Value(kind), changes=changes, more=more)
    if at is not None:
        made.header.revision = at
        made.position.CopyFrom(pb.Position(cluster_id=CLUSTER, revision=at))
    if reset:
        made.reset.reason = pb.Reset.Reason.Value(reset)
    return made


def put(id: str, revision: int, created: int | None = None):
    """A record's change."""
    instance = record("s", id, create_revision=revision if created is None else created, mod_revision=revision)
    return pb.Change(kind=pb.Change.PUT, instance=instance, revision=revision)


def remove(id: str, revision: int):
    """A record's removal."""
    return pb.Change(kind=pb.Change.REMOVE, removed=key("s", id), revision=revision)


def viewed(*messages) -> View:
    """A view after these messages."""
    view = View()
    for one in messages:
        view.apply(one)
    return view


def ids(records) -> list:
    """The ids of a view's records."""
    return sorted(name[2] for name in records)


@test
def a_correct_history_is_accepted_and_can_be_taken_back():
    view = viewed(
        message("PROGRESS", at=1),
        message("SNAPSHOT", put("a", 1), more=True),
        message("SNAPSHOT", put("b", 2), at=2),
        message("CHANGES", put("c", 3), at=3),
        message("PROGRESS", at=3),
        message("CHANGES", put("a", 4, created=1), more=True),
        message("CHANGES", remove("b", 4), at=4),
        message("PROGRESS", at=6),
        message("CHANGES", remove("c", 7), at=7),
    )
    stories = {1: None, 2: ["a", "b"], 3: ["a", "b", "c"], 4: ["a", "c"], 5: None, 6: ["a", "c"], 7: ["a"], 8: None}
    for revision, wanted in stories.items():
        if revision == 5:
            continue  # within a progress: known, and the same as 4
        seen = view.at(revision)
        equal(None if seen is None else ids(seen), wanted, f"the view at {revision}")
    equal(view.at(3)[("default", "s", "a")].mod_revision, 1, "the record as it was at 3")
    equal(ids(view.at(5)), ["a", "c"], "the view within a progress")


@test
def a_coalesced_step_is_accepted_and_hides_its_inside():
    view = viewed(
        message("SNAPSHOT", put("a", 1), at=1),
        message("CHANGES", remove("ghost", 3), put("b", 4), put("a", 5, created=5), at=6),
    )
    equal(view.coalesced, 1, "coalesced steps")
    equal([view.at(r) is not None for r in (1, 2, 5, 6)], [True, False, False, True], "what is known")


@test
def a_reset_replaces_the_view():
    view = viewed(
        message("SNAPSHOT", put("a", 1), at=1),
        message("SNAPSHOT", put("b", 9), more=True, reset="COMPACTED"),
        message("SNAPSHOT", put("c", 9), at=9),
    )
    equal((ids(view.records), view.resets), (["b", "c"], ["COMPACTED"]), "the view after the reset")
    equal(view.at(1), None, "the view before the reset")


@test
def what_was_staged_on_a_broken_stream_is_void():
    view = viewed(message("SNAPSHOT", put("a", 1), at=1), message("CHANGES", put("b", 2), more=True))
    view.begin_stream()
    view.apply(message("CHANGES", at=1))  # the empty first message of a resumed watch
    view.apply(message("CHANGES", put("b", 2), put("c", 2), at=2))
    equal(ids(view.records), ["a", "b", "c"], "the view")


@test
def every_planted_violation_is_found():
    start = message("SNAPSHOT", put("a", 1), put("b", 2), at=2)
    planted = {
        "a duplicate": [start, message("CHANGES", put("c", 3), at=3), message("CHANGES", put("c", 3), at=3)],
        "a step back": [start, message("CHANGES", put("c", 2), at=2)],
        "an older change after a newer": [start, message("CHANGES", put("c", 5), put("d", 4), at=5)],
        "a change from before the position": [start, message("CHANGES", put("c", 1), at=3)],
        "a change beyond the position": [start, message("CHANGES", put("c", 4), at=3)],
        "a lost put": [start, message("CHANGES", put("c", 3, created=2), at=3)],
        "a lost removal": [start, message("CHANGES", put("a", 3), at=3)],
        "a removal of nothing": [start, message("CHANGES", remove("z", 3), at=3)],
        "a key twice in a step": [start, message("CHANGES", put("c", 3), remove("c", 3), at=3)],
        "a snapshot without reset": [start, message("SNAPSHOT", at=3)],
        "a snapshot from the past": [start, message("SNAPSHOT", at=1, reset="LAGGED")],
        "a removal in a snapshot": [message("SNAPSHOT", remove("a", 1), at=1)],
        "a key twice in a snapshot": [message("SNAPSHOT", put("a", 1), put("a", 1), at=1)],
        "a snapshot of the future": [message("SNAPSHOT", put("a", 5), at=1)],
        "progress back": [start, message("PROGRESS", at=1)],
        "progress within a step": [start, message("CHANGES", put("c", 3), more=True), message("PROGRESS", at=3)],
        "progress without a position": [start, message("PROGRESS")],
        "a position before the end": [start, message("CHANGES", put("c", 3), more=True, at=3)],
        "no position at the end": [start, message("CHANGES", put("c", 3))],
        "mixed kinds": [start, message("CHANGES", put("c", 3), more=True), message("SNAPSHOT", at=3)],
        "changes before a snapshot": [message("CHANGES", put("c", 3), at=3)],
        "an unknown kind": [message("KIND_UNSPECIFIED", at=3)],
    }
    for what, messages in planted.items():
        try:
            viewed(*messages)
        except Failed:
            continue
        raise Failed(f"{what} was not found")


@test
def a_gap_that_no_message_shows_is_found_by_comparing():
    view = viewed(message("SNAPSHOT", put("a", 1), at=1), message("CHANGES", put("c", 3), at=3))
    wanted = {("default", "s", i): put(i, r).instance for i, r in (("a", 1), ("b", 2), ("c", 3))}
    require("1 missing, first default/s/b" in difference(view.at(3), wanted), "the gap was not found")
    equal(difference(wanted, dict(wanted)), "", "difference of equals")


@test
def a_long_history_forgets_its_beginning():
    view = viewed(message("SNAPSHOT", at=0))
    for revision in range(1, STEPS_KEPT + 11):
        view.apply(message("CHANGES", put("a", revision, created=1), at=revision))
    require(view.at(5) is None, "a forgotten revision is answered")
    equal(view.at(STEPS_KEPT)[("default", "s", "a")].mod_revision, STEPS_KEPT, "a kept revision")


ECHO = """
import socket, sys, threading
def serve(connection):
    while data := connection.recv(1000):
        connection.sendall(data)
    connection.close()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@test
def the_proxy_cuts_single_links_and_heals_them():
    import os

    target, listen = free_port(), free_port()
    echo = subprocess.Popen([sys.executable, "-c", ECHO, str(target)])
    # This process plays n1 and the echo n2; n3 is nobody.
    links = Links(lambda: {"n1": os.getpid(), "n2": echo.pid})
    try:
        links.add("n2", listen, target)

        def connected():
            try:
                connection = socket.create_connection(("127.0.0.1", listen), timeout=2)
                connection.sendall(b"hello")
                return connection if connection.recv(100) == b"hello" else None
            except OSError:
                return None

        connection = poll("the proxy passes bytes", connected, 10)
        links.cut("n2", "n3")
        connection.sendall(b"other link")
        equal(connection.recv(100), b"other link", "bytes while another link is cut")
        links.cut("n1", "n2")
        connection.sendall(b"held")
        connection.settimeout(0.3)
        try:
            raise Failed(f"a cut link passed {connection.recv(100)!r}")
        except TimeoutError:
            pass
        second = socket.create_connection(("127.0.0.1", listen), timeout=2)
        second.sendall(b"new")
        second.settimeout(0.3)
        try:
            raise Failed(f"a cut link passed {second.recv(100)!r} of a new connection")
        except TimeoutError:
            pass
        links.heal()
        for one, sent in ((connection, b"held"), (second, b"new")):
            one.settimeout(5)
            equal(one.recv(100), sent, "what stood still while the link was cut")
        echo.kill()
        echo.wait()
        equal(connection.recv(100), b"", "the end of the other side")
    finally:
        echo.kill()
        echo.wait()
        links.close()
    equal([t.name for t in threading.enumerate() if t.name == "links"], [], "threads of the proxy")


README = """# X
```sh
$ pip install grpcio-tools
$ python -m grpc_tools.protoc -Iproto --python_out=. \\
    --grpc_python_out=. proto/roster/v1/*.proto
```
```python
print("not this one")
```
```python
import grpc, glob
print(len(glob.glob("roster/v1/*_pb2.py")) > 0, end="")
```
"""


@test
def the_readmes_client_is_taken_as_printed():
    with tempfile.TemporaryDirectory() as name:
        program = readme.prepare(README, CHECKOUT, Path(name))
        done = subprocess.run(
            [sys.executable, program], cwd=name, env=readme.environment(Path(name)), capture_output=True, text=True,
            check=False,
        )
        equal((done.stdout, done.stderr), ("True", ""), "what the client printed")
    for page in ("no code", "```python\nimport os\n```\n"):
        try:
            readme.python_client(page)
        except Failed:
            continue
        raise Failed(f"a client was found in {page!r}")


@test
def the_go_client_builds():
    with tempfile.TemporaryDirectory() as name:
        program = go_client.build(CHECKOUT, Path(name))
        done = subprocess.run([program], capture_output=True, text=True, check=False)
        equal(done.returncode, 2, "exit code without arguments")


@test
def records_are_sized_to_the_byte():
    for size in (64 << 10, (64 << 10) + 1):
        equal(sized_record(size).ByteSize(), size, "size")
    equal((span(1.5).seconds, span(1.5).nanos), (1, 500_000_000), "a span")


@test
def a_torn_tail_is_the_beginning_of_a_record():
    with tempfile.TemporaryDirectory() as name:
        for size in (0, 100, disk.BLOCK_BYTES - 3, disk.BLOCK_BYTES - 100):
            log = Path(name) / "000004.log"
            log.write_bytes(b"x" * size)
            disk.tear(log)
            data = log.read_bytes()
            at = size if disk.BLOCK_BYTES - size % disk.BLOCK_BYTES >= disk.HEADER_BYTES else disk.BLOCK_BYTES
            equal(data[at + 4 : at + 7], b"\xe8\x03\x01", f"header behind {size} bytes")
        disk.flip(log, 5)
        equal(log.read_bytes()[5], ord("x") ^ 0xFF, "a flipped byte")
        equal(disk.log_files(Path(name)), [log], "logs found")


@test
def an_image_keeps_what_was_synced():
    import os
    import shutil

    if os.geteuid() != 0 or not shutil.which("losetup"):
        raise Skipped("needs root and losetup")
    with tempfile.TemporaryDirectory() as name:
        image = disk.Image(Path(name) / "a.img", Path(name) / "disk")
        try:
            image.make()
        except Failed as failed:
            raise Skipped(f"no loop-mounted file system here: {failed}") from None
        try:
            for which in ("synced", "unsynced"):
                with open(image.mountpoint / which, "w", encoding="ascii") as file:
                    file.write("x" * 1000)
                    file.flush()
                    if which == "synced":
                        os.fsync(file.fileno())
            image = image.cut(Path(name) / "cut.img").mount()
            equal((image.mountpoint / "synced").read_text(), "x" * 1000, "what was synced")
            unsynced = image.mountpoint / "unsynced"
            require(not unsynced.exists() or not unsynced.read_text().strip("\0"), "what was not synced survived")
        finally:
            image.unmount()


@test
def what_is_logged_and_nobody_announced_is_a_surprise_once():
    time_of = "2026-11-21T12:00:00.000001Z"
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "n1.log"

        def say(*lines):
            with open(log, "a", encoding="utf-8") as file:
                file.write("".join(lines))

        logs = Logs()
        say(f"{time_of}  INFO roster: an ERROR of words\n", f"{time_of}  WARN roster: odd\n", "thread panicked at x\n")
        equal(len(logs.look([log], {})), 2, "surprises")
        equal(logs.look([log], {}), [], "what was seen already")
        say(f"{time_of} ERROR roster: full\n")
        equal(logs.look([log], {"full": "announced"}), [], "what was announced")
        say(f"{time_of} ERROR roster: full, still\n", f"{time_of}  WARN half a line")
        equal(logs.look([log], {}), [], "a late line of the check before, and half a line")
        say("\n", f"{time_of} ERROR roster: full\n")
        equal(logs.look([log], {}), [f"n1: {time_of}  WARN half a line", f"n1: {time_of} ERROR roster: full"], "later")


def main() -> int:
    """Runs all; prints a line for each."""
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        generate(CHECKOUT / "proto", Path(name))
        for function in TESTS:
            title = function.__name__.replace("_", " ")
            try:
                function()
            except Skipped as reason:
                print(f"SKIP {title}: {reason}")
            except Exception:  # noqa: BLE001 - told below
                failed += 1
                print(f"FAIL {title}")
                traceback.print_exc()
            else:
                print(f"PASS {title}")
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0
