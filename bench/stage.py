"""Private brokers and one system under test on loopback: started, watched, and ended whatever happens.

Knows how each system is started and nothing of what is measured. Brokers are scripts/broker's business.
"""

import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BROKER = ROOT / "scripts/broker"
PEER = ROOT / "bench/node-peer"
BINARIES = pathlib.Path(os.environ.get("HERALD_BENCH_BIN", ROOT / "target/release"))
SYSTEMS = ("herald", "node", "node-corked")
START_SECONDS = 60
STOP_SECONDS = 30
# connections that one process can hold: what it may open, less what it opens for itself
CONNECTIONS_MAX = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500


def die(message):
    sys.exit(f"bench: {message}")


def binary(name):
    path = BINARIES / name
    if not path.exists():
        die(f"{path} is missing: cargo build --release --workspace --bins (or say where by HERALD_BENCH_BIN)")
    return str(path)


def results_folder(name):
    folder = ROOT / "bench/results" / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def free_port(taken=set()):
    """Below the range from which the kernel takes ports for outgoing connections, and given only once."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            if port not in taken and probe.connect_ex(("127.0.0.1", port)) != 0:
                taken.add(port)
                return port


class Stage:
    """`with Stage("herald", edges=2) as stage:` has brokers and the system running, and ends them."""

    def __init__(self, system, edges=2, logs=None, settings=(), worker_arguments=(), queues=()):
        self.system, self.count, self.settings = system, edges, dict(settings)
        self.queues = queues  # those that have an ingest of their own, beside the usual one
        self.worker_arguments = [*worker_arguments, *(["--cork"] if system == "node-corked" else [])]
        self.logs = pathlib.Path(logs) if logs else None
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="herald-bench."))
        self.processes = {}  # name: Popen
        self.brokers = {}  # kind: URL
        self.listens = {}  # service: address
        self.edges, self.admin, self.queue = [], {}, "herald.messages"
        self.ingest = None  # where it takes messages over HTTP

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            if self.logs:
                self.logs.mkdir(parents=True, exist_ok=True)
            for kind in ("redis", "rabbitmq"):
                self.brokers[kind] = self._broker(kind, "start")
            if self.system == "herald":
                self._start_herald()
            elif self.system in SYSTEMS:
                self._start_node()
            elif self.system != "brokers":
                die(f"no system {self.system}: one of {', '.join(SYSTEMS)}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def redis_url(self):
        return self.brokers["redis"]

    @property
    def amqp_url(self):
        return self.brokers["rabbitmq"]

    def pids(self):
        """Every process of the system and its brokers, by a name that tables can show."""
        found = {name: process.pid for name, process in self.processes.items()}
        for kind in self.brokers:
            leader = (self.home / kind / "group.pid").read_text().strip()
            found[kind] = largest_of_group(int(leader))
        return found

    def holders(self):
        """The processes that hold the clients, edges or workers."""
        return [process.pid for name, process in self.processes.items() if name.startswith(("edge", "worker"))]

    def ctl(self, kind, *arguments):
        """redis-cli or rabbitmqctl, aimed at this stage's broker."""
        return self._broker(kind, "ctl", *arguments)

    def check(self):
        """Ends the run when a process of the system is gone."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                die(f"{name} ended with code {process.returncode}; {self._tail(name)}")

    def close(self):
        for process in self.processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for kind in ("rabbitmq", "redis"):
            if (self.home / kind).exists():
                subprocess.run([BROKER, kind, "kill", self.home / kind], check=False)
        if self.logs:
            for log in self.home.glob("*.log"):
                shutil.copy(log, self.logs)
        shutil.rmtree(self.home, ignore_errors=True)

    def _broker(self, kind, action, *arguments):
        environment = {**os.environ, "BROKER_OWNER": str(os.getpid())}
        told = subprocess.run([BROKER, kind, action, self.home / kind, *arguments], env=environment, text=True,
                              stdout=subprocess.PIPE, check=True)
        return told.stdout.strip()

    def _spawn(self, name, command, environment=None, directory=None):
        log = open(self.home / f"{name}.log", "w")
        # a group of its own: Ctrl-C reaches this program alone, which then ends them in order. Not a session: Linux may
        # share processors among sessions (sched_autogroup_enabled), and a broker would get what an idle edge gets
        self.processes[name] = subprocess.Popen(command, env={**os.environ, **(environment or {})}, cwd=directory,
                                                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                process_group=0)

    def _start_herald(self):
        self._serve("registry")
        self._serve("ingest", HERALD_AMQP_URL=self.amqp_url)
        edges = [f"edge-{nth + 1}" for nth in range(self.count)]
        for name in edges:
            self._serve(name)
        self._wait_ready()
        self.edges, self.ingest = [self.listens[name] for name in edges], self.listens["ingest"]
        for queue in self.queues:
            # after the first: RabbitMQ fails when two connections create one quorum queue at the same time
            self._serve(f"ingest-{queue}", HERALD_AMQP_URL=self.amqp_url, HERALD_QUEUE=queue)
        self._wait_ready()

    def _serve(self, name, **environment):
        """A service of Herald; the registry, which all others are told of, has to be the first."""
        self.listens[name], self.admin[name] = f"127.0.0.1:{free_port()}", free_port()
        environment |= {"HERALD_REDIS_URL": self.redis_url, "HERALD_LOG": "warn", "HERALD_LISTEN": self.listens[name],
                        "HERALD_ADMIN_LISTEN": f"127.0.0.1:{self.admin[name]}"}
        if name != "registry":
            environment["HERALD_REGISTRY_URL"] = f"http://{self.listens['registry']}"
        self._spawn(name, [binary(f"herald-{name.split('-')[0]}")], {**environment, **self.settings})

    def _wait_ready(self):
        for name, port in self.admin.items():
            self._wait(name, lambda: answers_ready(port))

    def _start_node(self):
        if not (PEER / "node_modules").exists():
            die(f"install the peer first: npm ci --ignore-scripts --prefix {PEER.relative_to(ROOT)}")
        ports = {f"worker-{nth + 1}": free_port() for nth in range(self.count)}
        self.edges = [f"127.0.0.1:{port}" for port in ports.values()]
        for name, port in ports.items():
            self._spawn(name, ["node", "worker.mjs", "--port", str(port), "--redis", self.redis_url,
                               "--amqp", self.amqp_url, *self.worker_arguments], self.settings, PEER)
            # one after another: RabbitMQ fails when two connections create one quorum queue at the same time
            self._wait(name, lambda: "ready" in (self.home / f"{name}.log").read_text())

    def _wait(self, name, is_ready):
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            self.check()
            if time.monotonic() > deadline:
                die(f"{name} is not ready after {START_SECONDS} s; {self._tail(name)}")
            time.sleep(0.05)

    def _tail(self, name):
        return f"the end of its output:\n{(self.home / f'{name}.log').read_text()[-2000:]}"


def answers_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:  # nobody listens yet, or it says that it is not ready
        return False


def largest_of_group(group):
    """RabbitMQ is a shell, its Erlang machine and their children: the machine is what counts."""
    largest, size = group, 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
            fields = text[text.rindex(")") + 2:].split()
            if int(fields[2]) == group and int(fields[21]) > size:
                largest, size = int(stat.parent.name), int(fields[21])
        except (OSError, ValueError):
            continue  # it ended meanwhile
    return largest


def rss_mib(pid):
    try:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = text[text.rindex(")") + 2:].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def available_mib():
    """What this machine could still give to processes."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 1024
