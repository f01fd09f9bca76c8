"""LangGraph on the graphs of the bench `graph`, which starts this and asks it for one run at a time.

A line of standard input is a JSON object that asks for one run of a graph:

    {"graph": "loop", "store": "none", "steps": 10}
    {"graph": "fan_out", "store": "none", "steps": 100}

and is answered by a line on standard output, with its time in nanoseconds:

    {"ns": 7042311}

The first line of the output says which versions these are. `store` is none, memory or sqlite, a file
in the folder that is the one argument. A saver has saved a step before the next one begins
(durability="sync"), as the stores of buttress do; SqliteSaver leaves SQLite at synchronous=FULL.
"""

import json
import operator
import platform
import sqlite3
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

TEXT = "x" * 1024


class Loop(TypedDict):
    count: int
    steps: int
    text: str


class FanOut(TypedDict):
    item: int
    items: int
    squares: Annotated[list[int], operator.add]


def counts(state: Loop):
    return {"count": state["count"] + 1}


def loop(saver):
    graph = StateGraph(Loop)
    for name in ("first", "second", "third"):
        graph.add_node(name, counts)
    graph.add_edge(START, "first")
    # 10, 100 and 1,000 steps all end behind the first of three nodes.
    graph.add_conditional_edges(
        "first",
        lambda state: "end" if state["count"] >= state["steps"] else "next",
        {"next": "second", "end": END},
    )
    graph.add_edge("second", "third")
    graph.add_edge("third", "first")
    return graph.compile(checkpointer=saver)


def sends(state: FanOut):
    return Command(goto=[Send("square", {"item": item}) for item in range(state["items"])])


def square(state: FanOut):
    return {"squares": [state["item"] ** 2]}


def fan_out(saver):
    graph = StateGraph(FanOut)
    graph.add_node("list", sends, destinations=("square",))
    graph.add_node("square", square)
    graph.add_edge(START, "list")
    graph.add_edge("square", END)
    return graph.compile(checkpointer=saver)


def begin(graph, steps):
    if graph == "loop":
        return {"count": 0, "steps": steps, "text": TEXT}
    return {"item": 0, "items": steps, "squares": []}


def is_done(graph, steps, state):
    if graph == "loop":
        return state["count"] == steps
    return state["squares"] == [item**2 for item in range(steps)]


def main(folder):
    connection = sqlite3.connect(Path(folder) / "langgraph.db", check_same_thread=False)
    savers = {"none": None, "memory": InMemorySaver(), "sqlite": SqliteSaver(connection)}
    graphs = {
        (name, store): build(saver)
        for name, build in (("loop", loop), ("fan_out", fan_out))
        for store, saver in savers.items()
    }
    names = ("langgraph", "langgraph-checkpoint-sqlite")
    print(json.dumps({"python": platform.python_version(), **{n: version(n) for n in names}}), flush=True)
    workflows = 0
    for line in sys.stdin:
        asked = json.loads(line)
        name, store, steps = asked["graph"], asked["store"], asked["steps"]
        graph = graphs[name, store]
        options = {} if store == "none" else {"durability": "sync"}
        workflows += 1
        config = {"recursion_limit": steps + 10}
        if store != "none":
            config["configurable"] = {"thread_id": str(workflows)}
        state = begin(name, steps)
        started = time.perf_counter_ns()
        state = graph.invoke(state, config, **options)
        ns = time.perf_counter_ns() - started
        if not is_done(name, steps, state):
            raise SystemExit(f"{name} of {steps} came to {state}")
        print(json.dumps({"ns": ns}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
