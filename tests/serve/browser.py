"""A headless Chromium that opens pages and answers what scripts in them say."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_WAIT_S = 30.0


def found() -> str | None:
    """The browser of this machine, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page, as wide as is asked, driven by the browser's own protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._turn = socket, 0
        self.complaints: list[str] = []
        """What the console was told as an error, but for answers that are errors."""

    async def call(self, method: str, **given: Any) -> Any:
        """The result of a command of the protocol."""
        self._turn += 1
        await self._socket.send_json({"id": self._turn, "method": method, "params": given})
        while True:
            message = await self._socket.receive_json(timeout=_WAIT_S)
            self._note(message)
            if message.get("id") == self._turn:
                return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        entry = message.get("params", {}).get("entry", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
        if message.get("method") == "Log.entryAdded" and entry["level"] == "error" and entry["source"] != "network":
            self.complaints.append(entry["text"])

    async def open(self, url: str, width: int = 1100, height: int = 900) -> None:
        """Goes to a page."""
        for domain in ("Runtime", "Log", "Page"):
            await self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        await self.call("Page.navigate", url=url)

    async def says(self, script: str) -> Any:
        """What a script in the page gives."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, script: str) -> Any:
        """What a script gives as soon as that is true of it. Raises TimeoutError with the page's text."""
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            if value := await self.says(script):
                return value
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{script} did not come true; the page says: {await self.says('document.body.innerText')}")

    async def press(self, key: str) -> None:
        """A key of the keyboard, such as Tab or Enter."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def picture(self, path: Path) -> None:
        """The whole page, as a PNG."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def _started(folder: Path) -> Iterator[int]:
    program = found()
    assert program is not None
    options = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        "--no-first-run",
        "--disable-dev-shm-usage",
    )
    command = [program, *options, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        file, deadline = folder / "DevToolsActivePort", time.monotonic() + _WAIT_S
        while not file.is_file() or len(file.read_text().splitlines()) < 2:
            assert process.poll() is None and time.monotonic() < deadline, "the browser did not start"
            time.sleep(0.05)
        yield int(file.read_text().splitlines()[0])
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def tab(folder: Path) -> AsyncIterator[Tab]:
    """A tab of a browser of its own, whose files are in `folder`."""
    with _started(folder) as port:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [page for page in await answer.json() if page["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Tab(socket)
