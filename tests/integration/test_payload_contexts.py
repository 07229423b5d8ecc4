"""Payload contexts: kept for clients whose codec asks for them, saved for everybody else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import (
    ActivitySerializationContext,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)

from rindle import TemporalConnection
from rindle.bootstrap import workflow_runner
from rindle.operations.explain import explain
from rindle.workflows.sandbox import ContextFreeSandbox
from tests.patience import until
from tests.stage import Stage


class SealingCodec(PayloadCodec, WithSerializationContext):
    """Seals every payload for the workflow it belongs to, and opens it for no other."""

    def __init__(self, workflow_id: str | None = None) -> None:
        self._workflow_id = workflow_id

    def with_context(self, context: SerializationContext) -> SealingCodec:
        """Return the codec of one workflow."""
        assert isinstance(context, WorkflowSerializationContext | ActivitySerializationContext)
        return SealingCodec(context.workflow_id)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Seal."""
        assert self._workflow_id is not None, "a payload without a context"
        seal = {"encoding": b"sealed", "for": self._workflow_id.encode()}
        return [Payload(metadata=seal, data=each.SerializeToString()) for each in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Open."""
        assert {each.metadata["for"].decode() for each in payloads} <= {self._workflow_id}
        return [Payload.FromString(each.data) for each in payloads]


async def test_a_client_with_a_codec_that_knows_its_workflow_works(lite_stage: Stage) -> None:
    converter = dataclasses.replace(pydantic_data_converter, payload_codec=SealingCodec())
    sealed = await Client.connect(lite_stage.environment["TEMPORAL_ADDRESS"], data_converter=converter)
    application = lite_stage.application()
    application.temporal = TemporalConnection(client=sealed)
    await lite_stage.member(application)
    asset = await lite_stage.ready()
    assert (asset.state, len(asset.variants)) == ("ready", 2)
    history = await sealed.get_workflow_handle(lite_stage.variants_workflow(asset.id)).fetch_history()
    (first, *_) = history.events
    sealed_input = first.workflow_execution_started_event_attributes.input.payloads[0]
    assert sealed_input.metadata["encoding"] == b"sealed"


async def test_a_failure_that_is_sealed_for_its_workflow_is_explained(lite_stage: Stage) -> None:
    stage = lite_stage
    converter = dataclasses.replace(
        pydantic_data_converter,
        payload_codec=SealingCodec(),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
    stage.rindle.temporal = TemporalConnection(data_converter=converter, environment=stage.environment)
    stage.tell("scanner", "down")
    await stage.member()
    asset = await stage.verified("scanned")

    async def explained() -> str | None:
        found = await explain(stage.rindle.services, asset.id)
        return next((one.last_failure for run in found.workflows for one in run.pending_activities), None)

    assert "scanner" in (await until(explained, what="the failure to be explained") or "")


def test_contexts_are_saved_only_where_nothing_asks_for_them() -> None:
    codec = dataclasses.replace(pydantic_data_converter, payload_codec=SealingCodec())
    assert isinstance(workflow_runner(pydantic_data_converter), ContextFreeSandbox)
    assert not isinstance(workflow_runner(codec), ContextFreeSandbox)
    assert not isinstance(workflow_runner(), ContextFreeSandbox)
