"""The obvious pipeline: Celery and Redis over the same Postgres, with the same steps in the same order.

One task per upload: sniff the bytes, record the type, read the size, build both variants, store them, record each. The
state columns move as ours do, so that a page could show progress; what it does not have is everything that happens
when a step dies halfway. Nothing is slowed down: plain psycopg instead of an ORM, one connection per process, no
results backend, no fsync. ``PEER_ENGINE`` names the module that opens the images: ``celery_pillow`` or ``celery_vips``.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import magic
import psycopg
from celery import Celery

SCHEMA = """
CREATE TABLE peer_assets (
    id text PRIMARY KEY, state text NOT NULL, key text NOT NULL UNIQUE, mime text, width int, height int,
    updated_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON peer_assets (state);
CREATE TABLE peer_variants (
    asset_id text NOT NULL REFERENCES peer_assets, name text NOT NULL, state text NOT NULL, key text,
    width int, height int, byte_size bigint, updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (asset_id, name));
"""

SIDES = {"large": 1024, "thumb": 128}

app = Celery("peer", broker=os.environ.get("PEER_BROKER", "redis://127.0.0.1:6379/0"))
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,  # a worker that dies must not lose the upload
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@cache
def _connection() -> psycopg.Connection[Any]:
    return psycopg.connect(os.environ["PEER_DATABASE"], autocommit=True)


@cache
def _engine() -> Any:
    # In the forked process: the threads of libvips do not survive a fork.
    return importlib.import_module(f"benchmarks.peers.{os.environ['PEER_ENGINE']}")


@app.task(name="peer.process")
def process(asset_id: str) -> None:
    """Take one stored upload to ``ready``."""
    connection = _connection()
    media = Path(os.environ["PEER_MEDIA"])
    found = connection.execute(
        "UPDATE peer_assets SET state = 'analyzing', updated_at = now() WHERE id = %s RETURNING key", [asset_id]
    ).fetchone()
    assert found is not None
    source = media / found[0]
    with source.open("rb") as file:
        mime = magic.from_buffer(file.read(8192), mime=True)
    if mime != "image/jpeg":
        connection.execute("UPDATE peer_assets SET state = 'quarantined' WHERE id = %s", [asset_id])
        return
    width, height = _engine().size(source)
    with connection.transaction():
        connection.execute(
            "UPDATE peer_assets SET state = 'processing', mime = %s, width = %s, height = %s, updated_at = now()"
            " WHERE id = %s",
            [mime, width, height, asset_id],
        )
        for name in SIDES:
            connection.execute(
                "INSERT INTO peer_variants (asset_id, name, state) VALUES (%s, %s, 'processing')", [asset_id, name]
            )
    keys = {name: f"{asset_id}/{name}.jpg" for name in SIDES}
    drafts = {name: (media / key).with_suffix(".part") for name, key in keys.items()}
    (media / asset_id).mkdir(exist_ok=True)
    for name, made in _engine().render(source, {drafts[name]: (name, side) for name, side in SIDES.items()}):
        target = media / keys[name]
        drafts[name].replace(target)
        connection.execute(
            "UPDATE peer_variants SET state = 'ready', key = %s, width = %s, height = %s, byte_size = %s,"
            " updated_at = now() WHERE asset_id = %s AND name = %s",
            [keys[name], *made, target.stat().st_size, asset_id, name],
        )
    connection.execute("UPDATE peer_assets SET state = 'ready', updated_at = now() WHERE id = %s", [asset_id])
