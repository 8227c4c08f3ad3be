"""Proof of the promises against real processes.

`runner` runs the checks that the other modules register: `semantics`, `api_walk`, `error_rows`, `bad_input`,
`bad_start`, `failures`, `endings`, `disk`, `hung_disk` and `tools`. They stand on `cluster` (server processes), `links`
(a proxy on every peer connection), `client` (a node's API and its errors), `view` (what a watcher must see), `load`
(writers and renewers that remember what was acknowledged) and `logs` (what nodes may log).
"""

import importlib

ROOMS = (
    "semantics",
    "api_walk",
    "error_rows",
    "bad_input",
    "bad_start",
    "failures",
    "endings",
    "disk",
    "hung_disk",
    "tools",
)


def load_all() -> None:
    """Imports every module that registers checks, in the order in which they run."""
    for room in ROOMS:
        importlib.import_module(f"{__name__}.{room}")
