"""Source folders as people have them: on a Mac, with folders for days, with links, with files of other tools."""

import os
import unicodedata
from pathlib import Path

import pytest

from pipelines.sources import folder
from pipelines.sources.folder import EXTENSIONS, Found
from pipelines.sources.rows import stable_id

NFC, NFD = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def files(source: Path, *names: str) -> Found:
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    return folder.find(str(source))


def beside(found: Found) -> dict[str, tuple[str, ...]]:
    return {clip.key: clip.beside for clip in found.clips}


def left_out(found: Found) -> dict[str, tuple[str, str]]:
    assert all((row["found"], row["used"], row["left_out"]) == (1, 0, 1) for row in found.left_out)
    return {row["file"]: (row["kind"], row["why"]) for row in found.left_out}


def test_ids_of_plain_names_stay_what_they_were(tmp_path: Path):
    (clip,) = files(tmp_path, "street-watch/cars.mp4").clips
    assert clip.ids == (6352460596380910732, stable_id("street-watch/cars"))


@pytest.mark.parametrize(("video", "chat"), [(NFC, NFD), (NFD, NFC)])
def test_names_that_differ_in_their_normal_form_only_are_one(tmp_path: Path, video: str, chat: str):
    found = files(tmp_path, f"{video}/{video}.mp4", f"{chat}/{chat}.chat.json")
    assert beside(found) == {f"{NFC}/{NFC}": (f"{chat}/{chat}.chat.json",)}
    assert found.clips[0].ids == (stable_id(NFC), stable_id(f"{NFC}/{NFC}"))
    assert (found.clips[0].file, found.left_out) == (f"{video}/{video}.mp4", [])


def test_two_folders_of_one_name_are_one_author_and_two_files_of_one_name_one_live(tmp_path: Path):
    found = files(tmp_path, f"{NFC}/a.mp4", f"{NFD}/b.mp4", f"{NFD}/a.mp4")
    assert {clip.key for clip in found.clips} == {f"{NFC}/a", f"{NFC}/b"}
    assert len({clip.ids[0] for clip in found.clips}) == 1
    assert [row["reason"] for row in found.refused] == ["bad_row"]


def test_folders_below_an_author_are_part_of_the_live(tmp_path: Path):
    found = files(
        tmp_path, "ann/2026-01-02/one.mp4", "ann/2026-01-03/one.mp4", "ann/one.mp4", "ann/2026-01-03/one.chat.json"
    )
    assert beside(found) == {
        "ann/2026-01-02/one": (),
        "ann/2026-01-03/one": ("ann/2026-01-03/one.chat.json",),
        "ann/one": (),
    }
    assert len({clip.ids[1] for clip in found.clips}) == 3
    assert {clip.author for clip in found.clips} == {"ann"}


def test_links_hidden_files_and_strays_are_left_out_with_the_reason(tmp_path: Path):
    files(tmp_path / "away", "ann/real.mp4")
    source = tmp_path / "in"
    files(source, "ann/one.mp4", "ann/notes.txt", "ann/.hidden.mp4", ".git/x.mp4", "stray.mp4", "README.md")
    (source / "ann" / "link.mp4").symlink_to(tmp_path / "away" / "ann" / "real.mp4")
    (source / "ann" / "one.chat.json").symlink_to(source / "nowhere")
    (source / "linked").symlink_to(tmp_path / "away" / "ann")
    (source / "ann" / "round").symlink_to(source)
    os.mkfifo(source / "ann" / "pipe.mp4")
    found = folder.find(str(source))
    assert ([clip.key for clip in found.clips], found.refused) == (["ann/one"], [])
    left = left_out(found)
    assert {file: kind for file, (kind, _) in left.items()} == {
        ".git": "other",
        "README.md": "other",
        "ann/.hidden.mp4": "video",
        "ann/link.mp4": "video",
        "ann/notes.txt": "other",
        "ann/one.chat.json": "chat",
        "ann/pipe.mp4": "video",
        "ann/round": "other",
        "linked": "other",
        "stray.mp4": "video",
    }
    for file in ("ann/link.mp4", "ann/one.chat.json", "ann/round", "linked"):
        assert "links are not followed" in left[file][1]
    assert "wanted <source>/<author>/<live>.mp4" in left["stray.mp4"][1]
    assert "<live> and one of .chat.json" in left["ann/notes.txt"][1]
    assert "neither a file nor a folder" in left["ann/pipe.mp4"][1]


def test_files_beside_a_video_are_tried_in_a_stated_order(tmp_path: Path):
    names = (
        "one.chat.json one.chat.json.gz one.live_chat.json one.rechat.json one.danmaku.xml one.xml "
        "one.transcript.jsonl one.jsonl one.json one.mp4.json one.srt one.de.srt one.zh-Hans.srt one.mp4.srt "
        "one.VTT one.en.vtt"
    ).split()
    found = files(tmp_path, "ann/one.mp4", *(f"ann/{name}" for name in reversed(names)))
    assert found.left_out == []
    assert [Path(file).name for file in found.clips[0].beside] == [
        *names[:10],
        "one.mp4.srt",
        "one.srt",
        "one.de.srt",
        "one.zh-Hans.srt",
        "one.VTT",
        "one.en.vtt",
    ]


def test_a_file_belongs_to_the_live_of_its_whole_name(tmp_path: Path):
    names = "one.mp4 one.chat.mp4 one.en.mp4 one.en.srt one.chat.json .json".split()
    found = files(tmp_path, *(f"ann/{name}" for name in names))
    assert beside(found) == {"ann/one": ("ann/one.chat.json",), "ann/one.chat": (), "ann/one.en": ("ann/one.en.srt",)}


def test_what_belongs_to_no_video_is_left_out(tmp_path: Path):
    found = files(tmp_path, "ann/one.mp4", "ann/two.chat.json", "ann/sub/one.srt", "ann/one.info.json", "ann/one.jpg")
    left = left_out(found)
    assert {file: kind for file, (kind, _) in left.items()} == {
        "ann/one.info.json": "transcript",
        "ann/one.jpg": "other",
        "ann/sub/one.srt": "transcript",
        "ann/two.chat.json": "chat",
    }
    assert "no video of that name" in left["ann/two.chat.json"][1]


def test_folders_named_like_files_are_left_out_and_looked_into(tmp_path: Path):
    (tmp_path / "ann" / "one.chat.json").mkdir(parents=True)
    found = files(tmp_path, "ann/one.mp4", "ann/two.mp4/two.mp4", "studio.ts/one.mp4")
    assert {clip.key for clip in found.clips} == {"ann/one", "ann/two.mp4/two", "studio.ts/one"}
    assert left_out(found) == {
        "ann/one.chat.json": ("chat", "a folder, wanted a file"),
        "ann/two.mp4": ("video", "a folder, wanted a file"),
    }


def test_names_that_are_not_utf8_are_refused_one_by_one(tmp_path: Path):
    (tmp_path / "ann").mkdir()
    for name in (b"\xff.mp4", b"\xfe.mp4", b"\xff.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path / "ann") + b"/" + name)).touch()
    found = folder.find(str(tmp_path))
    assert found.clips == []
    assert [(row["key"], row["reason"]) for row in found.refused] == [
        ("ann/\\xfe.mp4", "unreadable_video"),
        ("ann/\\xff.mp4", "unreadable_video"),
    ]
    assert set(left_out(found)) == {"ann/\\xfe.mp4", "ann/\\xff.mp4", "ann/\\xff.txt"}


def test_every_ending_is_found_in_any_case(tmp_path: Path):
    found = files(tmp_path, *(f"ann/{number}{ending.upper()}" for number, ending in enumerate(EXTENSIONS)))
    assert len(found.clips) == len(EXTENSIONS)
