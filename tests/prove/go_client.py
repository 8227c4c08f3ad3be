"""The Go client: stubs by Debian's protoc and its plugins, built with Debian's Go and its packaged libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .checks import Failed, require

# Where Debian's golang-*-dev packages put their sources; they are used as they are, without modules.
PACKAGED = Path("/usr/share/gocode")
NEEDED = {
    "go": "golang-go",
    "protoc": "protobuf-compiler",
    "protoc-gen-go": "protoc-gen-go-1-5",
    "protoc-gen-go-grpc": "protoc-gen-go-grpc",
}
LIBRARIES = {
    "google.golang.org/grpc": "golang-google-grpc-dev",
    "google.golang.org/protobuf": "golang-github-golang-protobuf-1-5-dev",
}


def build(checkout: Path, folder: Path) -> Path:
    """Builds `tests/go` in a folder of its own and returns the program."""
    missing = [package for tool, package in NEEDED.items() if not shutil.which(tool)]
    missing += [package for path, package in LIBRARIES.items() if not (PACKAGED / "src" / path).is_dir()]
    if missing:
        raise Failed(f"missing packages: {' '.join(missing)} (scripts/setup installs them)")
    source = folder / "src"
    program = source / "prove" / "go-client"
    program.mkdir(parents=True)
    for path in (checkout / "tests" / "go").glob("*.go"):
        shutil.copy(path, program)
    proto = checkout / "proto"
    files = sorted(str(path.relative_to(proto)) for path in (proto / "roster" / "v1").glob("*.proto"))
    run(["protoc", f"-I{proto}", "-I/usr/include", f"--go_out={source}", f"--go-grpc_out={source}", *files], folder)
    built = folder / "go-client"
    more = {
        "GO111MODULE": "off",
        "GOPATH": f"{folder}:{PACKAGED}",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    # -p 1: the nodes that it will talk to run on the same machine.
    run(["go", "build", "-p", "1", "-o", str(built), "prove/go-client"], folder, **more)
    return built


def run(words: list, folder: Path, **more) -> None:
    """Runs a build step."""
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True, timeout=150, check=False
    )
    require(done.returncode == 0, f"{words[0]} failed: {done.stderr.strip()[-400:]}")
