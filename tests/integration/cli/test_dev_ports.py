"""Ports of ``rindle dev`` that somebody else takes between the look and the use."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from rindle.cli import dev
from rindle.cli.supervisor import Supervisor
from rindle.errors import Misconfigured
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port


@pytest.mark.usefixtures("temporal_server")
def test_two_servers_that_start_at_once_take_different_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "TEMPORAL_PORT", free_port())
    monkeypatch.setattr(dev, "UI_PORT", free_port())
    both = [dev._Temporal(dev.Ports()) for _ in range(2)]
    assert {server.port for server in both} == {dev.TEMPORAL_PORT}  # free, as each of them sees it

    with ExitStack() as stack:
        homes = [
            stack.enter_context(Supervisor(tmp_path / name, output=os.open(os.devnull, os.O_WRONLY))) for name in "ab"
        ]
        for home, server in zip(homes, both, strict=True):
            dev._start_temporal(home, server, "default")
        for home in homes:
            home.wait_ready("temporal", PATIENCE_SECONDS)
        kept = [server.keep() for server in both]

        assert len({server.port for server in both} | {server.ui for server in both}) == 4
        assert dev.TEMPORAL_PORT in {server.port for server in both}
        # The other parts know the address: a server that dies comes back on it.
        homes[1].kill_part("temporal")
        homes[1].wait_ready("temporal", PATIENCE_SECONDS)
        assert [server.environment for server in both] == kept


def test_a_port_that_was_not_requested_is_replaced_and_one_that_was_is_refused() -> None:
    default = free_port()
    with dev._listening(None, default) as first, dev._listening(None, default) as second:
        assert first.getsockname()[1] == default
        assert second.getsockname()[1] != default
        with pytest.raises(Misconfigured, match=f"port {default} is taken"):
            dev._listening(default, default)
        with pytest.raises(Misconfigured, match=f"port {default} is taken"):
            dev._Temporal(dev.Ports(temporal=default))
