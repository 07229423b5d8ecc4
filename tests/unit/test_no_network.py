"""Unit tests cannot reach a network, not even this machine's; asyncio and unix sockets work."""

from __future__ import annotations

import asyncio
import socket

import pytest
from pytest_socket import SocketBlockedError


def test_no_connection_can_be_made() -> None:
    with pytest.raises(SocketBlockedError):
        socket.create_connection(("127.0.0.1", 9))


async def test_a_subprocess_and_the_loop_work() -> None:
    process = await asyncio.create_subprocess_exec("true")

    assert await process.wait() == 0
