"""Files beside a video, in every shape that is read, whole and broken."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.beside import content
from pipelines.sources.beside.entries import Unreadable
from pipelines.sources.beside.read import CHAT, TRANSCRIPT, Read, read


def message(offset_s: Any, who: Any = "ann", text: str | None = "hello", **more: Any) -> dict[str, Any]:
    commenter = who if who is None or isinstance(who, dict) else {"_id": who}
    return {"content_offset_seconds": offset_s, "commenter": commenter, "message": {"body": text}, **more}


def chat_of(folder: Path, content: bytes | str | object, name: str = "live.chat.json") -> Read:
    return read_as(folder, content, name, CHAT)


def speech_of(folder: Path, content: bytes | str | object, name: str = "live.transcript.jsonl") -> Read:
    return read_as(folder, content, name, TRANSCRIPT)


def read_as(folder: Path, content: bytes | str | object, name: str, kind: str) -> Read:
    text = content if isinstance(content, bytes | str) else json.dumps(content)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    found = read(str(folder / name), kind)
    tally = found.tally
    assert tally.found == len(found.comments) + len(found.lines) + tally.left_out
    return found


def said(found: Read) -> list[tuple[float, str, str]]:
    return [(comment.offset_s, comment.commenter, comment.text) for comment in found.comments]


def spoken(found: Read) -> list[tuple[float, float, str]]:
    return [(line.start_s, line.end_s, line.text) for line in found.lines]


def youtube(time_ms: Any, text: str, who: str = "UC1", **more: Any) -> dict[str, Any]:
    renderer = {"message": {"runs": [{"text": text}]}, "authorExternalChannelId": who, **more}
    action = {"addChatItemAction": {"item": {"liveChatTextMessageRenderer": renderer}}}
    return {"replayChatItemAction": {"videoOffsetTimeMsec": time_ms, "actions": [action]}}


def lines_of(*values: Any) -> str:
    return "\n".join(json.dumps(value) for value in values) + "\n"


def test_comments_of_a_part_of_a_live_count_from_where_it_was_cut(tmp_path: Path):
    chat = {"video": {"start": 28800, "end": 28840}, "comments": [message(28839.5), message(28790), message(28800)]}
    assert [offset for offset, *_ in said(chat_of(tmp_path, chat))] == [-10.0, 0.0, 39.5]


def test_comments_that_count_from_the_cut_already_are_left_as_they_are(tmp_path: Path):
    chat = {"video": {"start": 28800, "end": 28840}, "comments": [message(1), message(39)]}
    assert [offset for offset, *_ in said(chat_of(tmp_path, chat))] == [1.0, 39.0]


@pytest.mark.parametrize("start", [None, "soon", float("nan"), -5, [1]])
def test_a_start_that_is_no_time_is_the_start_of_the_video(tmp_path: Path, start: Any):
    assert said(chat_of(tmp_path, {"video": {"start": start}, "comments": [message(3)]})) == [(3.0, "ann", "hello")]


@pytest.mark.parametrize("who", [None, {}, {"_id": None}, {"_id": ""}, {"_id": True}, {"_id": [1]}])
def test_a_comment_of_nobody_is_kept(tmp_path: Path, who: Any):
    assert said(chat_of(tmp_path, {"comments": [message(1, who)]})) == [(1.0, "", "hello")]


def test_a_viewer_without_an_id_is_known_by_name(tmp_path: Path):
    assert said(chat_of(tmp_path, {"comments": [message(1, {"_id": None, "display_name": "Bo"})]}))[0][1] == "Bo"


def test_text_that_is_in_fragments_only_is_read_from_them(tmp_path: Path):
    parts = [{"text": "so "}, {"emoticon": 1}, None, {"text": "good"}]
    chat = {"comments": [{**message(1), "message": {"body": None, "fragments": parts}}]}
    assert said(chat_of(tmp_path, chat)) == [(1.0, "ann", "so good")]


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), "soon", "", None, True, [1], {}, "1" * 5000])
def test_a_comment_without_a_time_is_left_out_with_the_reason(tmp_path: Path, offset: Any):
    found = chat_of(tmp_path, {"comments": [message(offset), message("2.5")]})
    assert said(found) == [(2.5, "ann", "hello")]
    assert "1 of 2 comment(s) left out: 1 without a" in found.tally.why
    assert "content_offset_seconds" in found.tally.why
    assert "Error" not in found.tally.why


@pytest.mark.parametrize(
    "item", ["?", None, 3, [], {}, {"content_offset_seconds": 1}, message(1, text=" "), message(1, text=None)]
)
def test_what_is_no_comment_is_counted(tmp_path: Path, item: Any):
    found = chat_of(tmp_path, {"comments": [item, message(2)]})
    assert (len(found.comments), found.tally.left_out) == (1, 1)


def test_the_same_comment_twice_is_one_but_the_same_words_twice_are_two(tmp_path: Path):
    listed = [message(1, _id="a"), message(1, _id="a"), message(1), message(1), message(1, _id="")]
    found = chat_of(tmp_path, {"comments": listed})
    assert (len(found.comments), found.tally.why) == (4, "1 of 5 comment(s) left out: 1 that are there twice (id a)")


def test_half_a_surrogate_pair_is_a_question_mark(tmp_path: Path):
    chat = {"comments": [message(1, "\ud800", "x\udc80 \ud83d")]}
    assert said(chat_of(tmp_path, chat)) == [(1.0, "?", "x? ?")]


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: data])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
    ],
)
def test_a_chat_is_read_in_any_encoding_and_compressed(tmp_path: Path, pack: Any, mark: bytes, encoding: str):
    text = json.dumps({"comments": [message(1, text="señor 你好")]}, ensure_ascii=False, indent=1)
    data = pack(mark + text.replace("\n", "\r\n").encode(encoding))
    assert said(chat_of(tmp_path, data)) == [(1.0, "ann", "señor 你好")]


def test_a_damaged_byte_costs_its_own_comment(tmp_path: Path):
    text = json.dumps({"comments": [message(1, text="caf~"), message(2)]}).encode().replace(b"~", b"\xe9")
    found = chat_of(tmp_path, text)
    assert [text for _, _, text in said(found)] == ["hello"]
    assert "not UTF-8" in found.tally.why


def test_youtube_chat_is_read_line_by_line(tmp_path: Path):
    emoji = {"emoji": {"emojiId": "🎉"}}, {"emoji": {"emojiId": "UC/x", "isCustomEmoji": True, "shortcuts": [":hi:"]}}
    fancy = youtube("3000", "")
    (action,) = fancy["replayChatItemAction"]["actions"]
    action["addChatItemAction"]["item"]["liveChatTextMessageRenderer"]["message"]["runs"] = [{"text": "go "}, *emoji]
    live = {**youtube(None, "recorded live"), "videoOffsetTimeMsec": "4000", "isLive": True}
    del live["replayChatItemAction"]["videoOffsetTimeMsec"]
    early = youtube("0", "early", timestampText={"simpleText": "-1:05"})
    paid = {"addChatItemAction": {"item": {"liveChatPaidMessageRenderer": {"message": {"runs": [{"text": "gift"}]}}}}}
    member = {"addChatItemAction": {"item": {"liveChatMembershipItemRenderer": {"headerSubtext": {}}}}}
    both = {"replayChatItemAction": {"videoOffsetTimeMsec": "5000", "actions": [paid, member]}}
    nothing = {"replayChatItemAction": {"videoOffsetTimeMsec": "6000", "actions": []}}
    text = lines_of(youtube("2500", "hi"), fancy, live, early, both, nothing) + "{broken\n"
    found = chat_of(tmp_path, text.replace("\n", "\r\n"), "live.live_chat.json")
    assert said(found) == [
        (-65.0, "UC1", "early"),
        (2.5, "UC1", "hi"),
        (3.0, "UC1", "go 🎉:hi:"),
        (4.0, "UC1", "recorded live"),
        (5.0, "", "gift"),
    ]
    assert found.tally.why == "3 of 8 comment(s) left out: 2 that are no message, 1 that are no JSON (line 7)"


def test_one_line_of_youtube_chat_is_one_comment(tmp_path: Path):
    assert said(chat_of(tmp_path, lines_of(youtube("1000", "hi")))) == [(1.0, "UC1", "hi")]


@pytest.mark.parametrize("as_lines", [False, True])
def test_chat_downloader_is_read_as_a_list_and_as_lines(tmp_path: Path, as_lines: bool):
    listed = [
        {"time_in_seconds": 2.5, "author": {"id": "7", "name": "bo"}, "message": "hi", "message_id": "m1"},
        {"time_in_seconds": 3, "author": {"name": "bo"}, "message": "again", "message_id": "m2"},
        {"time_in_seconds": 4, "author": {"id": "7"}, "message": None, "message_type": "paid_sticker"},
        {"timestamp": 1, "author": {"id": "7"}, "message": "no time"},
        {"time_in_seconds": 2.5, "author": {"id": "7"}, "message": "hi", "message_id": "m1"},
    ]
    found = chat_of(tmp_path, lines_of(*listed) if as_lines else listed)
    assert said(found) == [(2.5, "7", "hi"), (3.0, "bo", "again")]
    assert found.tally.left_out == 3


def test_danmaku_are_read_from_xml(tmp_path: Path):
    text = (
        '\ufeff<?xml version="1.0" encoding="UTF-8"?>\n<i><chatid>1</chatid>'
        '<d p="1.5,1,25,16777215,1600000000,0,abcd,77">hi &amp; <b>bye</b>\x08</d>'
        '<d p="2,1,25,16777215,0,0,0,0" user="rec">from a recorder</d><d p="3,1,25,16777215,0,0,0,0">nobody</d>'
        '<d p="soon,1">x</d><d>y</d><d p="4,1"></d><gift ts="5" user="z"/><d p="1.5,1,2,3,4,0,abcd,77">hi</d></i>'
    )
    found = chat_of(tmp_path, text, "live.xml")
    assert said(found) == [(1.5, "abcd", "hi & bye"), (2.0, "rec", "from a recorder"), (3.0, "", "nobody")]
    assert found.tally.left_out == 5


def test_danmaku_that_break_off_give_what_they_hold(tmp_path: Path):
    found = chat_of(tmp_path, '<i><d p="1,1,1,1,1,1,a,1">hi</d>\n<d p="2,', "live.xml")
    assert said(found) == [(1.0, "a", "hi")]
    assert found.tally.why == "1 of 2 comment(s) left out: 1 where the XML breaks off or is damaged (line 2)"


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE i SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE i [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>',
        '<?xml version="1.0"?><!DOCTYPE i [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
    ],
)
def test_xml_with_a_dtd_is_refused(tmp_path: Path, head: str):
    with pytest.raises(Unreadable, match="got XML with a DTD"):
        chat_of(tmp_path, f'{head}<i><d p="1,1">&x;</d></i>', "live.xml")


def test_xml_nested_without_end_is_no_comment(tmp_path: Path):
    assert chat_of(tmp_path, "<i>" + "<x>" * 100_000, "live.xml").tally.found == 1


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "the file is empty"),
        (" \r\n\t", "the file is empty"),
        ("{", "JSON that breaks off"),
        ('{"comments": [', "JSON that breaks off"),
        ('{"comments": 3}', "a JSON object with the keys comments"),
        ("{}", "a JSON object without keys"),
        ("{}\n{}", "JSON lines of objects without keys"),
        ('[{"a": 1, "b": 2}]', "a JSON list of objects with the keys a, b"),
        ("[1, 2]", "a JSON list without objects"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("12:00 ann: hello", "text that starts with '12:00 ann: hello'"),
        ("<!DOCTYPE html><html><body>Not found</body></html>", "a page of HTML"),
        ("<html><head>", "a page of HTML"),
        ("<rss><d/></rss>", "XML of <rss>"),
        ("<", "XML that is damaged"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "binary data"),
        (b"\x00\x00\x00\x18ftyp", "binary data"),
        (b"PK\x03\x04rest", "packed as zip"),
        (gzip.compress(b"{" * 1000)[:-12], "gzip data are damaged or break off"),
        (b"\x1f\x8bnot gzip", "gzip data are damaged or break off"),
        (codecs.BOM_UTF16_LE + b"{\x00}", "breaks off inside its UTF-16-LE text"),
        (b"\xff\xfe[\x00\xff", "breaks off inside"),
    ],
)
@pytest.mark.parametrize("read_it", [chat_of, speech_of])
def test_what_is_neither_is_refused_in_a_sentence_of_plain_words(tmp_path: Path, text: Any, got: str, read_it: Any):
    with pytest.raises(Unreadable) as caught:
        read_it(tmp_path, text, "live.json")
    assert got in str(caught.value)
    assert "Error" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refusal_names_the_shapes_that_are_wanted(tmp_path: Path):
    with pytest.raises(Unreadable, match=r"wanted a chat: .*TwitchDownloader.*yt-dlp.*chat-downloader.*Bilibili"):
        chat_of(tmp_path, {"messages": []})
    with pytest.raises(Unreadable, match=r"wanted a transcript: .*start_s, end_s, text .*Whisper.*SRT or WebVTT"):
        speech_of(tmp_path, {"messages": []})


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path):
    with pytest.raises(Unreadable, match=r"cannot be read \(Is a directory\)"):
        read(str(tmp_path), CHAT)


def test_a_small_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(content, "MAX_BYTES", 2**20)
    with pytest.raises(Unreadable, match="more than 1 MiB"):
        chat_of(tmp_path, gzip.compress(b" " * 2**22))


@pytest.mark.parametrize("name", ["live.transcript.jsonl", "live.live_chat.json", "live.srt", "live.jsonl.gz"])
def test_an_empty_file_of_lines_holds_nothing(tmp_path: Path, name: str):
    found = read_as(tmp_path, b"", name, TRANSCRIPT)
    assert (found.kind, found.tally.found, found.tally.why) == (TRANSCRIPT, 0, "it holds no line")


@pytest.mark.parametrize("value", [[], {"comments": []}])
def test_a_chat_without_comments_holds_nothing(tmp_path: Path, value: Any):
    found = chat_of(tmp_path, value)
    assert (found.kind, found.comments, found.tally.found) == (CHAT, [], 0)


SPOKEN = [(0.0, 4.0, "good evening"), (4.0, 7.5, "let us begin")]
SEGMENTS = [{"id": i, "start": s, "end": e, "text": f" {t}"} for i, (s, e, t) in enumerate(SPOKEN)]
OURS = [{"start_s": s, "end_s": e, "text": t} for s, e, t in SPOKEN]
CHUNKS = [{"timestamp": [s, e], "text": t} for s, e, t in SPOKEN]
OFFSETS = [{"offsets": {"from": int(s * 1000), "to": int(e * 1000)}, "text": t} for s, e, t in SPOKEN]


@pytest.mark.parametrize(
    "text",
    [
        lines_of(*OURS),
        "\ufeff" + lines_of(*OURS).replace("\n", "\r\n\r\n"),
        lines_of(*SEGMENTS),
        lines_of(*CHUNKS),
        {"text": "all", "segments": SEGMENTS, "language": "en"},
        json.dumps({"text": "all", "segments": SEGMENTS}, indent=2),
        {"systeminfo": "", "result": {"language": "en"}, "transcription": OFFSETS},
        {"speakers": [], "chunks": CHUNKS, "text": "all"},
        OURS,
        SEGMENTS,
        "1\n00:00:00,000 --> 00:00:04,000\ngood evening\n\n2\n00:00:04,000 --> 00:00:07,500\nlet us\nbegin\n",
        "1\r\n00:00:00,000 --> 00:00:04,000\r\n<i>good</i> evening\r\n"
        " \r\n2\r\n00:00:04,000 --> 00:00:07,500\r\nlet us begin",
        "WEBVTT\nKind: captions\n\nNOTE by hand\n\nSTYLE\n::cue {}\n\na\n00:00.000 --> 00:04.000 align:start\n"
        "<v Bo>good evening</v>\n\n00:04.000 --> 00:07.500\nlet us begin",
    ],
)
def test_speech_is_read_in_every_shape(tmp_path: Path, text: Any):
    found = speech_of(tmp_path, text)
    assert (found.kind, spoken(found), found.tally.why) == (TRANSCRIPT, SPOKEN, "")


def test_one_line_of_speech_is_one_line(tmp_path: Path):
    assert spoken(speech_of(tmp_path, lines_of(OURS[0]))) == SPOKEN[:1]


def test_the_last_chunk_has_no_end_and_belongs_where_it_starts(tmp_path: Path):
    assert spoken(speech_of(tmp_path, {"chunks": [{"timestamp": [3.0, None], "text": "x"}]})) == [(3.0, 3.0, "x")]


def test_bad_lines_of_speech_are_counted_by_reason(tmp_path: Path):
    bad = [{"start_s": 1}, {"start_s": 5, "end_s": 4, "text": "x"}, {"start_s": "soon", "end_s": 1, "text": "x"}, {}]
    found = speech_of(tmp_path, (lines_of(*OURS, *bad) + "{not json\n").encode() + b'"\xff"\n')
    assert spoken(found) == SPOKEN
    assert found.tally.left_out == 6
    for reason in (
        "that end before they start (from 5 to 4 s)",
        "1 that are no JSON (line 7)",
        "wanted start_s, end_s",
    ):
        assert reason.replace("wanted ", "without ") in found.tally.why


def test_captions_that_roll_up_are_read_once(tmp_path: Path):
    text = (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000 align:start\n \ngood<00:00:01.000><c> evening</c>\n\n"
        "00:00:02.000 --> 00:00:02.010\ngood evening\n \n\n"
        "00:00:02.010 --> 00:00:04.000\ngood evening\nlet<00:00:03.000><c> us &amp; begin</c>\n"
    )
    found = speech_of(tmp_path, text, "live.en.vtt")
    assert spoken(found) == [(0.0, 2.0, "good evening"), (2.01, 4.0, "let us & begin")]


def test_captions_with_a_broken_block_keep_the_others(tmp_path: Path):
    broken = "stray\n\n2\n00:xx --> 00:00:09,000\nlost\n\n3\n0:00:09,5 --> 0:00:10,0\n\n"
    text = f"1\n00:00:00,000 --> 00:00:04,000\nhello\n\n{broken}"
    found = speech_of(tmp_path, text, "live.srt")
    assert spoken(found) == [(0.0, 4.0, "hello")]
    assert found.tally.left_out == 3


def test_what_a_file_holds_counts_for_more_than_its_name(tmp_path: Path):
    assert chat_of(tmp_path, {"segments": SEGMENTS}).kind == TRANSCRIPT
    assert speech_of(tmp_path, {"comments": [message(1)]}, "live.json").kind == CHAT
