"""A trial's key: another one as soon as anything changes that its numbers depend on, and the same one otherwise."""

from dataclasses import replace

import pytest

from pipelines.ranking.evaluate import EvaluateConfig
from pipelines.settings import Settings
from pipelines.studies.config import Variant
from pipelines.studies.trials import plan_trial
from pipelines.tables.storage import Storage
from tests.pipelines.conftest import tiny_train

BASE, SARM = Variant(label="Base", train=tiny_train(())), Variant(label="SARM", train=tiny_train())
TRAINED, SCORED = "2026-01-02", "2026-01-03"
"""The last day that is trained on, and the day that is scored."""


def key(settings: Settings, variant: Variant = SARM, code: str = "code") -> str:
    return plan_trial(settings, variant, code).key


def test_equal_trials_have_equal_keys_whatever_they_are_called(tiny: Settings) -> None:
    assert key(tiny) == key(tiny, replace(SARM, label="another name")) == key(replace(tiny, run_dir="elsewhere"))


def test_code_settings_and_seed_are_in_the_key(tiny: Settings) -> None:
    keys = [key(tiny), key(tiny, BASE), key(tiny, code="other")]
    keys += [key(tiny, Variant(train=train)) for train in (tiny_train(width=16), replace(tiny_train(), lr_dense=0.5))]
    keys += [key(replace(tiny, seed=tiny.seed + 1))]
    keys += [key(replace(tiny, evaluate=EvaluateConfig(exposure_bounds=(3,))))]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("table", "day", "of_base"),
    [
        ("examples", TRAINED, True),
        ("examples", SCORED, True),
        ("oracle_impressions", SCORED, True),
        ("oracle_impressions", TRAINED, None),
        ("anchors", "2026-01-01", False),
        ("anchors", TRAINED, False),  # training stops before it reads them, scoring does not
        ("anchors", SCORED, None),
    ],
)
def test_the_data_that_a_trial_reads_are_in_its_key(tiny: Settings, table: str, day: str, of_base: bool | None) -> None:
    """`of_base`: does Base read them too? None: no variant does."""
    before = [key(tiny), key(tiny, BASE)]
    storage = Storage.open(tiny.storage.root, oracle=True)
    storage.write(table, day, [storage.read(table, day).slice(1)])
    changed = [key(tiny) != before[0], key(tiny, BASE) != before[1]]
    assert changed == [of_base is not None, bool(of_base)]
