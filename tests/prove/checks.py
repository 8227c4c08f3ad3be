"""The list of checks: what one is, how it fails, and how it says that it can't run here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable


class Failed(AssertionError):
    """A promise was not kept; the text says which and how."""


class Skipped(Exception):
    """This machine lacks what the check needs; the text says what."""


@dataclass(frozen=True)
class Check:
    """One line of the proof. `run` takes the `World` and returns the figure that is printed. `logs`: what its nodes may
    log above INFO, as a part of the line, and why that is no surprise."""

    name: str
    run: Callable
    limit_s: int
    logs: dict


CHECKS: list[Check] = []


def check(name: str, limit_s: int = 120, logs: dict | None = None):
    """Adds a function to the list, in the order in which the modules are imported."""

    def add(function):
        CHECKS.append(Check(name, function, limit_s, logs or {}))
        return function

    return add


def require(condition, text: str) -> None:
    """Fails the check with that text unless the condition holds."""
    if not condition:
        raise Failed(text)


def equal(seen, wanted, what: str) -> None:
    """Fails unless both are equal, naming both."""
    if seen != wanted:
        raise Failed(f"{what}: {seen!r} instead of {wanted!r}")


def poll(what: str, probe: Callable, within_s: float, every_s: float = 0.05):
    """Calls `probe` until it returns something true, and returns that. Its `Failed` counts as "not yet"; the last
    one is told when the time is up."""
    deadline = time.monotonic() + within_s
    last = ""
    while True:
        try:
            result = probe()
            if result:
                return result
        except Failed as failed:
            last = f" ({failed})"
        if time.monotonic() >= deadline:
            raise Failed(f"not within {within_s:g} s: {what}{last}")
        time.sleep(every_s)
