"""Python stubs, generated from `proto/` at run time.

`pb` holds every message, enum and stub of `roster.v1` under its own name, whichever files the contract is split into.
It is empty until `generate` has run.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc


class Generated:
    """The names of package `roster.v1`."""

    def __init__(self):
        self._names = {}
        self.files = []  # the descriptor of every file

    def __getattr__(self, name):
        try:
            return self.__dict__["_names"][name]
        except KeyError:
            raise AttributeError(f"roster.v1 has no {name} (or the stubs are not generated yet)") from None

    def add(self, module) -> None:
        """Takes in the public names of a generated module."""
        if hasattr(module, "DESCRIPTOR"):
            self.files.append(module.DESCRIPTOR)
        for name, value in vars(module).items():
            if not name.startswith("_"):
                self._names[name] = value


pb = Generated()


def generate(proto: Path, out: Path) -> None:
    """Compiles `proto/roster/v1/*.proto` into `out` and fills `pb`. `google.rpc.Status` comes from the Python package
    that every gRPC program uses, so that error details unpack."""
    files = sorted(str(path.relative_to(proto)) for path in (proto / "roster" / "v1").glob("*.proto"))
    if not files:
        raise RuntimeError(f"no .proto files under {proto}/roster/v1")
    out.mkdir(parents=True, exist_ok=True)
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}", *files]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed on {files}")
    sys.path.insert(0, str(out))
    for path in sorted(out.glob("roster/v1/*_pb2.py")) + sorted(out.glob("roster/v1/*_pb2_grpc.py")):
        pb.add(importlib.import_module(f"roster.v1.{path.stem}"))
