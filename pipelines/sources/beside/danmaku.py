"""Comments of Bilibili's XML: <i><d p="seconds,mode,size,colour,time,pool,viewer,id">text</d>...</i>.

The file comes from outside: one with a DTD, which could name other files or grow without end, is refused.
"""

import re
from xml.parsers import expat

from pipelines.sources.beside.entries import Comment, Entries, LeftOut, Unreadable, comment, each, seconds

ROOT = "i"
COMMENT = "d"
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Signs that viewers write and XML may not hold."""


def danmaku(text: str) -> Entries:
    """Comments in the order of the file. Gifts and the like, which have a time `ts`, are counted as no message.

    A recording that breaks off gives what it holds. Raises Unreadable for a DTD or XML of another kind.
    """
    reader = _Reader()
    reader.read(_FORBIDDEN.sub("", text).encode("utf-8", "surrogateescape"))
    return each(reader.found, _comment)


class _Reader:
    """Collects attributes and text of the comments; nothing is nested, so that depth costs nothing."""

    def __init__(self) -> None:
        self.found: list[tuple[dict[str, str], str] | LeftOut] = []
        self._attributes: dict[str, str] | None = None
        self._text: list[str] = []
        self._root = ""

    def read(self, data: bytes) -> None:
        parser = expat.ParserCreate("utf-8")
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._add
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            if not self._root:
                raise Unreadable("got XML that is damaged from its start; download the file again") from error
            self.found.append(LeftOut("where the XML breaks off or is damaged", f"line {error.lineno}"))

    def _refuse(self, *_: object) -> None:
        raise Unreadable("got XML with a DTD, which is not read as it may name other files; remove its <!DOCTYPE ...>")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._root and name != ROOT:
            raise Unreadable(f"got XML of <{name:.40}>, wanted Bilibili's <i> with a <d p=...> for each comment")
        self._root = ROOT
        if name == COMMENT:
            self._attributes, self._text = attributes, []
        elif "ts" in attributes:
            self.found.append(LeftOut("that are no message", f"<{name:.40}>"))

    def _end(self, name: str) -> None:
        if name == COMMENT and self._attributes is not None:
            self.found.append((self._attributes, "".join(self._text)))
            self._attributes = None

    def _add(self, text: str) -> None:
        if self._attributes is not None:
            self._text.append(text)


def _comment(item: tuple[dict[str, str], str]) -> Comment:
    attributes, text = item
    fields = dict(enumerate(attributes.get("p", "").split(",")))
    viewer, number = fields.get(6, ""), fields.get(7, "")
    return comment(
        offset_s=seconds(fields[0], "the first part of p"),
        commenter=attributes.get("user", "") if viewer in ("", "0") else viewer,  # recorders that know no id write 0
        text=text,
        id="" if number == "0" else number,
    )
