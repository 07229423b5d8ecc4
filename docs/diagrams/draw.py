"""Draws the diagrams: ``python docs/diagrams/draw.py path/to/mermaid.min.js`` from the repository's root.

Mermaid comes from its npm package (``npm pack mermaid@11``, then ``package/dist/mermaid.min.js``). It runs here, in the
browser the tests use, and not in the reader's: the pages load no script from anywhere. Needed only when a state table
has changed, which ``python -m docs.generate`` says.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from playwright.async_api import async_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from docs.generate import DOCS, digest  # noqa: E402 - found through the line above
from tests.servers import chromium  # noqa: E402 - likewise

_DRAW = """async text => {
    mermaid.initialize({
        startOnLoad: false, deterministicIds: true, theme: "neutral", fontFamily: "sans-serif",
        htmlLabels: false, flowchart: {htmlLabels: false},
    });
    const {svg} = await mermaid.render("drawing", text);
    const drawing = new DOMParser().parseFromString(svg, "text/html").querySelector("svg");
    const [, , width, height] = drawing.getAttribute("viewBox").split(" ").map(Number);
    drawing.setAttribute("width", Math.ceil(width));
    drawing.setAttribute("height", Math.ceil(height));
    drawing.removeAttribute("style");
    return new XMLSerializer().serializeToString(drawing);  // an image has to be XML
}"""


async def draw(mermaid: str) -> None:
    """Write an SVG beside every Mermaid text."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium.program(), args=list(chromium.ARGUMENTS))
        page = await browser.new_page()
        await page.set_content("<div></div>")
        await page.add_script_tag(path=mermaid)
        for source in sorted((DOCS / "diagrams").glob("*.mmd")):
            text = source.read_text()
            drawing: str = await page.evaluate(_DRAW, text)
            source.with_suffix(".svg").write_text(f"<!-- drawn from {digest(text)} -->\n{drawing}\n")
        await browser.close()


if __name__ == "__main__":
    asyncio.run(draw(sys.argv[1]))
