"""The production-like stack: what its files promise, read from the files, and its scripts run against real servers."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

from rindle.bootstrap import AV_GRACE_SECONDS, GRACE_SECONDS, queues_of
from rindle.settings import Settings
from rindle.workflows.ids import SEARCH_ATTRIBUTES
from tests.servers.minio import MinioServer
from tests.servers.postgres import USER, PostgresServer
from tests.servers.temporal import TemporalServer, program

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "docker-compose.temporal.yml").read_text()
EXAMPLE = dict(
    line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")
)
#: ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}``.
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::[-?](?P<rest>[^}]*))?\}")
#: Seconds a stopping worker may need on top of its grace period: the SDK's plugins, and time to spare.
PLUGIN_AND_SPARE_SECONDS = 60 + 30
ONE_SHOTS = ("temporal-schema", "temporal-bootstrap", "rindle-bucket", "rindle-migrate")
#: Worker service, the queue it polls, and the seconds its work may take to finish.
WORKERS = {
    "rindle-worker": ("rindle,rindle-maintenance,rindle-provider", GRACE_SECONDS),
    "rindle-worker-av": ("rindle-av", AV_GRACE_SECONDS),
}
SERVERS = ("postgresql", "temporal", "minio")


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(VARIABLE.sub(lambda found: EXAMPLE[found["name"]] or "secret", SOURCE))
    return document


SERVICES: Mapping[str, dict[str, Any]] = compose()["services"]


def seconds(duration: str) -> int:
    minutes, rest = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration).groups(default="0")  # type: ignore[union-attr]
    return int(minutes) * 60 + int(rest)


# --- the file -----------------------------------------------------------------------------------------------------


def test_every_part_of_the_stack_is_there() -> None:
    assert set(SERVICES) == {*ONE_SHOTS, *SERVERS, *WORKERS, "temporal-ui", "prometheus"}


def test_every_variable_is_explained_in_the_example_environment() -> None:
    assert {found["name"] for found in VARIABLE.finditer(SOURCE)} == set(EXAMPLE)


def test_no_secret_has_a_value_in_the_repository() -> None:
    secrets = {name for name in EXAMPLE if name.endswith(("PASSWORD", "SECRETS"))}

    assert len(secrets) == 4
    assert not any(EXAMPLE[name] for name in secrets)
    for found in VARIABLE.finditer(SOURCE):
        if found["name"] in secrets:
            assert found[0].startswith(f"${{{found['name']}:?"), "an empty secret must stop compose"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_images_are_pinned_to_exact_versions(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")

    assert re.search(r"\d+\.\d+|\d{4}-\d{2}-\d{2}", tag), tag
    assert "latest" not in tag


def test_temporal_comes_in_its_present_shape_and_one_version() -> None:
    images = {name: SERVICES[name]["image"] for name in ("temporal-schema", "temporal-bootstrap", "temporal")}

    assert "auto-setup" not in SOURCE
    assert images["temporal"] == "temporalio/server:1.32.2"
    assert images["temporal-schema"] == images["temporal-bootstrap"] == "temporalio/admin-tools:1.32.2"
    assert SERVICES["temporal-ui"]["image"].startswith("temporalio/ui:2.54.")
    assert SERVICES["postgresql"]["image"].startswith("postgres:17")
    assert SERVICES["postgresql"]["image"].endswith("-alpine")


def test_no_obsolete_or_scaling_hostile_keys() -> None:
    assert "version" not in compose()
    assert not [name for name, service in SERVICES.items() if "container_name" in service]


def test_the_database_keeps_its_data_and_publishes_no_port() -> None:
    database = SERVICES["postgresql"]

    assert "ports" not in database
    assert "postgresql:/var/lib/postgresql/data" in database["volumes"]
    assert "postgresql" in compose()["volumes"]


def test_published_ports_are_bound_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published["temporal"] == ["127.0.0.1:7233:7233"]
    assert published["temporal-ui"] == ["127.0.0.1:8080:8080"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_servers_have_health_checks_and_come_back() -> None:
    for name in SERVERS:
        assert SERVICES[name]["healthcheck"]["test"], name
        assert SERVICES[name]["restart"] == "unless-stopped"
    assert "pg_isready" in SERVICES["postgresql"]["healthcheck"]["test"]
    assert SERVICES["temporal"]["healthcheck"]["test"] == ["CMD", "nc", "-z", "localhost", "7233"]


def test_one_shots_run_once_and_gate_what_needs_them() -> None:
    for name in ONE_SHOTS:
        assert SERVICES[name]["restart"] == "no"
    gates = {
        (waiting, name): gate["condition"]
        for waiting, service in SERVICES.items()
        for name, gate in service.get("depends_on", {}).items()
    }
    assert {name for (_, name) in gates} <= {*ONE_SHOTS, *SERVERS}
    for (_, name), condition in gates.items():
        assert condition == ("service_completed_successfully" if name in ONE_SHOTS else "service_healthy")
    assert {("temporal-schema", "postgresql"), ("temporal", "temporal-schema"), ("temporal-bootstrap", "temporal")} <= {
        *gates
    }
    before_work = {"temporal-bootstrap", "rindle-migrate", "rindle-bucket"}
    assert {name for (waiting, name) in gates if waiting == "rindle-worker"} == before_work


def test_temporal_is_configured_for_postgres_metrics_and_real_shards() -> None:
    environment = SERVICES["temporal"]["environment"]

    assert environment["DB"] == "postgres12"
    assert (environment["POSTGRES_SEEDS"], environment["DB_PORT"]) == ("postgresql", "5432")
    assert {"POSTGRES_USER", "POSTGRES_PWD"} <= set(environment)
    assert environment["BIND_ON_IP"] == "0.0.0.0"
    assert int(environment["NUM_HISTORY_SHARDS"]) >= 128
    assert environment["PROMETHEUS_ENDPOINT"] == "0.0.0.0:8000"
    mounted = SERVICES["temporal"]["volumes"][0].split(":")
    inside = environment["DYNAMIC_CONFIG_FILE_PATH"].removeprefix(mounted[1] + "/")
    assert (ROOT / mounted[0] / inside).is_file()


def test_the_ui_reaches_temporal_and_may_have_a_codec() -> None:
    environment = SERVICES["temporal-ui"]["environment"]

    assert environment["TEMPORAL_ADDRESS"] == "temporal:7233"
    assert environment["TEMPORAL_CORS_ORIGINS"] == "http://localhost:8080"
    assert "TEMPORAL_CODEC_ENDPOINT" in environment


def test_dynamic_configuration_holds_what_rindle_relies_on() -> None:
    values = yaml.safe_load((ROOT / "dynamicconfig" / "rindle.yaml").read_text())

    assert values["limit.maxIDLength"] == [{"value": 255}]
    assert values["system.enableActivityEagerExecution"] == [{"value": True}]
    assert values["matching.enableFairness"] == [{"value": True}]
    assert "system.forceSearchAttributesCacheRefreshOnRead" not in values


@pytest.mark.parametrize("name", WORKERS)
def test_workers_may_finish_what_they_run_before_they_are_killed(name: str) -> None:
    worker, (queues, grace_seconds) = SERVICES[name], WORKERS[name]

    assert seconds(worker["stop_grace_period"]) >= grace_seconds + PLUGIN_AND_SPARE_SECONDS
    assert worker["init"] is True, "SIGTERM must reach Python"
    assert worker["command"] == ["python", "worker.py", "--queues", queues]
    assert worker["healthcheck"]["test"]


def test_between_them_the_workers_poll_every_queue() -> None:
    assert {queue for queues, _ in WORKERS.values() for queue in queues.split(",")} == set(queues_of(Settings()))


@pytest.mark.parametrize("name", WORKERS)
def test_workers_are_confined(name: str) -> None:
    worker = SERVICES[name]

    assert worker["read_only"] is True
    assert worker["cap_drop"] == ["ALL"]
    scratch_gib = int(re.search(r"^/scratch:.*\bsize=(\d+)g", worker["tmpfs"][0])[1])  # type: ignore[index]
    assert int(worker["environment"]["RINDLE_SOURCE_CACHE_BYTES"]) <= scratch_gib * 2**30 / 2
    assert worker["environment"]["RINDLE_TMP_DIR"] == "/scratch"
    assert worker["deploy"]["replicas"] >= 1
    assert set(worker["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert re.search(r"^USER [1-9]\d*", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_the_environment_is_one_the_settings_read() -> None:
    given = {name for name in SERVICES["rindle-worker"]["environment"] if name.startswith("RINDLE_")} - {"RINDLE_APP"}

    assert given <= {f"RINDLE_{field.upper()}" for field in Settings.model_fields}


def test_prometheus_is_optional_and_reads_temporal_and_the_workers() -> None:
    jobs = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())["scrape_configs"]

    assert SERVICES["prometheus"]["profiles"] == ["metrics"]
    assert [job["job_name"] for job in jobs] == ["temporal", "rindle"]
    worker_port = SERVICES["rindle-worker"]["environment"]["RINDLE_METRICS_ADDRESS"].rpartition(":")[2]
    assert jobs[1]["dns_sd_configs"][0]["port"] == int(worker_port)


def test_the_file_says_what_it_is_not() -> None:
    assert re.search(r"For production, use Temporal Cloud or Temporal's Helm charts", SOURCE)


def test_mounted_files_exist() -> None:
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", ()) if volume[0] == "."]

    assert mounted
    assert all((ROOT / volume.split(":")[0]).exists() for volume in mounted)


# --- its scripts --------------------------------------------------------------------------------------------------


def run(*command: str | Path, **environment: str) -> None:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


async def test_the_bootstrap_prepares_a_namespace_and_may_run_again(
    temporal_server: TemporalServer, tmp_path: Path
) -> None:
    (tmp_path / "temporal").symlink_to(program())
    for _ in range(2):
        await asyncio.to_thread(
            run,
            *("sh", ROOT / "docker" / "temporal-bootstrap.sh"),
            PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            TEMPORAL_ADDRESS=temporal_server.target,
            TEMPORAL_NAMESPACE="bootstrapped",
        )

    client = temporal_server.client
    listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="bootstrapped"))
    assert {key.name for key in SEARCH_ATTRIBUTES} <= set(listed.custom_attributes)
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="bootstrapped"))
    assert described.config.workflow_execution_retention_ttl.ToTimedelta().days == 7


def test_the_database_script_makes_every_database_with_the_least_rights(postgres_server: PostgresServer) -> None:
    if shutil.which("psql") is None:
        pytest.skip("no psql: it comes with the Postgres client package")
    run(
        *("sh", "-eu", ROOT / "docker" / "postgres-init.sh"),
        PGHOST="127.0.0.1",
        PGPORT=str(postgres_server.port),
        POSTGRES_USER=USER,
        RINDLE_DB_PASSWORD="it's secret",
    )

    with psycopg.connect(postgres_server.url("rindle").replace("+psycopg", "")) as connection:
        owners = connection.execute("SELECT datname, datdba::regrole::text FROM pg_database").fetchall()
    assert {"rindle", "temporal", "temporal_visibility"} <= {name for name, _ in owners}
    assert dict(owners)["rindle"] == "rindle"
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(host="127.0.0.1", port=postgres_server.port, user="rindle", dbname="temporal_visibility")


def test_the_bucket_script_makes_the_bucket_and_may_run_again(minio: MinioServer) -> None:
    for _ in range(2):
        run(
            *(sys.executable, ROOT / "docker" / "make_bucket.py"),
            AWS_ENDPOINT_URL_S3=minio.endpoint_url,
            AWS_DEFAULT_REGION=minio.region,
            AWS_ACCESS_KEY_ID=minio.access_key,
            AWS_SECRET_ACCESS_KEY=minio.secret_key,
            MEDIA_BUCKET="rindle-media",
        )


def test_the_shell_scripts_parse() -> None:
    for script in (ROOT / "docker").glob("*.sh"):
        subprocess.run(["sh", "-n", script], check=True)
