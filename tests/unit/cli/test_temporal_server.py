"""Finding and building the Temporal CLI. Building is tried with a stand-in for Go, which obeys the same variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rindle.cli import temporal_server
from rindle.errors import Misconfigured, SetupIncomplete
from tests.patience import PATIENCE_SECONDS

#: Builds a program that names its modules. Installing takes them from the command, building from go.mod.
GO = """#!/bin/sh
set -eu
say() { printf '#!/bin/sh\\necho %s\\n' "$2" > "$1"; chmod +x "$1"; }
case "$1" in
install)
    echo "$2" >> "$GO_CALLS"
    echo "go: downloading $2" >&2
    test "$GO_STATUS" = 0 || { echo "go: no such module" >&2; exit "$GO_STATUS"; }
    say "$GOBIN/tool" "$2" ;;
mod) echo "module $3" > go.mod ;;
get)
    shift
    echo "$*" >> "$GO_CALLS"
    test "$GO_STATUS" = 0 || { echo "go: no such module" >&2; exit "$GO_STATUS"; }
    echo "$*" >> go.mod ;;
build) say "$3" "$4 $(tail -n 1 go.mod)" ;;
esac
"""

#: What the lines of progress say of it.
A_TOOL = {"purpose": "a tool of the tests", "takes": "a while"}


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty PATH, but for the shell's own programs, and an empty cache."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(temporal_server.CLI_VARIABLE, raising=False)
    (tmp_path / "path").mkdir()
    return tmp_path


@pytest.fixture
def go(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same machine with Go; returns the file in which every call leaves a line."""
    program(machine / "path" / "go", GO)
    monkeypatch.setenv("PATH", f"{machine / 'path'}{os.pathsep}{os.defpath}")
    monkeypatch.setenv("GO_CALLS", str(machine / "calls"))
    monkeypatch.setenv("GO_STATUS", "0")
    return machine / "calls"


# --- finding ------------------------------------------------------------------------------------------------------


def test_nothing_is_found_on_a_bare_machine(machine: Path) -> None:
    assert temporal_server.find_temporal_cli() is None


def test_the_variable_comes_before_the_path_and_the_path_before_the_cache(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = program(machine / "cache" / "rindle" / "bin" / "temporal")
    assert temporal_server.find_temporal_cli() == cached

    on_path = program(machine / "path" / "temporal")
    assert temporal_server.find_temporal_cli() == on_path

    asked = program(machine / "elsewhere" / "temporal-cli")
    monkeypatch.setenv(temporal_server.CLI_VARIABLE, str(asked))
    assert temporal_server.find_temporal_cli() == asked
    assert temporal_server.ensure_temporal_cli(report=pytest.fail) == asked


def test_the_variable_may_name_a_command(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = program(machine / "path" / "temporal-1.5")
    monkeypatch.setenv(temporal_server.CLI_VARIABLE, "temporal-1.5")

    assert temporal_server.find_temporal_cli() == command


def test_a_variable_that_names_nothing_is_an_error_and_keeps_the_path_to_itself(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(machine / "path" / "temporal")
    monkeypatch.setenv(temporal_server.CLI_VARIABLE, str(machine / "missing"))

    with pytest.raises(Misconfigured) as refused:
        temporal_server.find_temporal_cli()
    assert temporal_server.CLI_VARIABLE in refused.value.message
    assert str(machine) not in refused.value.message


def test_a_file_that_cannot_be_run_is_not_found(machine: Path) -> None:
    program(machine / "path" / "temporal").chmod(0o644)

    assert temporal_server.find_temporal_cli() is None


@pytest.mark.parametrize("value", ["", "relative/cache"])
def test_the_cache_is_in_the_home_directory_by_default(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert temporal_server.cache_directory() == tmp_path / ".cache" / "rindle"


# --- building -----------------------------------------------------------------------------------------------------


def test_a_missing_program_is_built_once(go: Path, machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    for _ in range(2):
        built = temporal_server.ensure_go_program("tool", "example.com/tool@v1", **A_TOOL, report=told.append)

    assert built == machine / "cache" / "rindle" / "bin" / "tool"
    assert subprocess.run([built], capture_output=True, text=True, check=True).stdout == "example.com/tool@v1\n"
    assert go.read_text().splitlines() == ["example.com/tool@v1"]
    assert capfd.readouterr() == ("", "")  # Go's list of modules would hide the lines of progress
    assert told[0] == (
        "building tool with Go, a tool of the tests, because none is installed: a while, once (example.com/tool@v1)"
    )


def test_a_program_is_built_with_newer_modules_than_it_asks_for(go: Path, machine: Path) -> None:
    modules = {"module": "example.com/tool/cmd@v1", "newer": ["example.com/driver@v2"]}
    built = temporal_server.go_install("tool", **modules, why="", takes="a while", report=lambda line: None)  # type: ignore[arg-type]

    told = subprocess.run([built], capture_output=True, text=True, check=True).stdout
    assert told == "example.com/tool/cmd example.com/tool/cmd@v1 example.com/driver@v2\n"
    assert [file.name for file in (machine / "cache" / "rindle" / "bin").glob("[!.]*")] == ["tool"]


def test_a_program_of_our_cache_that_was_made_from_other_modules_is_made_anew(
    go: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporal_server, "_download", lambda name, **options: None)
    monkeypatch.setattr(temporal_server, "CLI_MODULE", "example.com/temporal@v1")
    old = program(machine / "cache" / "rindle" / "bin" / "temporal")
    go_program = (machine / "path" / "go").read_text()
    program(machine / "path" / "go", go_program.replace("tool", "temporal"))
    told: list[str] = []

    monkeypatch.setenv("GO_STATUS", "3")  # it cannot be built now: the old one is better than none
    assert temporal_server.ensure_temporal_cli(report=told.append) == old
    assert "because the cached one is of another release" in told[0]
    assert "earlier set-up" in told[-1]
    assert old.read_text() == "#!/bin/sh\n"

    monkeypatch.setenv("GO_STATUS", "0")
    for _ in range(2):
        assert temporal_server.ensure_temporal_cli(report=told.append) == old
    assert "example.com/temporal" in old.read_text()
    assert len(go.read_text().splitlines()) == 2  # the failed one and the good one


def test_a_module_that_is_not_there_leaves_nothing(go: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO_STATUS", "3")

    with pytest.raises(SetupIncomplete, match="go get could not build tool") as failed:
        temporal_server.go_install("tool", "example.com/tool@v1", newer=["x@v2"], why="", takes="", report=print)

    assert failed.value.detail["exit_status"] == 3
    assert list((machine / "cache" / "rindle" / "bin").iterdir()) == []


def test_processes_that_start_together_build_once(go: Path) -> None:
    script = (
        "from rindle.cli.temporal_server import ensure_go_program as ensure\n"
        "print(ensure('tool', 'example.com/tool@v1', purpose='', takes='', report=lambda line: None).name)"
    )
    together = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        for _ in range(4)
    ]

    assert [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in together] == ["tool\n"] * 4
    assert go.read_text().splitlines() == ["example.com/tool@v1"]


def test_a_failed_build_says_so_and_leaves_nothing(
    go: Path, machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GO_STATUS", "3")

    with pytest.raises(SetupIncomplete) as failed:
        temporal_server.ensure_go_program("tool", "example.com/tool@v1", **A_TOOL, report=lambda line: None)
    assert failed.value.detail["exit_status"] == 3
    assert "no such module" in capfd.readouterr().err
    assert [file.name for file in (machine / "cache" / "rindle" / "bin").iterdir()] == [".tool.lock"]


def test_without_go_the_message_says_what_to_install(machine: Path) -> None:
    with pytest.raises(SetupIncomplete, match="install tool so that it is on PATH, or Go"):
        temporal_server.ensure_go_program("tool", "example.com/tool@v1", **A_TOOL, report=lambda line: None)


def test_a_dev_server_gets_the_measured_configuration() -> None:
    assert temporal_server.DEV_SERVER_ARGS == (
        "--dynamic-config-value",
        "system.enableActivityEagerExecution=true",
        "--dynamic-config-value",
        "matching.numTaskqueueReadPartitions=1",
        "--dynamic-config-value",
        "matching.numTaskqueueWritePartitions=1",
        "--dynamic-config-value",
        'history.transferProcessorMaxPollInterval="1s"',
    )


def test_a_dev_server_collects_garbage_less_often_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOGC", raising=False)
    monkeypatch.delenv("GODEBUG", raising=False)
    assert temporal_server.dev_server_environment() == {"GOGC": "400", "GODEBUG": "adaptivestackstart=1"}
    monkeypatch.setenv("GOGC", "50")
    monkeypatch.setenv("GODEBUG", "netdns=go")
    assert temporal_server.dev_server_environment() == {}
