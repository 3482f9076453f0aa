"""How engaged a comment is."""

from pipelines.sources.beside import chat
from pipelines.sources.beside.entries import Comment


def test_engagement_prefers_regulars_and_long_messages_over_copies_and_commands():
    def say(who: str, text: str) -> Comment:
        return Comment(commenter=who, offset_s=0, text=text)

    said = [
        say("regular", "what a lovely turn that was"),
        say("regular", "short"),
        say("visitor", "what a lovely view this is"),
        say("copy1", "buy  Followers here now please"),
        say("copy2", "buy followers here now please"),
        say("regular", "!turn left and then go on"),
    ]
    long, short, visitor, copied, again, command = chat.engagement(said)
    assert long > short
    assert long > visitor > copied == again
    assert 0 < command < short


def test_comments_of_nobody_are_of_no_regular():
    def say(who: str, text: str) -> Comment:
        return Comment(commenter=who, offset_s=0, text=text)

    regular, _, unknown, _, once = chat.engagement(
        [
            say("ann", "one turn"),
            say("ann", "two turns"),
            say("", "a turn"),
            say("", "left turn"),
            say("bo", "right turn"),
        ]
    )
    assert regular > unknown == once
