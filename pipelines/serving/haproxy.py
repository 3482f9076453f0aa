"""Starts HAProxy for Ray Serve: `haproxy.py BINARY PORTS -db -f CONFIG ...`, what Serve calls in the place of HAProxy.

Serve has no setting for three things that are mended here, before this process becomes HAProxy. Its statistics and
metrics would be bound to all interfaces: the ports named are bound to this machine alone. What it answers itself would
be a 500 in plain text: it is a 503 of the application's kind. And the proxy of a manager that was killed would go on
beside the new manager's on the same port, with replicas of the past: it hands over.
Of the standard library alone, and by file, so that it starts in a few milliseconds.
"""

import json
import os
import re
import sys
from pathlib import Path

LOOPBACK = "127.0.0.1"
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


def main(argv: list[str]) -> None:
    """Becomes HAProxy; returns only by an error."""
    binary, ports, *arguments = argv
    config = Path(arguments[arguments.index("-f") + 1])
    config.write_text(unavailable(on_loopback(config.read_text(), [int(port) for port in ports.split(",")])))
    (config.parent / "500.http").write_text(UNAVAILABLE)  # the name of what Serve has it answer
    if "-sf" not in arguments and (left := running(str(config))):
        arguments += ["-sf", *map(str, left)]
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
