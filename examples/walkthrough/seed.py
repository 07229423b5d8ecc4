"""Adds three members, once: ``python seed.py``."""

from __future__ import annotations

import asyncio

from media import engine, sessions
from models import Member


async def main() -> None:
    """Add the members that are missing."""
    async with sessions.begin() as session:
        for number, (name, is_staff) in enumerate([("Alice", False), ("Bob", False), ("Reception", True)], start=1):
            if await session.get(Member, number) is None:
                session.add(Member(id=number, name=name, is_staff=is_staff))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
