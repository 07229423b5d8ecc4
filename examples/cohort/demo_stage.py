"""What the chapters of the demo share: a browser over real HTTP, checks that are shown as they pass, steps."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from examples.cohort import demo_files

DEMO = Path("var/demo").resolve()
HOME = DEMO / "home"
MEMBER = "alice"
#: The member's course.
COURSE = "sea-floor"
#: Seconds after which the demo gives up waiting for something.
PATIENCE_SECONDS = 60.0
#: Seconds between two looks at a state, and between those that must not miss a short one.
LOOK_SECONDS, CLOSE_LOOK_SECONDS = 0.1, 0.005

AT_REST = frozenset({"ready", "degraded", "quarantined"})
#: Into a pipe or a CI log the tables get the room they need.
console = Console(width=None if sys.stdout.isatty() else 130)


class CheckFailed(Exception):
    """A check failed; the message names it."""


@dataclass
class Sent:
    """One file the demo sent, and what became of it."""

    name: str
    body: bytes = field(repr=False)
    what: str
    asset_id: str = ""
    state: str = ""
    reason: str | None = None
    end: str = ""
    variants: list[dict[str, Any]] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    original: dict[str, Any] | None = None
    place: tuple[float, float] | None = None


class Checks:
    """What has been looked at and found right."""

    def __init__(self) -> None:
        self.passed: list[str] = []

    def that(self, holds: object, claim: str) -> None:
        """Note ``claim``.

        Raises:
            CheckFailed: it does not hold.
        """
        if not holds:
            raise CheckFailed(claim)
        self.passed.append(claim)
        console.print(f"  [green]✓[/] {claim}")


class Browser:
    """A member at the site: the calls ``rindle.js`` makes, over real HTTP."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30, headers={"Accept": "application/json"}, trust_env=False)
        self._token = self._read_token("/")
        self.post("/session", data={"actor": MEMBER, "form_token": self._token})
        self._token = self._read_token(f"/members/{MEMBER}")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _read_token(self, path: str) -> str:
        found = re.search(r'name="form_token" value="([^"]+)"', self.get(path).text)
        if found is None:
            raise CheckFailed("the site's pages carry a form token")
        return found[1]

    def get(self, address: str) -> httpx.Response:
        """Fetch an address of the site or of a photo."""
        return self._http.get(address)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Call the site.

        Raises:
            CheckFailed: it refused.
        """
        headers = {} if path == "/session" else {"X-Form-Token": self._token}
        answer = self._http.post(path, headers=headers, **options)
        if answer.is_error:
            raise CheckFailed(f"POST {path} is accepted (it answered {answer.status_code}: {answer.text[:200]})")
        return answer

    def put(self, url: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """Send bytes to an address outside the site."""
        return self._http.put(url, content=body, headers=headers)

    def delete(self, path: str) -> httpx.Response:
        """Call the site to delete something."""
        return self._http.delete(path, headers={"X-Form-Token": self._token})

    def tus(self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> httpx.Response:
        """Send a request of the tus protocol."""
        return self._http.request(method, url, headers={"Tus-Resumable": "1.0.0", **(headers or {})}, **options)

    def digest_of(self, asset_id: str) -> str:
        """Fetch an original by its address, piece by piece, and return its SHA-256."""
        address = self.get(f"/media/assets/{asset_id}/url").raise_for_status().json()["url"]
        digest = hashlib.sha256()
        with self._http.stream("GET", address) as answer:
            answer.raise_for_status()
            for piece in answer.iter_bytes():
                digest.update(piece)
        return digest.hexdigest()

    def upload(self, sent: Sent, profile: str = "avatar", content_type: str = "image/jpeg") -> None:
        """Get a ticket, put the bytes into the store with exactly its headers, and have them verified."""
        body = {"profile": profile, "filename": sent.name, "size": len(sent.body), "content_type": content_type}
        ticket = self.post("/media/uploads", json=body).json()
        grant = ticket["upload"]
        put = self._http.request(grant["method"], grant["url"], headers=grant["headers"], content=sent.body)
        if put.is_error:
            raise CheckFailed(f"the store takes {sent.name} (it answered {put.status_code})")
        sent.asset_id = self.post(f"/media/uploads/{ticket['session']['id']}/verify").json()["asset"]["id"]

    def asset(self, asset_id: str) -> dict[str, Any]:
        """Return an asset and its variants as the site's script sees them."""
        asset: dict[str, Any] = self.get(f"/media/assets/{asset_id}").json()["asset"]
        return asset

    def events(self, asset_id: str, scope: str = "asset") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield type and payload of an asset's events as they come, its state first (``snapshot``).

        Args:
            scope: ``asset``, or ``provider_asset`` for what happens at its streaming provider.

        Raises:
            CheckFailed: the site refuses the stream.
        """
        query = {"scope": scope, "id": asset_id, "snapshot": "1", "until": "terminal"}
        with self._http.stream("GET", "/media/events", params=query, timeout=PATIENCE_SECONDS) as answer:
            if answer.is_error:
                raise CheckFailed(f"the site sends the events of an asset (it answered {answer.status_code})")
            kind = ""
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)

    def settled(self, asset_id: str, seen: Callable[[dict[str, Any]], None] = lambda asset: None) -> dict[str, Any]:
        """Wait until an asset has come to rest, showing each look to ``seen``.

        Raises:
            CheckFailed: it does not within a minute.
        """
        for _ in looks(LOOK_SECONDS):
            asset = self.asset(asset_id)
            seen(asset)
            if asset["state"] in AT_REST:
                return asset
        raise CheckFailed(f"asset {asset_id} comes to rest within {PATIENCE_SECONDS:.0f} s")

    def wear(self, asset_id: str) -> None:
        """Make an asset the member's photo."""
        self.post(f"/members/{MEMBER}/avatar", data={"asset_id": asset_id})


def looks(pause_seconds: float) -> Iterator[None]:
    """Yield now and after each pause, until patience is at its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(pause_seconds)


@contextmanager
def step(title: str) -> Iterator[Any]:
    """Show what is being done, with a spinner while it lasts on a terminal."""
    console.print(f"\n[bold]{title}[/]")
    with console.status("…", spinner="dots") as status:
        yield status


def fetch(browser: Browser, asset_id: str, variant: str | None) -> httpx.Response:
    """Ask for the address of an original or variant and fetch it."""
    query = "" if variant is None else f"?variant={variant}"
    answer = browser.get(f"/media/assets/{asset_id}/url{query}")
    if answer.is_error:
        raise CheckFailed(f"{variant or 'the original'} has an address (the site answered {answer.status_code})")
    return browser.get(answer.json()["url"]).raise_for_status()


def fetch_variants(browser: Browser, asset_id: str) -> list[dict[str, Any]]:
    """Return the variants of an asset with what their addresses answered."""
    variants = browser.asset(asset_id)["variants"]
    return [variant | answered(fetch(browser, asset_id, variant["name"])) for variant in variants]


def answered(answer: httpx.Response) -> dict[str, Any]:
    """Return what an address answered, as the tables show it."""
    return {
        "body": answer.content,
        "served_as": answer.headers["content-type"],
        "status": answer.status_code,
        # A signed address is a credential: not shown whole.
        "address": f"/media/local/…{answer.url.path[-8:]}",
        "place": demo_files.place_in(answer.content),
    }


def seconds(begin: datetime, end: datetime) -> str:
    """Return how long something took."""
    return f"{(end - begin).total_seconds():.1f} s"
