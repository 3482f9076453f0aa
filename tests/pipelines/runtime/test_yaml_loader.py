"""YAML without its traps; what cannot be read is said in one line."""

from datetime import date

import pytest

from pipelines.runtime.yaml_loader import read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1.5e3", 1500.0), ("-.5", -0.5), ("1_000", 1000), ("0x10", 16), ("0", 0), ("-7", -7),
        ("010", "010"), ("1:30", "1:30"), ("1.2.3", "1.2.3"), ("yes", True), ("2026-01-31", date(2026, 1, 31)),
        ("2026-02-30", "2026-02-30"), ("'2026-01-31'", "2026-01-31"), ("~", None), (".inf", float("inf")),
    ],
)  # fmt: skip
def test_a_value_is_what_it_looks_like(text: str, value: object):
    assert read(text) == value
    assert type(read(text)) is type(value)


def test_anchors_and_merge_keys_work():
    assert read("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n")["b"] == {"x": 1, "y": 3}


def test_utf8_with_and_without_a_mark_and_utf16_are_read():
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert read("name: Zoë".encode(encoding)) == {"name": "Zoë"}


@pytest.mark.parametrize(
    "content",
    [
        b"a:\n\tb: 1\n", "name: Zoë".encode("latin-1"), b"a: \x00", b"a: [1", b"a: 1\n---\nb: 2\n", b"a: *no",
        b"[" * 9999,
    ],
)  # fmt: skip
def test_what_is_no_yaml_is_an_error_of_one_line(content: bytes):
    with pytest.raises(ValueError) as error:
        read(content)
    assert str(error.value) and "\n" not in str(error.value)
