"""Fails where a published crate is packed without its README or a licence.

Asks cargo what it would pack; builds nothing. Prints what each crate lacks.
"""

import json
import subprocess
import sys

WANTED = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"]


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


metadata = json.loads(cargo("metadata", "--format-version", "1", "--no-deps", "--locked"))
# `publish = false` is an empty list of registries.
published = [package for package in metadata["packages"] if package["publish"] != []]
faults = []
for package in published:
    name = package["name"]
    packed = cargo("package", "--list", "--allow-dirty", "-p", name).splitlines()
    faults += [f"{name} is packed without {file}" for file in WANTED if file not in packed]
    if package["readme"] != "README.md":
        faults.append(f"{name} names {package['readme']} as its readme")
if faults:
    sys.exit("\n".join(faults))
print(f"{len(published)} crates are packed with {', '.join(WANTED)}")
