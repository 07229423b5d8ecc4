"""The reader's application, for the blocks of the pages that type checkers read (``docs/typed.py``); never run.

It defines what the pages use without showing it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Session
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from rindle import MediaAsset, MediaAttachment, Profile, Rindle, Settings
from rindle import MediaAsset as Asset
from rindle.erasure.reports import OwnerErasureReport
from rindle.errors import StateConflict
from rindle.http import create_asgi_app
from rindle.presets import MuxWeb, Web
from rindle.protocols import Storage
from rindle.storage.memory import MemoryStorage

__all__ = [
    "LEGAL_TEAM",
    "Asset",
    "AsyncEngine",
    "AsyncSession",
    "AudioLesson",
    "Avatar",
    "Base",
    "Lesson",
    "MediaAsset",
    "MediaAttachment",
    "Member",
    "MemberPhoto",
    "Mount",
    "MuxWeb",
    "Profile",
    "Request",
    "Response",
    "Rindle",
    "Sequence",
    "Session",
    "SqliteStorage",
    "Starlette",
    "StateConflict",
    "TeamAuthorizer",
    "Web",
    "actor_of",
    "app",
    "asset",
    "asset_id",
    "check_token",
    "connection",
    "create_asgi_app",
    "db",
    "engine",
    "lifespan",
    "media",
    "member",
    "owners",
    "report",
    "require_member",
    "rindle",
    "session_id",
    "settings",
    "storages",
    "sync_engine",
    "token",
    "user",
]


class Base(DeclarativeBase):
    """The application's metadata."""


class Avatar(Profile):
    """A profile."""

    name = "avatar"
    storage = "media"
    variants = {}


class MemberPhoto(Avatar):
    """A profile."""

    name = "photo"


class Lesson(Web):
    """A profile of a video."""

    name = "lesson"
    storage = "media"


class AudioLesson(Avatar):
    """A profile of audio."""

    name = "audio_lesson"


class Member:
    """A mapped class."""

    id: int


class TeamAuthorizer:
    """An authorizer, as in ``examples/extending``."""

    def __init__(self, *teams: object) -> None:
        self.teams = teams

    def authorize(self, actor: Any, action: str, subject: Any) -> bool:
        """Decide about a call."""
        return bool(self.teams)


class SqliteStorage(MemoryStorage):
    """A store, as in ``examples/extending``."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path


def actor_of(request: Request) -> str | None:
    """Return the caller."""
    return request.headers.get("X-User")


def require_member(request: Request, handle: str) -> str:
    """Return the caller, who must be the member."""
    return handle


def check_token(request: Request, token: str | None) -> None:
    """Check the token of a form."""


def lifespan(app: Starlette) -> AbstractAsyncContextManager[Mapping[str, Any]]:
    """Run the application's parts while it runs."""
    raise NotImplementedError


LEGAL_TEAM: frozenset[str]
app: FastAPI
asset: Asset
asset_id: str
connection: Connection
db: AsyncSession
engine: AsyncEngine
media: ASGIApp
member: Member
owners: list[Member | tuple[str, str]]
report: OwnerErasureReport
rindle: Rindle
session_id: str
settings: Settings
storages: Mapping[str, Storage]
sync_engine: Engine
token: str
user: str
