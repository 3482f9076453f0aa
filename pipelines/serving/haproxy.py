"""Starts HAProxy for Ray Serve: `haproxy.py BINARY PORTS -db -f CONFIG ...`, what Serve calls in the place of HAProxy.

Serve has no setting for some things that are mended here, before this process becomes HAProxy:

- Its statistics and metrics would be bound to all interfaces: the ports named are bound to this machine alone.
- What it answers itself would be a 500 or a 404 in plain text: it is a 503 of the application's kind.
- Serve needs seconds to replace one that was killed. A second HAProxy, the twin, listens on the same port with the same
  replicas: the kernel spreads connections over both, and where one is gone the other takes all. A new one listens when
  it knows a replica, and not before.

Of the standard library alone, and by file, so that it starts in a few milliseconds.
"""

import json
import os
import re
import sys
from pathlib import Path

LOOPBACK = "127.0.0.1"
TWIN = "twin.cfg"
_NO_SHARING = "-dR"  # of the port: with the twin it is meant
_BODY = json.dumps({"detail": "no replica answers now; ask again in a second"})
UNAVAILABLE = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    f"Content-Length: {len(_BODY)}\r\n\r\n{_BODY}"
)
"""What is answered where no replica does."""


def on_loopback(config: str, ports: list[int]) -> str:
    """HAProxy's configuration, in which these ports are bound to this machine alone."""
    bound = "|".join(map(str, ports))
    return re.sub(rf"^(\s*bind )\*?:({bound})\b", rf"\g<1>{LOOPBACK}:\g<2>", config, flags=re.MULTILINE)


def unavailable(config: str) -> str:
    """HAProxy's configuration, in which requests that no application takes are answered as those no replica does."""
    body = _BODY.replace('"', r"\"")
    answer = f'return status 503 content-type application/json hdr retry-after 1 string "{body}"'
    return re.sub(r"return status 404 content-type text/plain .*", lambda _: answer, config)


def of_twin(config: str) -> str:
    """The configuration without what there can be once: the socket for Serve's commands, statistics and metrics."""
    once = r"^frontend prometheus\n(?:[ \t].*\n)*|^listen stats\n(?:[ \t].*\n?)*|^[ \t]*stats socket .*\n"
    return re.sub(once, "", config, flags=re.MULTILINE)


def running(path: str) -> list[int]:
    """Process ids of those that were started with this path among their arguments, this one left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        if path.encode() in arguments and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def without_door(config: str) -> str:
    """The configuration that listens for no requests."""
    return re.sub(r"^(frontend http_frontend\n)[ \t]*bind .*\n", r"\1", config, flags=re.MULTILINE)


def main(argv: list[str]) -> None:
    """Becomes HAProxy, and starts its twin; returns only by an error."""
    binary, ports, *arguments = (each for each in argv if each != _NO_SHARING)
    config = Path(arguments[arguments.index("-f") + 1])
    text = unavailable(on_loopback(config.read_text(), [int(port) for port in ports.split(",")]))
    knows_replicas = re.search(r"^[ \t]+server ", text, flags=re.MULTILINE) is not None
    config.write_text(text if knows_replicas else without_door(text))
    (config.parent / "500.http").write_text(UNAVAILABLE)  # the name of what Serve has it answer
    if knows_replicas and os.fork() == 0:
        _become_twin(binary, config.with_name(TWIN), of_twin(text))
    os.execv(binary, [binary, *arguments])


def _become_twin(binary: str, path: Path, config: str) -> None:
    """In the place of the twin before, which finishes what it has."""
    os.setsid()  # Ray ends the process group of a manager that was killed
    path.write_text(config)
    left = running(str(path))
    os.execv(binary, [binary, "-db", "-f", str(path), *(["-sf", *map(str, left)] if left else [])])


if __name__ == "__main__":
    main(sys.argv[1:])
