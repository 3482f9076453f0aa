"""One function over many items: in order, with and without Ray, and with the error that was raised."""

import pytest

from pipelines.runtime.each import each


def shifted(item: int, by: int, at_most: int) -> int:
    if item > at_most:
        raise LookupError(f"got {item}")
    return item + by


def check(tasks: bool) -> None:
    assert list(each(shifted, range(100), 1000, 99, tasks=tasks)) == list(range(1000, 1100))
    assert list(each(shifted, [], 1, 1, tasks=tasks)) == []
    results = each(shifted, range(10), 0, 3, tasks=tasks)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(LookupError, match="^got 4") as caught:
        next(results)
    assert type(caught.value) is LookupError and str(caught.value) == "got 4"
    first = each(shifted, iter(range(10**9)), 0, 10**9, tasks=tasks)  # as many as are asked for, and a few ahead
    assert next(first) == 0
    first.close()


def test_in_this_process() -> None:
    check(tasks=False)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_as_tasks() -> None:
    check(tasks=True)
