"""How a job ended: its exit code, one line for people, and one line for schedulers.

`ray job submit` turns every failure into exit code 1, so the last line that a job prints says it again, as JSON.
"""

import errno
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.artifacts.manifest import ArtifactError
from pipelines.runtime.config import ConfigError
from pipelines.tables.contract import ContractError
from pipelines.tables.lease import HeldError

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
USER_ERRORS = (ConfigError, ContractError, ArtifactError)
"""What a user can mend by another configuration or input."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {
    errno.EACCES: "give this user the right to it, or name another place",
    errno.EPERM: "give this user the right to it, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOTDIR: "name a folder, or a place below one",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name a folder, or a place below one",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EADDRINUSE: "stop what listens there, or choose another port",
}
"""Errors of the operating system that say something of the configuration, and what to do then."""
_STORE = re.compile(r"AWS Error|google::cloud::Status|Azure")
_STORE_REFUSES = re.compile(
    r"ACCESS_DENIED|PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|MISSING_AUTHENTICATION|"
    r"SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|NO_SUCH_BUCKET|access token|HTTP status code: 40[134]|HTTP status 40[134]"
)
_IN_A_TRACE = re.compile(r"^(?:\w+\.)*(ConfigError|ContractError|ArtifactError|OSError|PermissionError): (.+)$", re.M)
_LONGEST = 1000
"""Characters of an error that nobody foresaw."""
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class JobError(RuntimeError):
    """A job that failed for a reason which it has told in full: its message says more than a traceback."""

    retry = False
    """True where the same command may succeed later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The end of a job."""

    exit_code: int
    """0 done, 1 failed, 2 refused: the configuration or the input cannot be used; 130 interrupted."""
    error: str = ""
    """What went wrong, in one line."""
    retry: bool = False
    """True where the same command may succeed later: nothing in it has to change."""
    explained: bool = True
    """False for an error that nobody foresaw: its traceback says more than its line."""

    def as_json(self, job: str | None, seconds: float, metrics: Path | None) -> str:
        """One line. `metrics` is the file that the job's figures are in."""
        return json.dumps(
            {
                "job": job,
                "exit_code": self.exit_code,
                "error": self.error or None,
                "retry": self.retry,
                "seconds": round(seconds, 3),
                "metrics": str(metrics.resolve()) if metrics else None,
            }
        )


def judged(error: BaseException) -> Verdict:
    """What an error means. Errors that workers raised are looked for inside those of Ray that carry them."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return Verdict(exit_code=INTERRUPTED, error="the job was interrupted", retry=True)
    # The outermost says most; but of Ray's own, which repeat a worker's whole trace, what they carry is taken.
    found = sorted(_inside(error), key=lambda inner: hasattr(inner, "cause"))
    return next(
        (verdict for inner in found if (verdict := _explained(inner)) is not None),
        Verdict(
            exit_code=FAILED, error=_end(_one_line(f"{type(error).__name__}: {error}")), retry=True, explained=False
        ),
    )


def _inside(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it: Ray's own carry the worker's as `cause`, Ray Train's by rank."""
    yield error
    carried = (getattr(error, "cause", None), error.__cause__, *getattr(error, "worker_failures", {}).values())
    for inner in carried:
        if isinstance(inner, BaseException) and inner is not error:
            yield from _inside(inner)


def _explained(error: BaseException) -> Verdict | None:
    trace = getattr(error, "traceback_str", None)
    if isinstance(trace, str):  # Ray keeps the text of a worker's error where its object is lost
        told = _IN_A_TRACE.findall(trace)
        return _by_name(*told[-1]) if told else None
    if isinstance(error, JobError):
        return Verdict(exit_code=FAILED, error=_one_line(str(error)), retry=error.retry)
    if isinstance(error, USER_ERRORS):
        return Verdict(exit_code=REFUSED, error=_one_line(str(error)), retry=isinstance(error, HeldError))
    if isinstance(error, OSError):
        return _of_the_system(error.errno, _one_line(str(error)))
    return None


def _by_name(name: str, message: str) -> Verdict | None:
    if not name.endswith(("OSError", "PermissionError")):
        return Verdict(exit_code=REFUSED, error=_one_line(message))
    number = _ERRNO.search(message)
    return _of_the_system(int(number.group(1)) if number else None, _one_line(message))


def _of_the_system(number: int | None, message: str) -> Verdict | None:
    if number in _FULL:
        message = f"the disk is full: {message}; free some space and run it again, which goes on from what is whole"
        return Verdict(exit_code=FAILED, error=message, retry=True)
    if number in _NOT_ALLOWED:
        return Verdict(exit_code=REFUSED, error=f"{message}; {_NOT_ALLOWED[number]}")
    if not _STORE.search(message):
        return None
    if _STORE_REFUSES.search(message):
        remedy = "check storage.root and this machine's credentials for it (for s3:// AWS_ACCESS_KEY_ID or a role)"
        return Verdict(exit_code=REFUSED, error=f"the object store refuses: {message}; {remedy}")
    return Verdict(exit_code=FAILED, error=f"the object store does not answer: {message}; run it again", retry=True)


def _end(text: str) -> str:
    """Of a long text its end: Ray's errors repeat a worker's whole trace, which ends with the reason."""
    return text if len(text) <= _LONGEST else f"... {text[-_LONGEST:]}"


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
