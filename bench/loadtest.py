"""How the load tool is called and what its results are called: the only file here that knows either.

A search is done here by runs at constant rates, so that each system is judged by the same rule whatever it is told of
itself: p99 from the schedule under the objective, and everything due delivered.
"""

import contextlib
import json
import math
import re
import subprocess
import sys
import time

from probes import QueueDepth
from stage import CONNECTIONS_MAX, binary

OBJECTIVE_MS = 1000
# of what is due: a reliable message may not be missing, a volatile one in a thousand may
MISSING_MAX = {True: 0.0, False: 0.001}
DATA_BYTES = 200
PROBE_SECONDS, WARM_UP_SECONDS, DRAIN_SECONDS = 10, 3, 20
FIRST_RATE = {"group": 100, "client": 2000}  # messages/s, which everything sustains
PRECISION = 1.06  # a search ends when the best and the worst of it are this close
EMPTY_SECONDS = 60
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
CONNECT_RATE = 20_000  # more than anybody reaches: how fast clients connect is the system's doing
CONNECT_PATIENCE_SECONDS, CONNECT_RATE_MIN = 180, 500  # so long, and longer the more clients there are


def run(stage, arguments, result, heed=None, before=()):
    """Runs it with these arguments, and returns what it wrote as JSON. What it says goes to the terminal, and each line
    to `heed`, if given, which is how to look at something at the moment at which it is said. `before` comes before the
    command."""
    command = [*before, *tool(stage), *publishing(stage), "--json", str(result), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            if heed:
                heed(line)
    stage.check()
    if result.exists():
        return json.loads(result.read_text())
    if process.returncode != 0:
        sys.exit(f"bench: the load tool ended with code {process.returncode} and without a result: {' '.join(command)}")
    return None  # of clients that were idle


class Meter:
    """To be heeded by: calls `read` when all clients are registered, and when all that was due has come: connecting is
    left out, and so is what the end of the connections costs."""

    def __init__(self, read):
        self.read, self.first, self.last = read, None, None

    def __call__(self, line):
        if registered(line):
            self.first = self.read()
        elif line.rstrip().endswith(" offered"):  # a stream's first line in the report
            self.last = self.last or self.read()


def registered(line):
    """Clients and seconds of the line that says that all are."""
    found = re.search(r"(\d+) registered in ([\d.]+) s", line)
    return found and (int(found[1]), float(found[2]))


@contextlib.contextmanager
def beside(stage, arguments, before=(), look=lambda: None):
    """`with beside(…) as found:` has it running with its clients registered, and ends it then. `look` is called while
    they connect; `before` comes before the command."""
    log = stage.home / "loadtest-beside.log"
    with open(log, "w") as output:
        process = subprocess.Popen([*before, *tool(stage), *map(str, arguments)], stdout=output, stderr=output)
    try:
        while not (found := registered(log.read_text())):
            if process.poll() is not None:
                sys.exit(f"bench: the load tool ended before its clients were registered:\n{log.read_text()[-2000:]}")
            look()
            time.sleep(0.05)
        print(f"bench: {found[0]:,} registered in {found[1]:.1f} s", file=sys.stderr, flush=True)
        yield {"connects_per_s": found[0] / found[1], "pid": process.pid}
        if process.poll() is not None:
            sys.exit(f"bench: the load tool ended too soon:\n{log.read_text()[-2000:]}")
    finally:
        process.terminate()
        process.wait()


def idle(stage, scenario, look=lambda: None):
    """Clients that are connected and do nothing, as `beside` has them."""
    return beside(stage, [*cast(scenario), "--workload", "idle", "--duration-ms", DAY_MS], look=look)


def tool(stage):
    return [binary("herald-loadtest"), *(word for edge in stage.edges for word in ("--edge", edge))]


def publishing(stage):
    return ["--amqp-url", stage.amqp_url, "--queue", stage.queue]


def scraping(stage):
    """What has it tell of the stages of a message's way, where it can: by the services' histograms."""
    told = subprocess.run([binary("herald-loadtest"), "--help"], check=True, text=True, stdout=subprocess.PIPE)
    admin = stage.admin.values() if "--scrape" in told.stdout else ()
    return [word for port in admin for word in ("--scrape", f"127.0.0.1:{port}")]


def stages(told):
    """The percentiles of each stage by its name, in the order of a message's way; none if it was not asked."""
    return {stage["name"]: stage for stage in told["report"].get("stages", ())}


def cast(scenario):
    clients = scenario["clients"]
    processes = math.ceil(clients / CONNECTIONS_MAX) if clients > CONNECTIONS_MAX else 0
    patience = int(1000 * (CONNECT_PATIENCE_SECONDS + clients / CONNECT_RATE_MIN))
    return ["--clients", clients, "--group-size", scenario.get("group_size", 100),
            "--connect-rate", scenario.get("connect_rate", CONNECT_RATE),
            "--connect-patience-ms", min(patience, HOUR_MS), "--data-bytes", DATA_BYTES, "--processes", processes]


def messages(scenario, rates):
    """`rates`: messages/s by class."""
    total = sum(rates.values())
    return ["--workload", {"group": "group", "client": "unicast"}[scenario["audience"]], "--rate", f"{total:.3f}",
            "--reliable", f"{rates.get('reliable', 0) / total:.6f}"]


def times(seconds, drain=DRAIN_SECONDS):
    return ["--warm-up-ms", WARM_UP_SECONDS * 1000, "--duration-ms", seconds * 1000, "--drain-ms", drain * 1000]


def constant(stage, scenario, rate, seconds, result, heed=None, more=()):
    kind = "reliable" if scenario.get("reliable") else "volatile"
    told = run(stage, [*cast(scenario), *messages(scenario, {kind: rate}), *times(seconds), *more], result, heed)
    report = told["report"]
    account, latency = report["account"], report["latency"]
    return {"delivered": account["delivered"], "delivered_per_s": report["delivered_per_second"],
            "messages_per_s": rate, "connects_per_s": told["connected"]["clients"] / told["connected"]["seconds"],
            **{f"{name}_ms": latency[name] for name in ("p50", "p99", "p999", "max")},
            "lost": account["lost"], "due": account["due"], "out_of_order": account["out_of_order"],
            "kept_up": report["sender"]["kept_up"], "stages": stages(told)}


def search(stage, scenario, result):
    """The highest rate that is sustained: doubled until it is not, then closed in on."""
    best, rate, limit = None, FIRST_RATE[scenario["audience"]], None
    while True:
        found = constant(stage, scenario, rate, PROBE_SECONDS, result.with_name(f"probe-{rate:.0f}.json"))
        is_sustained = (found["p99_ms"] < OBJECTIVE_MS and found["kept_up"]
                        and found["lost"] <= MISSING_MAX[bool(scenario.get("reliable"))] * found["due"])
        print(f"bench: {rate:,.0f} messages/s: {found['delivered_per_s']:,.0f} delivered/s, "
              f"p99 {found['p99_ms']:.0f} ms, {'sustained' if is_sustained else 'not sustained'}",
              file=sys.stderr, flush=True)
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


def mixed(stage, scenario, rates, seconds, result, more=()):
    """Several classes at once, whatever comes of it; `seconds` are those of the load, and for draining."""
    told = run(stage, [*cast(scenario), *messages(scenario, rates), *times(*seconds), *more], result)
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
