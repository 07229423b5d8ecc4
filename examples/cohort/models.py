"""The application's own tables; Rindle's stand beside them in the same database."""

from __future__ import annotations

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

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


class Course(Base):
    """A member's course; its lesson is a video or a recording."""

    __tablename__ = "cohort_courses"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: Name in addresses.
    slug: Mapped[str] = mapped_column(String(32), unique=True)
    title: Mapped[str] = mapped_column(String(80))
    about: Mapped[str] = mapped_column(String(400))
    #: ``video`` or ``audio``.
    kind: Mapped[str] = mapped_column(String(8))
    teacher_id: Mapped[int] = mapped_column(ForeignKey(Member.id))

    teacher: Mapped[Member] = relationship(lazy="joined")


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

#: What is taught from the beginning: slug, teacher, kind, title, about.
COURSES = (
    (
        "sea-floor",
        "alice",
        "video",
        "Reading the sea floor",
        "Three dives off Lagos, one torch, and how to tell a fault line from a shadow.",
    ),
    (
        "bridges",
        "bob",
        "audio",
        "What a bridge sounds like",
        "Headphones on: twelve bridges, from the one that hums to the one that was closed for it.",
    ),
    (
        "stitching",
        "daria",
        "video",
        "A ledger, sewn again",
        "Forty sheets, five stations, one linen thread. Filmed from above, so that your hands can follow mine.",
    ),
    (
        "june",
        "fumiko",
        "audio",
        "A hive in June",
        "What eighty thousand bees say before they swarm, and what to have ready when they do.",
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
        members = {member.handle: member for member in await session.scalars(select(Member))}
        for handle, name, role, about in MEMBERS:
            if handle not in members:
                session.add(members.setdefault(handle, Member(handle=handle, name=name, role=role, about=about)))
        known = set(await session.scalars(select(Course.slug)))
        session.add_all(
            Course(slug=slug, teacher=members[handle], kind=kind, title=title, about=about)
            for slug, handle, kind, title, about in COURSES
            if slug not in known
        )
