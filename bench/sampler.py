"""Looks at every process and every queue once a second while a load runs. Knows how to ask, not what is good."""

import csv
import threading
import time

from probes import QueueDepth, Redis, metrics
from stage import rss_mib

INGEST = {"window": "herald_ingest_window_messages", "in_flight": "herald_ingest_in_flight_messages",
          "lateness_s": "herald_ingest_pressure_lateness_seconds", "shed": "herald_ingest_shed_total"}
EVERY_SECONDS = 1.0


class Sampler:
    """`with Sampler(stage) as sampler:` collects `sampler.rows`, one dictionary a second."""

    def __init__(self, stage):
        self.stage, self.rows, self.failure = stage, [], None
        self.pids = stage.pids()
        self.depth = QueueDepth(stage.amqp_url, stage.queue)
        self.more_depths = [QueueDepth(stage.amqp_url, queue) for queue in stage.queues]
        self.redis = Redis(stage.redis_url)
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._loop, name="sampler")

    def __enter__(self):
        self.start = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        if self.failure:
            print(f"bench: sampling ended early: {self.failure}")

    def save(self, path):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]) if self.rows else ["seconds"])
            writer.writeheader()
            writer.writerows(self.rows)

    def column(self, name):
        """As points for a plot."""
        return [(row["seconds"], row[name]) for row in self.rows if row.get(name) is not None]

    def settled(self, name, after_seconds):
        """First and greatest value after a time: whether something grew."""
        values = [value for seconds, value in self.column(name) if seconds >= after_seconds]
        return (values[0], max(values)) if values else (None, None)

    def backlog_gone(self):
        """When nothing was left in the queue for the first time after there had been something, and for good."""
        waiting = [seconds for seconds, depth in self.column("queue_messages") if depth > 0]
        return waiting[-1] + EVERY_SECONDS if waiting else 0.0

    def _loop(self):
        try:
            while not self.done.wait(max(0.0, self.start + len(self.rows) * EVERY_SECONDS - time.monotonic())):
                self.rows.append(self._row())
        except (OSError, ConnectionError) as error:
            self.failure = error

    def _row(self):
        total, largest = self.redis.buffers()
        row = {"seconds": round(time.monotonic() - self.start, 2), "queue_messages": self.depth.ask(),
               "redis_buffers_mib": total / 2**20, "redis_buffer_max_mib": largest / 2**20}
        if self.more_depths:
            row["volatile_queue_messages"] = sum(depth.ask() for depth in self.more_depths)
        row |= {f"rss_{name}_mib": round(rss_mib(pid), 1) for name, pid in self.pids.items()}
        if "ingest" in self.stage.admin:
            told = metrics(self.stage.admin["ingest"])
            row |= {name: told.get(metric) for name, metric in INGEST.items()}
        edges = [metrics(admin) for name, admin in self.stage.admin.items() if name.startswith("edge")]
        if edges:
            row["delivered"] = sum(told.get("herald_edge_delivered_total", 0) for told in edges)
        return row
