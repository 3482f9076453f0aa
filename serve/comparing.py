"""Makes that by which the authors of a bank are compared, while the bank itself is in use already."""

from __future__ import annotations

import logging
import threading

from serve.likeness import Likeness
from serve.prepare import Preparation, PreparationError

log = logging.getLogger(__name__)
_ATTEMPTS, _WAIT_S = 3, 30.0


class Comparing:
    """A likeness that a thread waits for: a helper of low priority needs a minute for millions of authors.

    One that fails is told in the log, and in `failure`; after three attempts it waits for the next full bank.
    """

    def __init__(self, preparation: Preparation, wait_s: float = _WAIT_S) -> None:
        """Args: `preparation` of a likeness; `wait_s` seconds between two attempts."""
        self._preparation, self._wait_s = preparation, wait_s
        self._likeness: Likeness | None = None
        self.failure: str | None = None
        """Why there is none, where an attempt has failed."""
        self.thread = threading.Thread(target=self._run, name="comparing", daemon=True)
        self.thread.start()

    def __call__(self) -> Likeness | None:
        """The likeness, once it is there."""
        return self._likeness

    def _run(self) -> None:
        for attempt in range(_ATTEMPTS):
            if attempt:
                threading.Event().wait(self._wait_s)
            try:
                self._likeness, self.failure = self._preparation.load_likeness(), None
                return
            except PreparationError as error:
                self.failure = str(error)
                log.error("bank %s cannot compare its authors yet: %s", self._preparation.version, error)
            except Exception as error:  # noqa: BLE001 - told, and ranking and all else goes on
                self.failure = f"{type(error).__name__}: {error}"
                log.error("bank %s cannot compare its authors: %s", self._preparation.version, self.failure)
                return
