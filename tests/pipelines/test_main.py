"""The door: how a run ends, told to people, to shells and to schedulers."""

import errno
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import __main__ as door
from pipelines.sources import validate
from pipelines.tables import contract
from pipelines.tables.storage import Storage
from tests.pipelines.tables.test_storage import users


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration of a store with one day of users."""
    Storage.open(str(tmp_path / "store")).write("users", "2026-01-01", [users(1, 2)])
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), "storage": {"root": str(tmp_path / "store")}}))
    return path


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """stderr, and the last line of stdout as a scheduler reads it."""
    out, err = capsys.readouterr()
    return err, json.loads(out.splitlines()[-1])


def raise_(error: BaseException) -> None:
    raise error


def test_a_job_leaves_metrics_the_resolved_config_and_a_verdict(file: Path, capsys: pytest.CaptureFixture[str]):
    assert door.main(["validate", "--config", str(file)]) == 0
    run = file.parent / "run"
    assert json.loads((run / "validate.json").read_text())["validate/rows"] == 2
    assert (run / "config" / "validate.yaml").is_file()
    err, verdict = said(capsys)
    assert verdict.pop("seconds") > 0 and "error" not in err
    assert verdict == {
        "job": "validate", "exit_code": 0, "error": None, "retry": False, "metrics": f"{run}/validate.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "--set", "ingest.source=/nowhere"], "ingest.source /nowhere: wanted a folder"),
        (["ingest", "--set", "ingest.colour=red"], "--set ingest.colour=red: config.ingest: unknown key(s) colour;"),
        (["ingest", "--set", "ingest.day=2026-02-30"], "config.ingest.day: wanted date (YYYY-MM-DD), got '2026-02-30'"),
        (["validate", "--set", "storage.root=hdfs2://x/y"], "storage.root hdfs2://x/y: wanted a folder, file:///"),
        (["validate", "--set", "storage.root=s3://"], "storage.root s3://: wanted a folder or a bucket, got none"),
        (["ingest", "--set", "storage.root=/etc/passwd/x"], "/etc/passwd is none"),
        (["validat"], "no job is named 'validat': did you mean validate?"),
        (["validate", "--settings", "x"], "unrecognized arguments: --settings x"),
    ],
)
def test_what_a_user_caused_is_one_line_and_exit_code_2(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert door.main([*arguments, "--config", str(file)]) == 2
    err, verdict = said(capsys)
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert (verdict["exit_code"], verdict["retry"], verdict["metrics"]) == (2, False, None)
    assert verdict["error"] == err.removeprefix("error: ").strip()


def test_no_config_is_one_line_too(capsys: pytest.CaptureFixture[str]):
    assert door.main(["validate"]) == 2
    err, verdict = said(capsys)
    assert "--config" in err and err.count("\n") == 1 and verdict["exit_code"] == 2


def test_a_full_disk_is_one_line_and_may_be_tried_again(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    full = OSError(errno.ENOSPC, "No space left on device", "/store/x.parquet")
    monkeypatch.setattr(validate, "run", lambda *_: raise_(full))
    assert door.main(["validate", "--config", str(file)]) == 1
    err, verdict = said(capsys)
    assert err.startswith("error: the disk is full") and err.count("\n") == 1
    assert (verdict["exit_code"], verdict["retry"]) == (1, True)


def test_an_error_that_nobody_foresaw_keeps_its_traceback(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(validate, "run", lambda *_: raise_(KeyError("surprise")))
    assert door.main(["validate", "--config", str(file)]) == 1
    err, verdict = said(capsys)
    assert "Traceback (most recent call last)" in err and "in raise_" in err
    assert (verdict["exit_code"], verdict["error"]) == (1, "KeyError: 'surprise'")


def test_an_interrupted_job_says_so(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(validate, "run", lambda *_: raise_(KeyboardInterrupt()))
    assert door.main(["validate", "--config", str(file)]) == 130
    err, verdict = said(capsys)
    assert "Traceback" not in err and (verdict["exit_code"], verdict["retry"]) == (130, True)


def test_a_path_is_taken_as_it_is_typed(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for typed, folder in ((f"{tmp_path}/My Store #1", "My Store #1"), ("~/at: home/", "at: home")):
        Storage.open(str(tmp_path / folder)).write("users", "2026-01-01", [users(1)])
        assert door.main(["validate", "--config", str(file), "--set", f"storage.root={typed}"]) == 0
    assert door.main(["validate", "--config", str(file), "--set", f"storage.root=file://{tmp_path}/store/"]) == 0


class Refusing(http.server.BaseHTTPRequestHandler):
    """An object store that knows nobody."""

    def refuse(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = refuse

    def log_message(self, format: str, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def refusing_store() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"s3://key:secret@bucket/x?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_object_store_that_knows_nobody_is_one_line(
    file: Path, refusing_store: str, capsys: pytest.CaptureFixture[str]
):
    assert door.main(["validate", "--config", str(file), "--set", f"storage.root={refusing_store}"]) == 2
    err, verdict = said(capsys)
    assert "the object store refuses" in err and "credentials" in err and err.count("\n") == 1
    assert "secret" not in err and verdict["exit_code"] == 2


def test_a_submitted_job_refuses_relative_places(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert door.main(["world", "--config", str(file), "--set", "storage.root=runs/store"]) == 2
    assert "storage.root runs/store: wanted an absolute path" in said(capsys)[0]
    assert door.main(["distil", "--config", str(file), "--set", "distil.output=runs/x"]) == 2
    assert "distil.output runs/x: wanted an absolute path" in said(capsys)[0]


def test_the_page_of_jobs_has_each_job_once():
    page = Path("docs/jobs.md").read_text().partition("## What each job reads and leaves")[2]
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(re.findall("`(\\w+)`", " ".join(cells))) == sorted(door.JOBS)


def test_the_page_of_data_names_each_table():
    page = Path("docs/data.md").read_text()
    carried = [contract.newest_of(name) for name in contract.CARRIED]
    named = [name for name in contract.TABLES if name not in carried and not contract.spec(name).oracle]
    assert [name for name in named if f"`{name}`" not in page] == []
