"""The application's own table; Rindle's stand beside it in the same database."""

from __future__ import annotations

from sqlalchemy import String, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rindle.db.migrate import async_upgrade
from rindle.sqlite import WRITE_OPTION


class Base(DeclarativeBase):
    """Metadata of the application; Rindle keeps its own."""


class Member(Base):
    """Somebody in the cohort."""

    __tablename__ = "cohort_members"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: Name in addresses, and the actor Rindle records.
    handle: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    role: Mapped[str] = mapped_column(String(80))
    about: Mapped[str] = mapped_column(String(400))

    @property
    def initials(self) -> str:
        """What stands where no photo is."""
        return "".join(part[0] for part in self.name.split()[:2])


#: Who is there from the beginning; handles are for ever.
MEMBERS = (
    (
        "alice",
        "Alice Okafor",
        "Marine geologist",
        "Maps the sea floor off Lagos and is here to turn eleven years of dive photographs into a searchable atlas.",
    ),
    (
        "bob",
        "Bob Lindqvist",
        "Radio producer",
        "Makes a weekly programme about bridges. Wants to learn enough to stop asking others for charts.",
    ),
    (
        "chidi",
        "Chidi Anand",
        "Hospital pharmacist",
        "Keeps forty thousand boxes in order and believes most software problems are labelling problems.",
    ),
    (
        "daria",
        "Daria Wolska",
        "Bookbinder",
        "Restores ledgers. Came for the statistics, stayed for the people who bring cake on Thursdays.",
    ),
    (
        "emeka",
        "Emeka Ruiz",
        "Tram driver",
        "Line 4, early shift. Is writing a timetable that admits how long a city really takes.",
    ),
    (
        "fumiko",
        "Fumiko Hart",
        "Beekeeper",
        "Eighty hives and a spreadsheet that has outgrown everybody who ever touched it.",
    ),
)


async def prepare(engine: AsyncEngine) -> None:
    """Bring the database up to date: Rindle's tables by its migrations, ours and their rows if they are missing.

    Safe to run by several processes at once and again.
    """
    await async_upgrade(engine)
    # The write lock from the start: two processes that look first and insert then would insert twice.
    writing = engine.execution_options(**{WRITE_OPTION: True})
    async with writing.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(writing) as session, session.begin():
        known = set(await session.scalars(select(Member.handle)))
        session.add_all(
            Member(handle=handle, name=name, role=role, about=about)
            for handle, name, role, about in MEMBERS
            if handle not in known
        )
