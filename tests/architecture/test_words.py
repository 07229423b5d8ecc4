"""Docstrings, messages and pages use the words of the glossary, and none of the words that it replaces.

It checks all docstrings and all string constants with a space in ``rindle/`` (messages, log entries, descriptions of
fields and commands), the pages of the guide and ``rindle.js``. It does not check comments, names in code, and tests.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Banned words, and the words to write instead. Case does not matter; a space matches any white space.
BANNED = {
    r"judg\w*|verdicts?|condemn\w*": "validate, validation, reject, rejection",
    r"tells?|telling|told|untold": "notify, emit, report, contain, distinguish",
    r"hears?|heard|hearing": "receive",
    r"asks|asked|asking|ask": "request, query, call, require",
    r"lend\w*|lent|borrow\w*": "local_path, read in place",
    r"workshops?": "scratch directory",
    r"mend\w*": "fix",
    r"derivatives?": "variant",
    r"pictures?": "image",
    r"films?|filmed": "video",
    r"sounds?|soundless": "audio, audio track",
    r"anew": "again",
    r"strangers?": "anonymous client, caller, unknown sender",
    r"in hand": "has a local relay, is working on",
    r"put off|puts off|putting off": "reschedule",
    r"at rest|come to rest|comes to rest": "in a terminal state, settled",
    r"undertaker|fleet members?|kept pixels|standing": "executor, worker process, decode cache, status",
    r"overtak\w*": "ClaimLost, replaced",
    r"he|him|his|she|hers": "they, their",
    r"(?:is|are|was) no (?:text|number|list|mapping|string|class|path|name|integer|boolean|function|coroutine)s?": (
        "is not a string, is not a list of strings"
    ),
    r"texts": "strings",
    r"last word|in vain|for good|by heart|whereabouts": "a plain word: final, without effect, permanently",
}

#: Proper uses: a wire contract, the HTML element and the call that writes it. They are removed before the search.
ALLOWED = (
    r"\Ain hand\Z",  # payload of a Postgres notification, read by processes of other releases
    r"\bpicture_tag\b",
    r"</?picture\b[^>]*>",
)

PAGES = [
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "glossary.md"),  # which lists the words
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "rindle" / "http" / "static" / "rindle.js",
]
MODULES = sorted((ROOT / "rindle").rglob("*.py"))

_BANNED = {
    re.compile(rf"\b(?:{words})\b".replace(" ", r"\s+"), re.IGNORECASE): instead for words, instead in BANNED.items()
}
_ALLOWED = re.compile("|".join(ALLOWED))


def _findings(text: str, first_line: int = 1) -> Iterator[str]:
    """Yield the line, the word and the replacement of every banned word."""
    text = _ALLOWED.sub(lambda found: " " * len(found[0]), text)
    for pattern, instead in _BANNED.items():
        for found in pattern.finditer(text):
            line = first_line + text[: found.start()].count("\n")
            yield f"line {line}: {found[0]!r}, write: {instead}"


def _texts(module: Path) -> Iterator[tuple[int, str]]:
    """Yield docstrings and string constants that contain a space, with their first line."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\S\s+\S", node.value):
            yield node.lineno, node.value


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_page_uses_the_words_of_the_glossary(page: Path) -> None:
    assert list(_findings(page.read_text())) == []


@pytest.mark.parametrize("module", MODULES, ids=[str(module.relative_to(ROOT)) for module in MODULES])
def test_docstrings_and_messages_use_the_words_of_the_glossary(module: Path) -> None:
    assert [found for line, text in _texts(module) for found in _findings(text, line)] == []


@pytest.mark.parametrize(
    "text",
    [
        "The scanner condemned the file.",
        "Mend the cause.",
        "A picture of a film with sound.",
        "The caller is\n    told nothing.",
        "the name is no\n  text",
    ],
)
def test_a_banned_word_is_found(text: str) -> None:
    assert list(_findings(text))


@pytest.mark.parametrize(
    "text", ["`picture_tag` writes `<picture class='x'>`.", "Recommended amendments.", "The statement is tested."]
)
def test_a_proper_use_is_allowed(text: str) -> None:
    assert list(_findings(text)) == []
