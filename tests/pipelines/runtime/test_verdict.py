"""What an error means: an exit code, one line, and whether to try again."""

import errno
import json
from pathlib import Path

import pytest

from models.artifacts.manifest import ArtifactError
from pipelines.runtime.config import ConfigError
from pipelines.runtime.verdict import Verdict, judged
from pipelines.tables.contract import ContractError


@pytest.mark.parametrize("kind", [ConfigError, ContractError, ArtifactError])
def test_what_a_user_can_mend_is_refused(kind: type[Exception]):
    assert judged(kind("a.b: wanted x,\n  got y")) == Verdict(exit_code=2, error="a.b: wanted x, got y")


def test_a_full_disk_fails_in_one_line_and_may_be_tried_again():
    ended = judged(OSError(errno.ENOSPC, "No space left on device", "/store/part.parquet"))
    assert (ended.exit_code, ended.retry, ended.explained) == (1, True, True)
    assert (
        "the disk is full" in ended.error and "/store/part.parquet" in ended.error and "free some space" in ended.error
    )


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EADDRINUSE])
def test_a_place_that_cannot_be_used_is_refused_with_its_remedy(number: int):
    ended = judged(OSError(number, "why", "/place"))
    assert (ended.exit_code, ended.retry, ended.explained) == (2, False, True)
    assert "/place" in ended.error and "; " in ended.error


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("When listing objects under key 'x/' in bucket 'b': AWS Error ACCESS_DENIED during ListObjectsV2", 2),
        ("When testing for existence of bucket 'b': AWS Error NO_SUCH_BUCKET during HeadBucket operation", 2),
        ("When resolving region for bucket 'b': AWS Error NETWORK_CONNECTION during HeadBucket: curlCode: 6", 1),
        ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted: Could not create a OAuth2 access token", 2),
    ],
)
def test_an_object_store_that_refuses_is_told_from_one_that_does_not_answer(message: str, code: int):
    ended = judged(OSError(message))
    assert (ended.exit_code, ended.retry, ended.explained) == (code, code == 1, True)
    assert message in ended.error


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), OSError("a socket closed"), FileNotFoundError(2, "x")]
)
def test_what_nobody_foresaw_fails_and_keeps_its_traceback(error: Exception):
    ended = judged(error)
    assert (ended.exit_code, ended.retry, ended.explained) == (1, True, False)
    assert ended.error.startswith(type(error).__name__)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(15)])
def test_an_interrupted_job_may_be_run_again(error: BaseException):
    assert judged(error) == Verdict(exit_code=130, error="the job was interrupted", retry=True)


def test_the_errors_of_workers_are_found_inside_those_of_ray():
    from ray.exceptions import RayTaskError
    from ray.train import TrainingFailedError

    full = OSError(errno.ENOSPC, "No space left on device", "/w")
    carried = RayTaskError("f", "Traceback:\n  ...\nOSError: [Errno 28] No space left on device", full)
    assert judged(carried).error.startswith("the disk is full: [Errno 28] No space left on device: '/w'")
    refused = ContractError("table users: wanted x")
    dual = RayTaskError("f", "a\nlong trace", refused).as_instanceof_cause()
    assert judged(dual) == Verdict(exit_code=2, error="table users: wanted x")
    lost = RayTaskError(
        "f", "...\npipelines.tables.contract.ContractError: table users: wanted y\n", RuntimeError("udf")
    )
    assert judged(lost) == Verdict(exit_code=2, error="table users: wanted y")
    wrapped = TrainingFailedError("training failed")
    wrapped.__cause__ = dual
    assert judged(wrapped) == Verdict(exit_code=2, error="table users: wanted x")


def test_the_line_for_schedulers_is_one_line_of_json(tmp_path: Path):
    line = Verdict(exit_code=2, error='said "no" in Zürich').as_json("train", 1.23456, None)
    assert "\n" not in line
    assert json.loads(line) == {
        "job": "train", "exit_code": 2, "error": 'said "no" in Zürich', "retry": False, "seconds": 1.235,
        "metrics": None,
    }  # fmt: skip
    assert json.loads(Verdict(exit_code=0).as_json("train", 1, tmp_path / "x.json"))["metrics"] == f"{tmp_path}/x.json"
