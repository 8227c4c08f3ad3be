"""The README's Python client, taken out of the page as it is printed."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

from .checks import Failed, require

FENCE = re.compile(r"^```[ \t]*(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
SHELLS = ("sh", "shell", "bash", "console", "")


def blocks(page: str) -> list:
    """The fenced code blocks of a page: (language, text)."""
    return [(language.lower(), text) for language, text in FENCE.findall(page)]


def python_client(page: str) -> str:
    """The first Python block that imports grpc."""
    for language, text in blocks(page):
        if language in ("python", "py") and re.search(r"^\s*(import|from) grpc\b", text, re.MULTILINE):
            return text
    raise Failed("the README has no Python block that imports grpc")


def stub_commands(page: str) -> list:
    """The shell commands that generate its stubs, continuation lines joined, prompts removed."""
    found = []
    for language, text in blocks(page):
        if language in SHELLS:
            for line in text.replace("\\\n", " ").splitlines():
                line = re.sub(r"^\s*\$\s+", "", line).strip()
                if "grpc_tools.protoc" in line:
                    found.append(line)
    require(found, "the README does not say how to generate the stubs with grpc_tools.protoc")
    return found


def prepare(page: str, checkout: Path, folder: Path) -> Path:
    """Does what the README tells the reader to do, in a folder that has only `proto/`; returns the program."""
    (folder / "proto").symlink_to(checkout / "proto")
    for line in stub_commands(page):
        done = subprocess.run(
            ["sh", "-ec", line], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
        )
        require(done.returncode == 0, f"`{line}` failed: {done.stderr.strip()[-300:]}")
    program = folder / "client.py"
    program.write_text(python_client(page))
    return program


def environment(folder: Path, **more) -> dict:
    """The reader's environment: `python` and `python3` are the Python that has grpcio."""
    names = folder / "python"
    names.mkdir(exist_ok=True)
    for name in ("python", "python3"):
        door = names / name
        door.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        door.chmod(door.stat().st_mode | stat.S_IXUSR)
    clean = {n: v for n, v in os.environ.items() if not n.startswith("ROSTER_") and n != "PYTHONPATH"}
    return {**clean, "PATH": f"{names}:{os.environ['PATH']}", **more}
