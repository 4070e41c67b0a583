"""How the load tool is called and what its results are called: the only file here that knows either.

A search is done here by runs at constant rates, so that each system is judged by the same rule whatever it is told of
itself: p99 from the schedule under the objective, and everything due delivered.
"""

import json
import re
import subprocess
import sys
import time

from probes import QueueDepth
from stage import binary

OBJECTIVE_MS = 1000
# of what is due: a reliable message may not be missing, a volatile one in a thousand may
MISSING_MAX = {True: 0.0, False: 0.001}
DATA_BYTES = 200
PROBE_SECONDS, WARM_UP_SECONDS, DRAIN_SECONDS = 10, 3, 20
FIRST_RATE = {"group": 100, "client": 2000}  # messages/s, which everything sustains
PRECISION = 1.06  # a search ends when the best and the worst of it are this close
EMPTY_SECONDS = 60
CONNECT_RATE = 20_000  # more than anybody reaches: how fast clients connect is the system's doing
CONNECT_PATIENCE_MS = 180_000


def run(stage, arguments, result):
    """Runs it with these arguments, and returns what it wrote as JSON. Its summary goes to the terminal."""
    command = [*tool(stage), "--amqp-url", stage.amqp_url, "--queue", stage.queue, "--json", str(result),
               *map(str, arguments)]
    status = subprocess.run(command, stdout=sys.stderr).returncode
    stage.check()
    if not result.exists():
        sys.exit(f"bench: the load tool ended with code {status} and without a result: {' '.join(command)}")
    return json.loads(result.read_text())


def tool(stage):
    return [binary("herald-loadtest"), *(word for edge in stage.edges for word in ("--edge", edge))]


def cast(scenario):
    return ["--clients", scenario["clients"], "--group-size", scenario.get("group_size", 100), "--connect-rate", CONNECT_RATE,
            "--connect-patience-ms", CONNECT_PATIENCE_MS, "--data-bytes", DATA_BYTES]


def messages(scenario, rates):
    """`rates`: messages/s by class."""
    total = sum(rates.values())
    return ["--workload", {"group": "group", "client": "unicast"}[scenario["audience"]], "--rate", f"{total:.3f}",
            "--reliable", f"{rates.get('reliable', 0) / total:.6f}"]


def times(seconds, drain=DRAIN_SECONDS):
    return ["--warm-up-ms", WARM_UP_SECONDS * 1000, "--duration-ms", seconds * 1000, "--drain-ms", drain * 1000]


def idle(stage, scenario, seconds, midway):
    """Connects and does nothing; calls `midway` in the middle of the time, when all are connected."""
    command = [*tool(stage), *map(str, cast(scenario)), "--workload", "idle", "--duration-ms", str(seconds * 1000)]
    with subprocess.Popen(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            registered = re.search(r"(\d+) registered in ([\d.]+) s", line)
            if registered:
                time.sleep(seconds / 2)
                midway()
                process.stderr.read()
                break
        else:
            sys.exit("bench: the load tool ended before its clients were registered")
    return {"connects_per_s": int(registered[1]) / float(registered[2])}


def constant(stage, scenario, rate, seconds, result):
    kind = "reliable" if scenario.get("reliable") else "volatile"
    told = run(stage, [*cast(scenario), *messages(scenario, {kind: rate}), *times(seconds)], result)
    report = told["report"]
    account = report["account"]
    return {"delivered": account["delivered"], "delivered_per_s": report["delivered_per_second"],
            "messages_per_s": rate, "p50_ms": report["latency"]["p50"], "p99_ms": report["latency"]["p99"],
            "lost": account["lost"], "due": account["due"], "out_of_order": account["out_of_order"],
            "kept_up": report["sender"]["kept_up"]}


def search(stage, scenario, result):
    """The highest rate that is sustained: doubled until it is not, then closed in on."""
    best, rate, limit = None, FIRST_RATE[scenario["audience"]], None
    while True:
        found = constant(stage, scenario, rate, PROBE_SECONDS, result.with_name(f"probe-{rate:.0f}.json"))
        is_sustained = (found["p99_ms"] < OBJECTIVE_MS and found["kept_up"]
                        and found["lost"] <= MISSING_MAX[bool(scenario.get("reliable"))] * found["due"])
        print(f"bench: {rate:,.0f} messages/s: {found['delivered_per_s']:,.0f} delivered/s, "
              f"p99 {found['p99_ms']:.0f} ms, {'sustained' if is_sustained else 'not sustained'}", file=sys.stderr, flush=True)
        if not found["kept_up"]:
            print("bench: the load tool itself could not keep up", file=sys.stderr, flush=True)
        best, limit = (found, limit) if is_sustained else (best, rate)
        empty(stage)
        low = best["messages_per_s"] if best else rate / 4
        if limit is not None and best and limit / low < PRECISION:
            break
        rate = low * 2 if limit is None else (low * limit) ** 0.5
        if rate < 1:
            sys.exit("bench: nothing is sustained, not even a message a second")
    result.write_text(json.dumps(best, indent=1))
    return {name: best[name] for name in ("delivered_per_s", "messages_per_s")}


def mixed(stage, scenario, rates, options, result):
    """Several classes at once, whatever comes of it; `options` are seconds, seconds for draining, part stalled."""
    seconds, drain, stalled = options
    more = ["--stalled", stalled] if stalled else []
    told = run(stage, [*cast(scenario), *messages(scenario, rates), *times(seconds, drain), *more], result)
    report = told["report"]
    classes = [{"class": "reliable" if stream["reliable"] else "volatile", "offered": stream["offered"],
                "due": stream["account"]["due"], "delivered": stream["account"]["delivered"],
                "delivered_per_s": stream["delivered_per_second"],
                "lost": stream["account"]["lost"] if stream["reliable"] else 0,
                "dropped": 0 if stream["reliable"] else stream["account"]["lost"],
                "out_of_order": stream["account"]["out_of_order"],
                "p50_ms": stream["latency"]["p50"], "p99_ms": stream["latency"]["p99"]}
               for stream in report["streams"]]
    return {"classes": classes, "disconnected": report["events"]["disconnected"],
            "connecting_s": told["connected"]["seconds"] + WARM_UP_SECONDS}


def empty(stage):
    """Until the queue is empty, by itself or by force: one probe's backlog is not the next one's."""
    depth = QueueDepth(stage.amqp_url, stage.queue)
    deadline = time.monotonic() + EMPTY_SECONDS
    while depth.ask() > 0:
        if time.monotonic() > deadline:
            stage.ctl("rabbitmq", "purge_queue", stage.queue)
        time.sleep(0.2)
