"""Makes the long description of the package from README.md, with links that work on a package index.

An index shows the README without the repository, so its relative links lead nowhere. The build replaces them by
addresses in the repository, at the tag of the release: ``Repository`` of ``[project.urls]``. While no such address is
known, a link becomes its text alone and an image is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

#: Blocks of code, which stay as they are, except for diagrams, which an index does not draw.
_CODE = re.compile(r"^```(?P<language>\w*).*?^```\n?", re.DOTALL | re.MULTILINE)
_DIAGRAM = "docs/diagrams/flow.svg"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def long_description(readme: str, *, version: str, repository: str | None) -> str:
    """Return ``readme`` for readers outside of the repository.

    Args:
        readme: Markdown with links relative to the root of the repository.
        version: of the release; its tag is ``v`` and the version.
        repository: address of the public repository, or ``None``.
    """
    pieces: list[str] = []
    end = 0
    for block in _CODE.finditer(readme):
        pieces.append(_linked(readme[end : block.start()], version, repository))
        if block["language"] == "mermaid":
            pieces.append(_linked(f"![How an upload travels]({_DIAGRAM})\n", version, repository))
        else:
            pieces.append(block[0])
        end = block.end()
    pieces.append(_linked(readme[end:], version, repository))
    return "".join(pieces)


def _linked(prose: str, version: str, repository: str | None) -> str:
    def replaced(found: re.Match[str]) -> str:
        target = found["target"]
        if target.startswith(("https://", "http://", "mailto:")):
            return found[0]
        if repository is None:
            return "" if found["image"] else found["text"]
        view = "raw" if found["image"] else "blob"
        return f"{found['image']}[{found['text']}]({repository.rstrip('/')}/{view}/v{version}/{target})"

    return _LINK.sub(replaced, prose)


def get_metadata_hook() -> type[Any]:
    """Return the hook that hatchling calls (``[tool.hatch.metadata.hooks.custom]``)."""
    from hatchling.metadata.plugin.interface import MetadataHookInterface  # only a build has it

    class LongDescription(MetadataHookInterface):  # type: ignore[misc]
        def update(self, metadata: dict[str, Any]) -> None:
            readme = (Path(self.root) / "README.md").read_text()
            repository = metadata.get("urls", {}).get("Repository")
            text = long_description(readme, version=metadata["version"], repository=repository)
            metadata["readme"] = {"content-type": "text/markdown", "text": text}

    return LongDescription
