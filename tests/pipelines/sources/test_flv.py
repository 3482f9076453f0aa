"""FLV recordings put together by `cat`: read as if the second had no header."""

from pathlib import Path

from pipelines.sources.flv import HEADER_BYTES, JoinedFlv, parts
from tests.pipelines.films import film


def test_an_ordinary_file_is_one_part_and_another_format_none(tmp_path: Path):
    one = film(tmp_path / "one.flv")
    assert parts(str(one)) == [(0, one.stat().st_size)]
    assert parts(str(film(tmp_path / "one.ts"))) == []


def test_later_headers_and_packets_that_were_cut_off_are_left_out(tmp_path: Path):
    one = film(tmp_path / "one.flv").read_bytes()
    both = tmp_path / "both.flv"
    both.write_bytes(one + one[:HEADER_BYTES] + b"\x09\x00\x10\x00 cut off" + one)
    with JoinedFlv(str(both), parts(str(both))) as file:
        whole = b"".join(iter(lambda: file.read(1000), b""))
        file.seek(-10, 2)
        assert file.read() == whole[-10:]
    assert whole == one + one[HEADER_BYTES:]
