"""Runs the checks and prints a line for each."""

from __future__ import annotations

import argparse
import atexit
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import grpc

from .checks import CHECKS, Failed, Skipped
from .client import refusal_of
from .load import stop_leftovers
from .logs import Logs, told
from .stubs import generate

CHECKOUT = Path(__file__).resolve().parents[2]


class World:
    """What all checks share: the binary, a folder, a seed, and the clusters that several of them use."""

    def __init__(self, binary: str, root: Path, seed: int):
        self.binary = binary
        self.root = root
        self.seed = seed
        self.checkout = CHECKOUT
        self.rng = random.Random(seed)
        self._clusters: list = []
        self._processes: list = []
        self._shared: dict = {}
        self._logs = Logs()

    def folder(self, name: str) -> Path:
        """A new folder of that name below the run's."""
        path = self.root / name
        number = 1
        while path.exists():
            number += 1
            path = self.root / f"{name}-{number}"
        path.mkdir(parents=True)
        return path

    def cluster(self, name: str, **options):
        """A new cluster in a folder of that name; not started."""
        from .cluster import Cluster

        made = Cluster(self.binary, self.folder(name), **options)
        self._clusters.append(made)
        return made

    def surprises(self, announced: dict) -> list:
        """What nodes and other processes have logged since the last look, and nobody announced."""
        processes = [server for cluster in self._clusters for server in cluster] + self._processes
        return self._logs.look([process.log for process in processes], announced)

    def process(self, name: str):
        """A process that this run ends at the latest when it ends itself; not started."""
        from .cluster import Process

        made = Process(self.root / "processes" / f"{name}-{len(self._processes)}.log")
        self._processes.append(made)
        return made

    def shared(self, name: str, make):
        """What `make` returned at the first call with this name; made anew after a `forget`."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]

    def forget(self, name: str) -> None:
        """Closes a shared thing, so that the next check gets a fresh one."""
        thing = self._shared.pop(name, None)
        if thing is not None:
            thing.close()

    def healthy(self):
        """Three nodes that nobody harms."""
        cluster = self.shared("healthy", lambda: self.cluster("healthy").start())
        cluster.heal()
        return cluster

    def close(self) -> None:
        """Ends everything."""
        for name in list(self._shared):
            try:
                self.forget(name)
            except Exception:  # noqa: BLE001 - the rest must be ended all the same
                traceback.print_exc()
        for process in self._processes:
            process.kill()
        for cluster in self._clusters:
            cluster.close()


class OverTime(Exception):
    """A check took longer than its limit."""


def _over_time(*_):
    raise OverTime


def main() -> int:
    """The command."""
    arguments = _arguments()
    from . import load_all

    load_all()
    if arguments.list:
        print("\n".join(check.name for check in CHECKS))
        return 0
    chosen = _chosen(arguments.only)
    if chosen is None:
        return 2
    if arguments.self_test:
        from . import self_test

        return self_test.main()

    binary = os.environ.get("ROSTER_BIN") or str(CHECKOUT / "bin" / "roster")
    if not os.access(binary, os.X_OK):
        print(f"prove: {binary} is not there: build it first, or set ROSTER_BIN", file=sys.stderr)
        return 2
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    root = Path(tempfile.mkdtemp(prefix="roster-prove-"))
    root.chmod(0o755)
    generate(CHECKOUT / "proto", root / "stubs")
    world = World(os.path.realpath(binary), root, seed)
    atexit.register(world.close)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGALRM, _over_time)
    print(f"# seed {seed}, binary {binary}", flush=True)
    return _run(world, chosen, arguments)


def _run(world: World, chosen, arguments) -> int:
    begun = time.monotonic()
    passed = failed = skipped = 0
    try:
        for check in chosen:
            verdict, figure = _one(world, check)
            surprises = world.surprises(check.logs)
            if verdict == "PASS" and surprises:
                verdict, figure = "FAIL", _line(told(surprises))
            passed += verdict == "PASS"
            failed += verdict == "FAIL"
            skipped += verdict == "SKIP"
            print(f"{verdict} {check.name} {figure}", flush=True)
    except KeyboardInterrupt:
        failed += 1
        print("FAIL interrupted", flush=True)
    world.close()
    # What came after the last check, up to the end of every cluster.
    surprises = world.surprises({})
    if surprises:
        failed += 1
        print(f"FAIL logs-at-the-end {_line(told(surprises))}", flush=True)
    print(f"# {time.monotonic() - begun:.0f} s")
    if arguments.keep or failed:
        print(f"# data and logs: {world.root}")
    else:
        shutil.rmtree(world.root, ignore_errors=True)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


def _one(world: World, check) -> tuple:
    begun = time.monotonic()
    try:
        signal.alarm(check.limit_s)
        try:
            figure = check.run(world)
        finally:
            signal.alarm(0)
            stop_leftovers()
    except Skipped as reason:
        return "SKIP", str(reason)
    except Failed as failed:
        _record(world, check.name)
        return "FAIL", _line(str(failed))
    except grpc.RpcError as error:
        _record(world, check.name)
        try:
            text = str(refusal_of(error))
        except Failed as failed:
            text = str(failed)
        return "FAIL", _line(f"a call failed: {text}")
    except OverTime:
        _record(world, check.name)
        return "FAIL", f"not done within its {check.limit_s} s"
    except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
        _record(world, check.name)
        return "FAIL", _line(f"{type(error).__name__}: {error}")
    return "PASS", _line(f"{figure or 'ok'} [{time.monotonic() - begun:.1f} s]")


def _line(text: str) -> str:
    """One line of at most 400 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:397] + "..."


def _record(world: World, name: str) -> None:
    """Keeps the whole story of a failure beside the logs."""
    folder = world.root / "failures"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(traceback.format_exc())


def _chosen(only) -> list | None:
    if not only:
        return list(CHECKS)
    chosen = []
    for pattern in only:
        matching = [check for check in CHECKS if check.name == pattern or check.name.startswith(pattern + "-")]
        if not matching:
            print(f"prove: no check {pattern}; --list shows them", file=sys.stderr)
            return None
        chosen += [check for check in matching if check not in chosen]
    return [check for check in CHECKS if check in chosen]


def _arguments():
    parser = argparse.ArgumentParser(prog="scripts/prove", description="Proves the promises against real processes.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these checks, or all whose names begin so")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--seed", type=int, help="what the random choices follow")
    parser.add_argument("--keep", action="store_true", help="keep data and logs, whatever comes out")
    parser.add_argument("--self-test", action="store_true", help="test the watch checker and the proxy, with no server")
    return parser.parse_args()
