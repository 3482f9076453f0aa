"""A server of Redis on a socket of this machine, for tests and benchmarks."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

import redis

MISSING = "redis-server is not installed here; Debian and Ubuntu have it: apt-get install redis-server"


class RedisServer:
    """`redis-server` in a folder, without a port. Stopped by `with`; `kill` and `start` again as often as wanted."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self._options = folder, options
        self.url = f"unix://{folder / 'socket'}"
        self.process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("redis-server") is not None

    def start(self) -> Self:
        """Returns once it answers."""
        # Where it is there, the kernel ends the server with the tests, whatever these die of.
        command = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command += ["redis-server", "--port", "0", "--unixsocket", str(self.folder / "socket"), "--save", ""]
        command += ["--dir", str(self.folder), *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        for _ in range(6_000):  # one that has much on disk reads it first
            try:
                client.ping()
                client.close()
                return self
            except redis.ConnectionError:
                time.sleep(0.02)
        raise RuntimeError(f"redis-server did not start in {self.folder}")

    def kill(self) -> None:
        """As SIGKILL does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
