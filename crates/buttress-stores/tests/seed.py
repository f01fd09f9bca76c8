"""Saves and loads checkpoints in the seed's format, as a program of its own would.

    seed.py save FOLDER ID PHASE STATE     STATE is JSON
    seed.py load FOLDER ID                 prints phase and state as one JSON object
    seed.py resume FOLDER ID               the same, with the age in seconds

The format is a JSON object with workflow_id, timestamp (naive and local, in ISO form), phase and
state, indented by two, in `{FOLDER}/{ID}_latest.json`, written in place.
"""

import json
import sys
from datetime import datetime


def path(folder, workflow_id):
    return f"{folder}/{workflow_id}_latest.json"


def save(folder, workflow_id, phase, state):
    record = dict(
        workflow_id=workflow_id,
        timestamp=datetime.now().isoformat(),
        phase=phase,
        state=json.loads(state),
    )
    with open(path(folder, workflow_id), "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)


def load(folder, workflow_id):
    with open(path(folder, workflow_id), encoding="utf-8") as file:
        return json.load(file)


def shown(record, **more):
    return json.dumps(dict(phase=record["phase"], state=record["state"], **more))


def main(command, folder, workflow_id, *rest):
    if command == "save":
        save(folder, workflow_id, *rest)
        return
    record = load(folder, workflow_id)
    if record["workflow_id"] != workflow_id:
        sys.exit(f"{record['workflow_id']!r} is not {workflow_id!r}")
    if command == "load":
        print(shown(record))
    else:
        # An aware time cannot be taken from a naive one: this is what a resume stumbles over.
        age = datetime.now() - datetime.fromisoformat(record["timestamp"])
        print(shown(record, age=age.total_seconds()))


main(*sys.argv[1:])
