"""The documentation says what the code does: generated parts, names, variables, links."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rindle
from rindle import workflows
from rindle.crash_points import CRASH_POINTS
from rindle.errors import CODES
from rindle.states import AssetState, SessionState, VariantState
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXT = "\n".join(page.read_text() for page in PAGES)

#: Switches of the test suite, of no use to anybody else.
OF_TESTS = {"RINDLE_CRASH_AT", "RINDLE_CRASH_LOG", "RINDLE_CRASH_SIGNAL"}


def test_what_is_generated_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_have_generated_parts() -> None:
    """A mark that is misspelt would silently generate nothing."""
    marks = re.findall(r"<!-- (generated|code): (\S+) -->", TEXT)

    assert TEXT.count("<!-- end -->") == len(marks)
    assert len([name for kind, name in marks if kind == "generated"]) >= 25
    from docs.generate import BLOCKS

    assert {name for kind, name in marks if kind == "generated"} == set(BLOCKS)


@pytest.mark.parametrize("name", rindle.__all__)
def test_every_public_name_is_mentioned(name: str) -> None:
    assert re.search(rf"\b{name}\b" if name != "__version__" else name, TEXT)


def test_every_state_code_and_workflow_is_mentioned() -> None:
    states = {state.value for kind in (AssetState, VariantState, SessionState) for state in kind}
    types = {f"rindle.{cls.__name__}" for cls in workflows.ALL}

    assert {word for word in states | set(CODES) | types if f"`{word}`" not in TEXT} == set()


def test_every_variable_that_is_read_is_in_the_settings() -> None:
    read = {
        name
        for path in (ROOT / "rindle").rglob("*.py")
        for name in re.findall(r"\"(RINDLE_[A-Z_]+)\"", path.read_text())
    }
    told = (DOCS / "reference" / "settings.md").read_text()

    assert {name for name in read - OF_TESTS if f"`{name}`" not in told} == set()
    assert CRASH_POINTS  # what OF_TESTS is about


def test_no_page_names_a_place_of_this_machine() -> None:
    assert not re.search(re.escape(str(ROOT)) + r"|/home/|/Users/", TEXT)


# --- links --------------------------------------------------------------------------------------------------------


def _links(page: Path) -> Iterator[str]:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`]*`", "code", prose)
    yield from re.findall(r"\]\(([^)\s]+)\)", prose)


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for link in _links(page):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        found = page if not target else (page.parent / target).resolve()
        # Measured by `make bench`, which writes it.
        assert found.is_file() or found.name == "performance.md", f"{link} leads nowhere"
        if anchor:
            assert anchor in _anchors(found), f"{link} has no such heading"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()

    assert [page.name for page in PAGES if str(page.relative_to(DOCS)) not in navigation] == []


def test_the_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Readers' browsers ask nobody but the site: no fonts, scripts or pictures of others."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr

    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"?(https?:[^\" >]+)", page.read_text()
        )
        assert loaded == [], page.name
