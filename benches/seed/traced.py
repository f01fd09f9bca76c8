"""What a traced call costs with the Langfuse SDK for Python, beside `overhead`'s group traced.

Five observations for each call, one in the other, with the metadata that our layers write: agent,
retry, attempt, breaker, timeout. They go to the server that `overhead` sends its spans to, in a
process of its own, and the processor time is that of this process until the last one is delivered.

    python3 -m venv venv && venv/bin/pip install langfuse==5.0.4
    cargo build --release -p buttress-benches --bin overhead
    venv/bin/python benches/seed/traced.py target/release/overhead [CALLS]

The SDK also records arguments and results, as it does where nobody says otherwise; with
LANGFUSE_OBSERVE_DECORATOR_IO_CAPTURE_ENABLED=false it does not, as ours never does.
"""

import asyncio
import statistics
import subprocess
import sys
import time

from langfuse import Langfuse, get_client, observe

# So few that the queue of the SDK, which drops what does not fit, never is full.
BATCH = 200


async def model(request):
    return request + 7


def note(**metadata):
    get_client().update_current_span(metadata=metadata)


class Timeout:
    @observe(name="timeout_protected_call")
    async def call(self, func, *args):
        note(agent_id="research", timeout_seconds=30)
        answer = await asyncio.wait_for(func(*args), 30)
        note(timed_out=False)
        return answer


class Breaker:
    @observe(name="circuit_breaker_call")
    async def call(self, func, *args):
        note(agent_id="model", circuit_state="closed", failure_count=0, success_count=0)
        return await func(*args)


class Retry:
    @observe(name="retry_execution")
    async def call(self, func, *args):
        answer = await self.attempt(1, func, *args)
        note(attempts_needed=1, stop="success")
        return answer

    @observe(name="retry_attempt")
    async def attempt(self, number, func, *args):
        note(attempt=number)
        return await func(*args)


class Agent:
    retry, breaker, timeout = Retry(), Breaker(), Timeout()

    @observe(name="agent_research", as_type="agent")
    async def call(self, request):
        note(agent_id="research")
        return await self.retry.call(self.breaker.call, self.timeout.call, model, request)


async def measure(call, calls):
    """Returns the median time of a call in microseconds, on the thread that makes it."""
    times = []
    for number in range(calls):
        start = time.perf_counter()
        await call(number)
        times.append(time.perf_counter() - start)
        if number % BATCH == BATCH - 1:
            get_client().flush()
    return statistics.median(times) * 1e6


def run(calls, url):
    langfuse = Langfuse(public_key="pk-lf-bench", secret_key="sk-lf-bench", base_url=url)
    asyncio.run(measure(Agent().call, 200))
    langfuse.flush()
    before = time.process_time()
    median = asyncio.run(measure(Agent().call, calls))
    langfuse.flush()
    used = (time.process_time() - before) / calls * 1e6
    langfuse.shutdown()
    print(f"five observations, SDK for Python: {median:.0f} us p50 of a call, {used:.0f} us CPU")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    calls = int(sys.argv[2]) if len(sys.argv) == 3 else 2_000
    server = [sys.argv[1], "--take-every-span"]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sink:
        # Ends when its input is closed.
        run(calls, sink.stdout.readline().strip())
        sink.stdin.close()


if __name__ == "__main__":
    main()
