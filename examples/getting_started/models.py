"""The application's own table; Rindle's tables are in the same database."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The application's metadata; Rindle keeps its own."""


class Member(Base):
    """A member with a photo."""

    __tablename__ = "members"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
