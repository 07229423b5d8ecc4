"""Mux's own Python client, pointed at our server, and stricter than it is.

The client ignores what its models do not know. Here an answer with an unknown name, a value of another type or a value
outside a model's list fails: the models are generated from Mux's published API description.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import mux_python

from tests.servers.mux import FakeMux

_PLAIN: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool}


def misfits(value: object, kind: str, where: str = "answer") -> Iterator[str]:
    """Yield a sentence for each part of an answer that the client's model of a name does not have."""
    if kind.startswith("list["):
        if not isinstance(value, list):
            yield f"{where}: not a list"
            return
        for index, one in enumerate(value):
            yield from misfits(one, kind[5:-1], f"{where}[{index}]")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{where}: {value!r} is no {kind}"
    else:
        model = getattr(mux_python, kind)
        if allowed := getattr(model, "allowable_values", None):
            if value not in allowed:
                yield f"{where}: {value!r} is none of {allowed}"
            return
        if not isinstance(value, dict):
            yield f"{where}: not an object"
            return
        names = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
        for name, one in value.items():
            if name not in names:
                yield f"{where}.{name}: unknown to {kind}"
            elif one is not None:
                yield from misfits(one, names[name], f"{where}.{name}")


class StrictClient(mux_python.ApiClient):
    """The client, which refuses an answer that its models do not wholly describe."""

    def deserialize(self, response: Any, response_type: str) -> Any:
        assert list(misfits(json.loads(response.data), response_type)) == []
        return super().deserialize(response, response_type)


class Sdk:
    """The parts of the client a caller needs, with an access token of its own or the server's."""

    def __init__(self, mux: FakeMux, token: tuple[str, str] | None = None) -> None:
        username, password = token or mux.token
        configuration = mux_python.Configuration(host=mux.base_url, username=username, password=password)
        configuration.retries = False
        self.client = StrictClient(configuration)
        self.assets = mux_python.AssetsApi(self.client)
        self.uploads = mux_python.DirectUploadsApi(self.client)
        self.keys = mux_python.SigningKeysApi(self.client)
        self.playback_ids = mux_python.PlaybackIDApi(self.client)

    def close(self) -> None:
        """Close its connections."""
        self.client.rest_client.pool_manager.clear()
        self.client.close()


def error_of(failure: mux_python.ApiException) -> tuple[int, str, list[str]]:
    """Return status, type and messages of a refusal, whose body is as Mux documents it."""
    body = json.loads(failure.body)
    assert body.keys() == {"error"} and body["error"].keys() == {"type", "messages"}
    return failure.status, body["error"]["type"], body["error"]["messages"]
