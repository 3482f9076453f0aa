"""What workers wrote last reaches the driver, bounded, and only where it is asked for."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray


@pytest.fixture
def dying(ray_cluster: None):
    """An actor whose child process writes `lines` lines and a traceback that says `word`, and which then is gone."""
    import os

    import ray

    @ray.remote(num_cpus=0, max_restarts=0)
    class Dying:
        def go(self, word: str, lines: int) -> None:
            code = f"for n in range({lines}): print('ERROR number', n)\nraise OSError({word!r})"
            subprocess.run([sys.executable, "-c", code])
            os._exit(1)

    def die(word: str, lines: int = 0) -> None:
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(Dying.remote().go.remote(word, lines))

    return die


def test_the_traceback_of_a_dead_workers_child_reaches_the_driver(dying):
    from pipelines.runtime import worker_logs

    dying("the engine's own reason")
    said = worker_logs.last_words()
    assert said.startswith("last lines of ") and "Dying" in said.splitlines()[0]
    assert "  | OSError: the engine's own reason" in said.splitlines()


def test_a_long_log_is_shortened_in_its_middle(dying):
    from pipelines.runtime import worker_logs

    dying("said last", lines=300)
    lines = worker_logs.last_words(max_workers=1, max_lines=20).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert "  | ERROR number 0" in lines
    assert any("lines left out" in line for line in lines)
    assert "  | OSError: said last" in lines


def test_workers_without_an_error_are_not_shown(ray_cluster: None):
    import ray

    from pipelines.runtime import worker_logs

    # An environment of its own has a worker of its own: others may have written of an error before.
    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"CALM": "1"}})
    def calm() -> None:
        print("all is well in here")

    ray.get(calm.remote())
    assert "all is well in here" not in worker_logs.last_words(max_workers=100)
