"""The application's own tables; Rindle's tables are in the same database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DateTime
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The application's metadata; Rindle keeps its own."""


class Member(Base):
    """A member of the company."""

    __tablename__ = "members"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    is_staff: Mapped[bool] = mapped_column(default=False)
    #: When the photo of the badge was last replaced.
    badge_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
