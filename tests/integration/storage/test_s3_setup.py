"""What the doctor finds of a bucket: signing key, clock, permissions, CORS and lifecycle rules, and what is hidden."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from rindle import Rindle
from rindle.errors import StorageMisconfigured, StorageUnauthorized
from rindle.protocols import SetupFinding
from rindle.storage.s3 import S3Storage
from tests.patience import PATIENCE_SECONDS
from tests.scripted_server import Reply, ScriptedServer, scripted_server
from tests.servers.minio import MinioServer

CORS = (
    "<CORSRule><AllowedOrigin>https://example.com</AllowedOrigin><AllowedMethod>PUT</AllowedMethod>"
    "<AllowedHeader>Content-Type</AllowedHeader><AllowedHeader>if-*</AllowedHeader></CORSRule>"
)
UNFINISHED = (
    "<AbortIncompleteMultipartUpload><DaysAfterInitiation>8</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
)
BY_AGE = "<Expiration><Days>30</Days></Expiration>"
UPLOADS = Reply(200, {}, b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>")


def head(*, ahead: timedelta = timedelta()) -> Reply:
    """The answer of a store whose clock is ``ahead``."""
    return Reply(200, {"Date": format_datetime(datetime.now(UTC) + ahead, usegmt=True)})


def refusal(status: int, code: str) -> Reply:
    return Reply(status, {}, f"<Error><Code>{code}</Code></Error>".encode())


def cors(*rules: str) -> Reply:
    return Reply(200, {}, f"<CORSConfiguration>{''.join(rules)}</CORSConfiguration>".encode())


def rule(content: str, *, where: str = "<Filter/>", status: str = "Enabled") -> str:
    return f"<Rule><Status>{status}</Status>{where}{content}</Rule>"


def below(prefix: str) -> str:
    return f"<Filter><Prefix>{prefix}</Prefix></Filter>"


def lifecycle(*rules: str) -> Reply:
    return Reply(200, {}, f"<LifecycleConfiguration>{''.join(rules)}</LifecycleConfiguration>".encode())


@pytest.fixture
def amazon() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


def make(amazon: ScriptedServer, **options: Any) -> S3Storage:
    keys = {"access_key_id": "key", "secret_access_key": "canary"}
    return S3Storage("media", endpoint_url=amazon.address, max_attempts=1, **{**keys, **options})


@pytest.fixture
async def storage(amazon: ScriptedServer) -> AsyncIterator[S3Storage]:
    made = make(amazon)
    yield made
    await made.close()


async def wrong(storage: S3Storage) -> list[tuple[str, str]]:
    found = await storage.check()
    assert all(one.fix for one in found if one.level in ("error", "warn"))
    return [(one.level, one.summary) for one in found if one.level != "ok"]


async def test_a_bucket_that_is_set_up_has_no_faults(amazon: ScriptedServer, storage: S3Storage) -> None:
    amazon.script(
        head(),
        UPLOADS,
        cors(CORS),
        lifecycle(
            rule(UNFINISHED),
            rule(BY_AGE, where=below(".rindle/tus/")),
            rule(BY_AGE, status="Disabled"),
            rule(BY_AGE, where="<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>"),
            rule("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"),
            rule("<NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays></NoncurrentVersionExpiration>"),
        ),
    )

    found = await storage.check()

    assert [one.level for one in found] == ["ok"] * 6
    assert [(one.method, *sorted(one.query)) for one in amazon.asked] == [
        ("HEAD",),
        ("GET", "max-uploads", "prefix", "uploads"),
        ("GET", "cors"),
        ("GET", "lifecycle"),
    ]


@pytest.mark.parametrize(
    ("answers", "summary"),
    [
        ((refusal(404, "NoSuchCORSConfiguration"), None), "no CORS rule allows PUT, so browsers cannot upload"),
        ((cors(CORS.replace("PUT", "GET")), None), "no CORS rule allows PUT, so browsers cannot upload"),
        (
            (cors(CORS.replace("if-*", "x-*")), None),
            "the CORS rule for PUT lacks the headers if-none-match, so browsers cannot upload",
        ),
        (
            (None, refusal(404, "NoSuchLifecycleConfiguration")),
            "no lifecycle rule removes unfinished uploads, which a process that is killed leaves behind",
        ),
        (
            (None, lifecycle(rule(UNFINISHED.replace("8", "2")))),
            "a lifecycle rule removes unfinished uploads after 2 days, and they may take 7",
        ),
        (
            (None, lifecycle(rule(UNFINISHED), rule(BY_AGE))),
            "a lifecycle rule deletes objects that assets still need",
        ),
        (
            (None, lifecycle(rule(UNFINISHED), rule(BY_AGE, where="<Prefix></Prefix>"))),
            "a lifecycle rule deletes objects that assets still need",
        ),
    ],
)
async def test_a_missing_or_harmful_rule_is_a_warning(
    amazon: ScriptedServer, storage: S3Storage, answers: tuple[Reply | None, Reply | None], summary: str
) -> None:
    amazon.script(head(), UPLOADS, answers[0] or cors(CORS), answers[1] or lifecycle(rule(UNFINISHED)))

    assert await wrong(storage) == [("warn", summary)]


@pytest.mark.parametrize(("prefix", "harms"), [("tenant/", True), ("tenant/media/a", True), ("other/", False)])
async def test_a_lifecycle_rule_is_compared_with_the_key_prefix(
    amazon: ScriptedServer, prefix: str, harms: bool
) -> None:
    storage = make(amazon, key_prefix="tenant/media")
    both = f"<Filter><And><Prefix>{prefix}</Prefix><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan></And></Filter>"
    amazon.script(head(), UPLOADS, cors(CORS), lifecycle(rule(UNFINISHED), rule(BY_AGE, where=both)))

    assert bool(await wrong(storage)) is harms
    await storage.close()


@pytest.mark.parametrize(("hours", "word"), [(1, "behind"), (-1, "ahead of")])
async def test_a_wrong_clock_is_an_error(amazon: ScriptedServer, storage: S3Storage, hours: int, word: str) -> None:
    amazon.script(head(ahead=timedelta(hours=hours)), UPLOADS, cors(CORS), lifecycle(rule(UNFINISHED)))

    [(level, summary)] = await wrong(storage)

    assert level == "error"
    assert f"s {word} that of the store" in summary


async def test_a_missing_permission_is_an_error_and_hidden_rules_are_left_out(
    amazon: ScriptedServer, storage: S3Storage
) -> None:
    amazon.script(head(), *(refusal(403, "AccessDenied") for _ in range(3)))

    found = await wrong(storage)

    assert [level for level, _ in found] == ["error", "skipped", "skipped"]
    assert "may not list unfinished uploads" in found[0][1]
    assert "s3:GetBucketCORS" in found[1][1]
    assert "s3:GetLifecycleConfiguration" in found[2][1]


async def test_a_store_without_such_rules_has_nothing_to_set_up(amazon: ScriptedServer, storage: S3Storage) -> None:
    amazon.script(head(), UPLOADS, refusal(501, "NotImplemented"), refusal(405, "MethodNotAllowed"))

    assert [level for level, _ in await wrong(storage)] == ["skipped", "skipped"]


@pytest.mark.parametrize(("status", "error"), [(404, StorageMisconfigured), (403, StorageUnauthorized)])
async def test_a_bucket_that_cannot_be_used_raises(
    amazon: ScriptedServer, storage: S3Storage, status: int, error: type[Exception]
) -> None:
    amazon.script(Reply(status))

    with pytest.raises(error):
        await storage.check()


async def test_the_doctor_names_what_to_repair(amazon: ScriptedServer, tmp_path: Path) -> None:
    storage = make(amazon)
    amazon.script(head(), UPLOADS, cors(), lifecycle())
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/doctor.db")
    rindle = Rindle(engine=engine, storages={"media": storage}, profiles=[])
    try:
        [found] = (await rindle.doctor(only=["storage.media.setup"], timeout=PATIENCE_SECONDS)).checks
    finally:
        await rindle.close()
        await engine.dispose()

    assert (found.status, "docs/storage.md" in str(found.fix)) == ("warn", True)
    assert found.summary == (
        "no CORS rule allows PUT, so browsers cannot upload; "
        "no lifecycle rule removes unfinished uploads, which a process that is killed leaves behind"
    )
    assert "canary" not in str(found)


@pytest.mark.external
async def test_minio_is_checked_as_far_as_it_shows_its_rules(minio: MinioServer) -> None:
    bucket = minio.new_bucket()
    storage = S3Storage(
        bucket,
        endpoint_url=minio.endpoint_url,
        access_key_id=minio.access_key,
        secret_access_key=minio.secret_key,
    )

    def levels(found: list[SetupFinding]) -> dict[str, str]:
        return {one.summary.split(" ", 1)[0]: one.level for one in found}

    bare = await storage.check()
    with minio.client() as client:
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket,
            LifecycleConfiguration={
                "Rules": [{"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}]
            },
        )
    harmful = await storage.check()
    await storage.close()

    assert {one.level for one in bare[:3]} == {"ok"}
    assert not any(one.level == "error" for one in bare)
    assert "a lifecycle rule deletes objects that assets still need" in [one.summary for one in harmful]
