"""The Langfuse SDK for Python around the seed's four patterns, for the bench `langfuse`.

The bench starts this with the address of a server that takes every span, and asks for some calls at
a time: a line of standard input is a JSON object,

    {"calls": 100, "traced": true, "fails": false}

and is answered by a line on standard output: how long the calls took on the thread that makes them,
and the processor time of this whole process until the last observation is delivered, in nanoseconds:

    {"ns": 271040000, "cpu_ns": 371200000}

The first line of the output says which versions these are.

A call has five observations, one in the other, as the seed has them: agent, circuit breaker, retry,
timeout, fallback chain. With `fails` both agents of the chain fail at the first attempt, which is
retried at once: seven observations. Without `traced` the same code runs without the SDK. The SDK also
records arguments and results, as it does where nobody says otherwise.
"""

import asyncio
import json
import logging
import platform
import resource
import sys
import time
from importlib.metadata import version

from langfuse import Langfuse, observe

AGENT = "research"
log = logging.getLogger("seed")
# Lines are made and thrown away.
log.addHandler(logging.NullHandler())
log.propagate = False


class Refused(Exception):
    pass


class Exhausted(Exception):
    pass


class Sdk:
    """Observations by the SDK."""

    def __init__(self, langfuse):
        self.langfuse = langfuse
        self.observe = observe

    def note(self, *, name=None, level=None, status_message=None, **metadata):
        self.langfuse.update_current_span(
            name=name, level=level, status_message=status_message, metadata=metadata
        )


class Nothing:
    """No observations."""

    @staticmethod
    def observe(**_):
        return lambda func: func

    @staticmethod
    def note(**_):
        pass


class Model:
    """Fails as often as it is told to, then answers."""

    failures = 0

    async def call(self, request):
        if self.failures:
            self.failures -= 1
            raise Refused("refused")
        return request + 7


def fallback_chain(traces, agents):
    @traces.observe(name="fallback_chain")
    async def call(request):
        history = []
        for index, agent in enumerate(agents):
            kind = "primary" if index == 0 else f"fallback_{index}"
            traces.note(
                agent_index=index,
                agent_type=kind,
                total_agents=len(agents),
                fallback_history=history,
            )
            try:
                answer = await agent(request)
            except Exception as error:
                history.append(
                    {
                        "agent_index": index,
                        "agent_type": kind,
                        "error": str(error),
                        "error_type": type(error).__name__,
                    }
                )
                is_last = index == len(agents) - 1
                traces.note(
                    level="ERROR" if is_last else "WARNING",
                    status_message=f"Agent {index} ({kind}) failed: {error}",
                    error=str(error),
                )
                log.warning("Agent %s failed: %s", index, error)
                continue
            if index > 0:
                traces.note(fallback_succeeded=True, fallback_level=index, primary_failed=True)
            return answer
        traces.note(
            level="ERROR",
            status_message="All fallback agents exhausted",
            fallback_history=history,
        )
        raise Exhausted(f"all agents failed, the last one with: {history[-1]['error']}")

    return call


def timeout(traces, inner, seconds=30):
    @traces.observe(name="timeout_protected_call")
    async def call(request):
        traces.note(timeout_seconds=seconds)
        return await asyncio.wait_for(inner(request), seconds)

    return call


def retry(traces, inner, attempts=3, delay=0.0):
    @traces.observe(name="retry_execution")
    async def call(request):
        history = []
        for attempt in range(1, attempts + 1):
            traces.note(attempt=attempt, max_attempts=attempts, retry_history=history)
            try:
                answer = await inner(request)
            except Exception as error:
                history.append(
                    {"attempt": attempt, "error": str(error), "error_type": type(error).__name__}
                )
                if attempt == attempts:
                    traces.note(
                        level="ERROR",
                        status_message=f"All {attempts} attempts failed",
                        retry_history=history,
                        final_error=str(error),
                    )
                    raise
                traces.note(
                    level="WARNING",
                    status_message=f"Attempt {attempt} failed, retrying in {delay:.2f}s",
                    error=str(error),
                    delay_seconds=delay,
                )
                log.warning("Attempt %s failed: %s", attempt, error)
                await asyncio.sleep(delay)
                continue
            if attempt > 1:
                traces.note(retry_succeeded=True, attempts_needed=attempt)
            return answer

    return call


def circuit_breaker(traces, inner, threshold=5):
    failures = 0

    @traces.observe(name="circuit_breaker_call")
    async def call(request):
        nonlocal failures
        # It stays closed here.
        traces.note(
            agent_id=AGENT, circuit_state="closed", failure_count=failures, success_count=0
        )
        try:
            answer = await inner(request)
        except Exception as error:
            failures += 1
            traces.note(
                level="ERROR",
                status_message=f"Circuit breaker recorded failure: {error}",
                failure_count=failures,
                circuit_state="open" if failures >= threshold else "closed",
            )
            raise
        failures = 0
        return answer

    return call


def agent(traces, model):
    chain = fallback_chain(traces, [model.call, model.call])
    inner = circuit_breaker(traces, retry(traces, timeout(traces, chain)))

    @traces.observe(name="fault_tolerant_agent_invoke", as_type="agent")
    async def call(request):
        traces.note(
            name=f"agent_{AGENT}",
            agent_id=AGENT,
            has_fallbacks=True,
            timeout_seconds=30,
            max_retries=3,
            circuit_breaker_threshold=5,
        )
        answer = await inner(request)
        traces.note(success=True)
        return answer

    return call


def processor_time():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def calls(call, model, number, fails):
    started = time.perf_counter_ns()
    for request in range(number):
        # Both agents of a chain, at the first attempt.
        model.failures = 2 if fails else 0
        if await call(request) != request + 7:
            raise SystemExit("a call came to something else")
    return time.perf_counter_ns() - started


def main(base_url):
    langfuse = Langfuse(public_key="pk-lf-bench", secret_key="sk-lf-bench", base_url=base_url)
    model = Model()
    agents = {True: agent(Sdk(langfuse), model), False: agent(Nothing, model)}
    versions = {"python": platform.python_version(), "langfuse": version("langfuse")}
    print(json.dumps(versions), flush=True)
    loop = asyncio.new_event_loop()
    for line in sys.stdin:
        asked = json.loads(line)
        before = processor_time()
        made = calls(agents[asked["traced"]], model, asked["calls"], asked["fails"])
        ns = loop.run_until_complete(made)
        langfuse.flush()
        cpu_ns = round((processor_time() - before) * 1e9)
        print(json.dumps({"ns": ns, "cpu_ns": cpu_ns}), flush=True)
    loop.close()
    langfuse.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
