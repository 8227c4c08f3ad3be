"""Runs the examples of README.md: readme.py CHECKOUT FOLDER ENDPOINTS

An example is a fenced block that follows a comment `<!-- example: NAME -->`:

  tour      shell; every command of it succeeds
  stubs     shell; leaves the stubs of the API in the folder
  client    Python, run beside those stubs
  client-output   what the client prints

The README names the ports of scripts/up. The cluster here has others, so that nothing that runs on this machine is in
the way: they are the one thing that is changed in an example before it runs.
"""

import difflib
import pathlib
import re
import subprocess
import sys

EXAMPLE_WITHIN_S = 60
PRINTED_PORTS = ("127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402")


def examples(text):
    """The fenced blocks that have a name."""
    found = dict(re.findall(r"<!-- example: ([a-z-]+) -->\n+```[a-z]*\n(.*?)```\n", text, re.DOTALL))
    named = re.findall(r"<!-- example: ([a-z-]+) -->", text)
    if sorted(found) != sorted(named):
        sys.exit(f"FAIL readme: a named example has no block of its own: {named}")
    return found


def run(name, command, folder):
    """Runs one example; its output, or the end of this program."""
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=EXAMPLE_WITHIN_S
        )
    except subprocess.TimeoutExpired as expired:
        sys.exit(f"FAIL readme_{name}: not done within {EXAMPLE_WITHIN_S} s\n{expired.stdout}\n{expired.stderr}")
    if done.returncode != 0:
        sys.exit(f"FAIL readme_{name}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main():
    checkout, folder, endpoints = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3].split(",")
    text = (checkout / "README.md").read_text()
    for printed, real in zip(PRINTED_PORTS, endpoints):
        text = text.replace(printed, real)
    blocks = examples(text)
    for wanted in ("tour", "stubs", "client", "client-output"):
        if wanted not in blocks:
            sys.exit(f"FAIL readme: the README has no example `{wanted}`")

    # The commands are meant for the checkout, but must leave nothing there.
    (folder / "proto").symlink_to(checkout / "proto")

    run("tour", ["bash", "-euo", "pipefail", "-c", blocks["tour"]], folder)
    print("PASS readme_tour every command succeeds")

    run("stubs", ["bash", "-euo", "pipefail", "-c", blocks["stubs"]], folder)
    print("PASS readme_stubs generated as printed")

    (folder / "client.py").write_text(blocks["client"])
    printed = run("client", [sys.executable, "client.py"], folder)
    if printed != blocks["client-output"]:
        difference = difflib.unified_diff(
            blocks["client-output"].splitlines(), printed.splitlines(), "README.md", "printed", lineterm=""
        )
        sys.exit("FAIL readme_client: another output\n" + "\n".join(difference))
    print("PASS readme_client prints what the README shows")


if __name__ == "__main__":
    main()
