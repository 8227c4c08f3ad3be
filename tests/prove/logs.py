"""What nodes may log: nothing above INFO, but for what the checks that provoke trouble announce."""

from __future__ import annotations

import re
from pathlib import Path

# A line of the log begins with its time and its level. What a process prints on its way out is for the check that
# looks at its exit; a panic is nobody's business but ours.
LOUD = re.compile(r"^\d{4}-\d\d-\d\dT\S+Z +(WARN|ERROR) |panicked at")
TOLD_AT_MOST = 3
# What says something of the machine and not of the node.
OF_THE_MACHINE = {"the disk is slow: a write has been waiting": "a busy machine takes seconds for a sync"}


def surprises(text: str, expected: dict) -> list:
    """The loud lines of a log that nobody announced. `expected`: part of a line, and why it is no surprise."""
    loud = [line.strip() for line in text.splitlines() if LOUD.search(line)]
    return [line for line in loud if not any(part in line for part in expected)]


class Logs:
    """The logs of one run, each read once: what a check's nodes say belongs to that check."""

    def __init__(self):
        self._read: dict = {}
        self._announced: dict = {}

    def look(self, files: list, announced: dict) -> list:
        """What was logged since the last look, and not announced by the check that has just ended or by the one before
        it, whose last lines may come late. Each as `NAME: line`."""
        expected = {**OF_THE_MACHINE, **self._announced, **announced}
        self._announced = announced
        found = []
        for file in files:
            found += [f"{file.stem}: {line}" for line in surprises(self._new(file), expected)]
        return found

    def _new(self, file: Path) -> str:
        """The whole lines that were not read yet."""
        if not file.exists():
            return ""
        with open(file, "rb") as log:
            log.seek(self._read.get(file, 0))
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[file] = self._read.get(file, 0) + len(whole)
        return whole.decode(errors="replace")


def told(lines: list) -> str:
    """A failure's text."""
    more = f" and {len(lines) - TOLD_AT_MOST} more" if len(lines) > TOLD_AT_MOST else ""
    return "logged what nobody announced: " + " | ".join(lines[:TOLD_AT_MOST]) + more
