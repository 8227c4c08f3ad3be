"""Reads `roster cluster status -o json` and prints the leader's name; nothing while no node leads.

A leader that was cut off may still take itself for one: of two that say so, the later term leads.
"""

import json
import sys


def main():
    nodes = [json.loads(line) for line in sys.stdin if line.strip()]
    leaders = [node["header"] for node in nodes if node["role"] == "leader"]
    if leaders:
        print(max(leaders, key=lambda header: int(header["term"]))["node"])


if __name__ == "__main__":
    main()
