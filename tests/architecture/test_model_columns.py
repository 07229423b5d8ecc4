"""Every column of the public models says what it holds, and when it is ``NULL``."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import inspect

from docs.generate import column_comments, models
from rindle.db.models import TABLES

COLUMNS = [(model, attribute) for model in models() for attribute in inspect(model).column_attrs]


@pytest.mark.parametrize(("model", "attribute"), COLUMNS, ids=[str(attribute) for _, attribute in COLUMNS])
def test_every_column_is_described(model: type[Any], attribute: Any) -> None:
    comment = column_comments(model).get(attribute.key, "")

    assert len(comment.split()) > 3, f"put a comment `#:` above {attribute}: unit, range, who writes it"
    [column] = attribute.columns
    assert not column.nullable or "``NULL``" in comment, f"say when {attribute} is NULL"


def test_every_table_is_described() -> None:
    assert sorted(model.__tablename__ for model in models()) == sorted(TABLES)
