"""Fails where a published crate needs a newer Rust than the workspace states.

Reads Cargo.lock as cargo resolves it: every crate that a published one depends on, build scripts
included, tests not. What std has is clippy's business (`incompatible_msrv`).
"""

import json
import subprocess
import sys


def version(text):
    return tuple(int(part) for part in (text.split("-")[0] + ".0.0").split(".")[:3])


metadata = json.loads(
    subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked"],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
members = [packages[member] for member in metadata["workspace_members"]]
# `publish = false` is an empty list of registries.
published = [package for package in members if package["publish"] != []]
stated = {package["rust_version"] for package in published}
if len(stated) != 1 or None in stated:
    sys.exit(f"the published crates state no version, or several: {stated}")
stated = stated.pop()

seen = set()
waiting = [package["id"] for package in published]
while waiting:
    crate = waiting.pop()
    if crate in seen:
        continue
    seen.add(crate)
    for dependency in nodes[crate]["deps"]:
        if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
            waiting.append(dependency["pkg"])

newer = [
    f"{packages[crate]['name']} {packages[crate]['version']} needs Rust {packages[crate]['rust_version']}"
    for crate in sorted(seen)
    if packages[crate]["rust_version"] and version(packages[crate]["rust_version"]) > version(stated)
]
if newer:
    sys.exit("\n".join(newer) + f"\nbut the workspace states {stated}")
# Our own state what the workspace does.
asked = [packages[crate] for crate in seen if packages[crate] not in published]
highest = max((one["rust_version"] for one in asked if one["rust_version"]), key=version)
who = sorted(one["name"] for one in asked if one["rust_version"] == highest)
print(
    f"{len(seen)} crates need Rust {stated} or less, as far as they say; "
    f"the highest that a dependency asks for is {highest} ({', '.join(who)})"
)
