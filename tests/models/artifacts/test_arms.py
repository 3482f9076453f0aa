"""Arms: who answers whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifacts.arms import KIND, MAIN, POINTER, Arm, Arms, read, write
from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore

USERS = range(20_000)


def shares(arms: Arms) -> dict[str, float]:
    names, counts = np.unique([arms.of_user(user) for user in USERS], return_counts=True)
    return dict(zip(names.tolist(), (counts / len(USERS)).tolist(), strict=True))


def test_users_are_split_by_share_and_a_shadow_has_none() -> None:
    arms = Arms(
        by_name={
            "b": Arm(bank="x", share=0.1),
            "c": Arm(bank="y", share=0.3),
            "s": Arm(bank="z", share=1.0, shadow=True),
        }
    )
    found = shares(arms)
    assert set(found) == {"b", "c", MAIN}
    assert [found["b"], found["c"], found[MAIN]] == pytest.approx([0.1, 0.3, 0.6], abs=0.015)


def test_an_arm_that_grows_keeps_its_users_and_another_salt_draws_others() -> None:
    def of(share: float, salt: str = "") -> set[int]:
        arms = Arms(by_name={"b": Arm(bank="x", share=share)}, salt=salt)
        return {user for user in USERS if arms.of_user(user) == "b"}

    small, large, other = of(0.1), of(0.2), of(0.1, "again")
    assert small < large
    assert len(small & other) / len(small) == pytest.approx(0.1, abs=0.05)
    assert of(0.0) == set() and of(1.0) == set(USERS)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_user_has_one_arm(user: int) -> None:
    arms = Arms(by_name={"b": Arm(bank="x", share=0.5), "c": Arm(bank="x", share=0.5)})
    assert arms.of_user(user) == arms.of_user(user) in ("b", "c")


def test_arms_come_back_and_none_are_none(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path))
    assert read(store) == Arms()
    arms = Arms(by_name={"b": Arm(bank="x", share=0.25), "s": Arm(bank="y", share=0.5, shadow=True)}, salt="one")
    (tmp_path / "artifacts" / KIND).mkdir(parents=True)
    write(store, arms)
    assert read(store) == arms
    write(store, Arms())
    assert read(store) == Arms()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"format": 2, "salt": "", "arms": {}}', '{"format": 1, "salt": "", "arms": {"b": {}}}',
     '{"format": 1, "salt": "", "arms": {"b": {"bank": "x", "share": 2.0}}}'],
)  # fmt: skip
def test_a_damaged_pointer_is_told(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "artifacts" / KIND
    folder.mkdir(parents=True)
    (folder / POINTER).write_text(content)
    with pytest.raises(ArtifactError, match="bank/ARMS is damaged .*run the job split again"):
        read(ArtifactStore.open(str(tmp_path)))


@pytest.mark.parametrize(
    ("by_name", "said"),
    [
        ({"current": Arm(bank="x")}, "not current"),
        ({"B": Arm(bank="x")}, "small letters"),
        ({"b": Arm(bank="x", share=0.6), "c": Arm(bank="x", share=0.6)}, "add up to 1 at most, got 1.2"),
        ({f"a{n}": Arm(bank="x") for n in range(9)}, "at most 8 arms"),
    ],
)
def test_arms_that_cannot_be_are_refused(by_name: dict[str, Arm], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Arms(by_name=by_name)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_one(share: float) -> None:
    with pytest.raises(ValueError, match="share: wanted 0 to 1"):
        Arm(bank="x", share=share)
