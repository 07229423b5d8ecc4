"""Connects to a cluster that requires certificates of its clients (mTLS)."""

from __future__ import annotations

from pathlib import Path

from temporalio.service import TLSConfig

from rindle import TemporalConnection


def cluster(certificates: Path = Path("/etc/temporal")) -> TemporalConnection:
    """Return what is passed as ``Rindle(temporal=...)``."""
    return TemporalConnection(
        target_host="temporal.example.com:7233",
        namespace="media",
        tls=TLSConfig(
            server_root_ca_cert=(certificates / "ca.pem").read_bytes(),
            client_cert=(certificates / "client.pem").read_bytes(),
            client_private_key=(certificates / "client.key").read_bytes(),
        ),
    )
