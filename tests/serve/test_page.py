"""The page, in a headless Chromium where this machine has one, over the application as uvicorn serves it."""

from __future__ import annotations

import asyncio
import io
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from models.artifacts.cards import KIND, Card, Word, write
from models.artifacts.store import ArtifactStore
from serve.admission import Line
from serve.api import create_api
from serve.args import AdmissionConfig, WatchConfig
from serve.auth import Tokens
from serve.author_cache import AuthorCache
from serve.cards import CardShelf
from serve.loading import load_bank
from serve.page import PAGE_PATHS
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher
from tests.serve import browser
from tests.serve.browser import Tab
from tests.serve.conftest import AUTHOR_IDS, USER_IDS, Published, watcher_of
from tests.serve.test_api import AuthorsHere

ADMISSION = AdmissionConfig()
TOKEN, OPEN = "a-token-of-some-length", Tokens()
PHONE = 390
WEB = Path(__file__).resolve().parents[2] / "serve" / "web"
needs_chromium = pytest.mark.skipif(browser.found() is None, reason=f"none of {', '.join(browser.NAMES)} is installed")


def publish_cards(root: Path, folder: Path) -> None:
    """A card with a frame for every second author."""
    jpeg = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(jpeg, "JPEG")
    folder.mkdir()
    words = (Word(word="cooking", importance=0.3), Word(word="rice", importance=0.1))
    fields = (("point_of_interest", words), ("scene", (Word(word="<b>kitchen</b>", importance=0.0),)))
    cards = [Card(author_id=author, day="2026-01-02", fields=fields) for author in AUTHOR_IDS[::2].tolist()]
    write(folder, [(card, [jpeg.getvalue()]) for card in cards])
    ArtifactStore.open(str(root)).publish(KIND, folder, "cards-1", {})


def application(root: Path, tokens: Tokens) -> Any:
    store = ArtifactStore.open(str(root))
    banks = SnapshotWatcher(store, partial(load_bank, store), WatchConfig())
    banks.poll()
    authors, ranking = AuthorsHere(AuthorCache(banks)), UserSequence(watcher_of(root))
    return create_api(ranking, authors, Line(ADMISSION), ADMISSION, tokens, shelf=CardShelf(store))


@contextmanager
def served(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Published(tmp_path_factory.mktemp("page") / "store")
    made.publish("a")
    publish_cards(made.root, made.root.parent / "cards")
    return made.root


def seen(
    root: Path,
    folder: Path,
    look: Callable[[Tab], Coroutine[Any, Any, None]],
    tokens: Tokens = OPEN,
    width: int = 1100,
) -> list[str]:
    """What the browser complains of after a look at the page."""

    async def all_of_it(url: str) -> list[str]:
        async with browser.tab(folder / "browser") as tab:
            await tab.open(url, width)
            await tab.until(BEGUN)
            await look(tab)
            return tab.complaints

    with served(application(root, tokens)) as url:
        return asyncio.run(all_of_it(url))


BEGUN = (
    "document.readyState == 'complete' && "
    "(document.querySelectorAll('.facts div').length || !document.querySelector('.error').hidden)"
)
RANKED = "document.querySelectorAll('.live').length"
CARDS = "document.querySelectorAll('.anchor dt').length && document.querySelectorAll('.frames img').length"


@needs_chromium
@pytest.mark.parametrize("width", [1100, PHONE])
def test_a_user_is_ranked_with_words_frames_and_neighbours(root: Path, tmp_path: Path, width: int) -> None:
    async def look(tab: Tab) -> None:
        assert await tab.says("document.getElementById('user').value") == str(USER_IDS[0])
        # By keyboard alone: the first field has what is needed.
        await tab.says("document.getElementById('user').focus()")
        await tab.press("Enter")
        shown = await tab.until(RANKED)
        await tab.until(CARDS)
        assert shown == len((await tab.says("form.candidates.value")).split())
        first = "document.querySelector('.live')"
        assert (await tab.says(f"{first}.querySelector('.author').textContent")).startswith("Author ")
        tasks = await tab.says(f"[...{first}.querySelectorAll('.scores dt')].map(each => each.textContent)")
        assert tasks == ["score", "click", "follow", "long view", "gift"]
        scores = await tab.says("[...document.querySelectorAll('.scores div:first-child dd')].map(e => +e.textContent)")
        assert scores == sorted(scores, reverse=True)
        words = "[...document.querySelector('.anchor dd').children]"
        shades = await tab.says(f"{words}.map(word => [word.textContent, word.style.cssText.split(':')[1]])")
        assert [word for word, _ in shades] == ["cooking", "rice"]
        assert [float(shade.strip(" ;")) for _, shade in shades] == pytest.approx([1, 1 / 3])
        assert "<b>kitchen</b>" in await tab.says("document.querySelector('.anchor').textContent"), "text, not markup"
        await tab.until("[...document.querySelectorAll('.frames img')].every(image => image.naturalWidth === 32)")
        await tab.says(f"{first}.querySelector('.alike').focus()")
        await tab.press("Enter")
        assert await tab.until(f"{first}.querySelector('.similar').children.length") == 5
        assert await tab.says("document.documentElement.scrollWidth") <= width, "nothing is wider than the screen"
        facts = await tab.until("document.getElementById('facts').innerText")
        assert "requests/s" in facts and "m-a" in facts
        await tab.picture(tmp_path / f"page-{width}.png")

    assert seen(root, tmp_path, look, width=width) == []


@needs_chromium
def test_an_error_takes_the_old_ranking_away_and_says_what_to_do(root: Path, tmp_path: Path) -> None:
    async def look(tab: Tab) -> None:
        await tab.says("form.requestSubmit()")
        await tab.until(RANKED)
        await tab.says("form.candidates.value = '5 5'; form.requestSubmit()")
        said = await tab.until("document.getElementById('error').innerText")
        assert said == "candidates holds author 5 twice; give each candidate once"
        assert await tab.says(RANKED) == 0 and await tab.says("document.getElementById('result').hidden")
        await tab.says("form.candidates.value = '5 15'; form.requestSubmit()")
        assert await tab.until(RANKED) == 2
        assert await tab.says("document.getElementById('error').hidden")

    assert seen(root, tmp_path, look) == []


@needs_chromium
def test_a_token_is_asked_for_and_then_used_for_everything(root: Path, tmp_path: Path) -> None:
    async def look(tab: Tab) -> None:
        assert "asks for a token" in await tab.until("document.getElementById('error').innerText")
        assert await tab.says("document.activeElement.id") == "token"
        await tab.says(f"form.token.value = '{TOKEN}'; form.token.dispatchEvent(new Event('change'))")
        await tab.until("document.getElementById('facts').children.length")
        await tab.says("form.requestSubmit()")
        await tab.until(RANKED)
        await tab.until(CARDS)
        await tab.until("[...document.querySelectorAll('.frames img')].every(image => image.naturalWidth === 32)")

    assert seen(root, tmp_path, look, Tokens.read("ASK", environment={"ASK": TOKEN})) == []


@needs_chromium
def test_another_user_is_a_click_away_and_ids_keep_all_their_digits(tmp_path: Path) -> None:
    large = [2**62 + 1, 2**62 + 3]
    made = Published(tmp_path / "store", author_ids=large, user_ids=large)
    made.publish("a")

    async def look(tab: Tab) -> None:
        await tab.says("document.getElementById('another').click()")
        assert await tab.until(RANKED)
        assert await tab.says("form.user.value") == str(large[1])
        names = await tab.says("[...document.querySelectorAll('.author')].map(each => each.textContent)")
        assert set(names) <= {f"Author {author}" for author in large}
        note = await tab.says("document.getElementById('note').textContent")
        assert note.startswith("Known user, 7 history items (published)")
        why = await tab.until("document.querySelector('.why').textContent")
        assert why.startswith("Nearest in this user's history: author 4611686018427387")

    assert seen(made.root, tmp_path, look) == []


def test_the_page_is_whole_without_anything_from_elsewhere(root: Path) -> None:
    with TestClient(application(root, Tokens())) as client:
        for path in PAGE_PATHS:
            answer = client.get(path)
            assert answer.status_code == 200 and "default-src 'self'" in answer.headers["content-security-policy"]
            assert not re.search(r"(?:src|href)=\"https?:|url\(https?:|import ", answer.text)
            head = client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == answer.headers["content-length"]
