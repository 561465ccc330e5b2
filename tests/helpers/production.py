"""Prefect as its docs have it scaled: PostgreSQL, Redis, API replicas behind a balancer, services apart.

https://docs.prefect.io/v3/advanced/self-hosted says what each setting is for.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

from balancer import Balancer
from deployed import Deployed
from postgres import Postgres, Redis
from prefect_server_process import end_process

from prefect_nanobanana.sandbox.s3 import free_port

REPLICAS = 2


class Production(Deployed):
    """Use it as a context manager. Its `url` is the balancer's.

    Args:
        home: Where logs are kept.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.postgres, self.redis = Postgres(), Redis()
        self._ports = [free_port() for _ in range(REPLICAS)]
        self._balancer = Balancer(self._ports)
        self._replicas: dict[int, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()
        self.port = self._balancer.port
        self.url = f"http://127.0.0.1:{self.port}"
        self.env |= {
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_UI_API_URL": f"{self.url}/api",
            "PREFECT_API_DATABASE_CONNECTION_URL": self.postgres.url,
            "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
            "PREFECT_REDIS_MESSAGING_URL": f"{self.redis.url}/0",
            "PREFECT_SERVER_DOCKET_URL": f"{self.redis.url}/1",
        }

    def start(self) -> None:
        """Start all of it, on an empty database."""
        with ExitStack() as stack:
            for part in (self.postgres, self.redis, self._balancer):
                stack.enter_context(part)
            self.prefect("server", "database", "upgrade", "-y")
            for n in range(REPLICAS):
                stack.callback(self._stop_replica, n)
                self.start_replica(n, wait=False)
            services = self.spawn("server", "services", "start")
            stack.callback(end_process, services)
            for n in range(REPLICAS):
                self._wait_for_replica(n)
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """End all of it."""
        self._stack.close()

    def start_replica(self, n: int, *, wait: bool = True) -> None:
        """Start an API replica, anew if need be."""
        address = ("--host", "127.0.0.1", "--port", str(self._ports[n]))
        self._replicas[n] = self.spawn("server", "start", *address, "--no-services")
        if wait:
            self._wait_for_replica(n)

    def kill_replica(self, n: int) -> None:
        """Kill an API replica."""
        os.killpg(self._replicas[n].pid, signal.SIGKILL)
        self._replicas[n].wait(10)

    def _stop_replica(self, n: int) -> None:
        if n in self._replicas:
            end_process(self._replicas[n])

    def _wait_for_replica(self, n: int) -> None:
        self.wait_for_health(self._replicas[n], f"http://127.0.0.1:{self._ports[n]}")
