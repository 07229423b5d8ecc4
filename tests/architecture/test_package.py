"""The built package: what its page on a package index shows, and that the wheel is complete."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path

import pytest

from hatch_build import long_description
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
REPOSITORY = "https://example.com/rindle"


def _targets(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built by the build backend itself."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", directory]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    (built,) = directory.glob("*.whl")
    return built


def test_the_readme_links_to_files_of_the_repository() -> None:
    relative = [target for target in _targets(README) if not target.startswith("https://")]

    assert len(relative) >= 4
    assert [target for target in relative if not (ROOT / target).exists()] == []


def test_the_page_of_the_package_has_no_relative_link(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = BytesParser(_class=EmailMessage, policy=default).parsebytes(opened.read(name))
    description = metadata.get_payload()

    assert metadata["Description-Content-Type"].startswith("text/markdown")
    assert "Everything after the upload button" in description
    assert [target for target in _targets(description) if not target.startswith("https://")] == []
    assert "```mermaid" not in description


def test_the_wheel_has_everything_that_is_no_code(wheel: Path) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rindle").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as opened:
        packed = set(opened.namelist())

    assert {name for name in files if "__pycache__" not in name} - packed == set()
    assert {name for name in packed if not name.startswith(("rindle/", "rindle-"))} == set()


def test_with_an_address_of_the_repository_the_links_lead_there() -> None:
    made = long_description(README, version="1.2.3", repository=REPOSITORY + "/")

    assert f"]({REPOSITORY}/blob/v1.2.3/docs/index.md)" in made
    assert f"![How an upload travels]({REPOSITORY}/raw/v1.2.3/docs/diagrams/flow.svg)" in made
    assert len(_targets(made)) == len(_targets(README)) + 1


def test_without_one_they_are_text() -> None:
    made = long_description(
        "See [the guide](docs/index.md) and [Temporal](https://temporal.io).\n\n![A page](docs/assets/page.png)\n"
        "```python\nfound[0](path)\n```\n",
        version="1.2.3",
        repository=None,
    )

    assert made == "See the guide and [Temporal](https://temporal.io).\n\n\n```python\nfound[0](path)\n```\n"
