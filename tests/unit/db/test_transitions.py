"""The aggregate rule: the state of an asset by those of its variants."""

from __future__ import annotations

import pytest

from rindle.db.transitions import aggregate
from rindle.states import ASSET_MOVES, DELIVERABLE, AssetState, MediaKind, OutputKind, VariantState

A, V = AssetState, VariantState


def _of(*states: V) -> list[tuple[V, OutputKind]]:
    return [(state, OutputKind.IMAGE) for state in states]


@pytest.mark.parametrize(
    ("current", "variants", "expected"),
    [
        (A.AVAILABLE, _of(), A.READY),
        (A.AVAILABLE, _of(V.PLANNED, V.QUEUED), A.AVAILABLE),
        (A.AVAILABLE, _of(V.QUEUED, V.PROCESSING), A.PROCESSING),
        (A.AVAILABLE, _of(V.QUEUED, V.FAILED), A.DEGRADED),
        (A.PROCESSING, _of(V.READY, V.PROCESSING), A.PROCESSING),
        (A.PROCESSING, _of(V.READY, V.STALE), A.READY),
        (A.PROCESSING, _of(V.READY, V.CANCELLED), A.DEGRADED),
        (A.READY, _of(V.READY, V.MISSING), A.DEGRADED),
        (A.READY, _of(V.READY, V.QUEUED), A.PROCESSING),
        (A.DEGRADED, _of(V.READY, V.READY), A.READY),
        (A.DEGRADED, _of(V.QUEUED, V.READY), A.PROCESSING),
    ],
)
def test_the_aggregate_rule(current: A, variants: list[tuple[V, OutputKind]], expected: A) -> None:
    assert aggregate(current, MediaKind.IMAGE, variants) is expected


def test_unfinished_av_work_is_called_transcoding() -> None:
    poster = [(V.PROCESSING, OutputKind.IMAGE)]
    assert aggregate(A.AVAILABLE, MediaKind.VIDEO, poster) is A.TRANSCODING
    assert aggregate(A.AVAILABLE, MediaKind.AUDIO, [(V.PROCESSING, OutputKind.WAVEFORM)]) is A.TRANSCODING
    done_audio = [(V.READY, OutputKind.AUDIO), (V.PROCESSING, OutputKind.IMAGE)]
    assert aggregate(A.AVAILABLE, MediaKind.IMAGE, done_audio) is A.PROCESSING


#: Purged rows do not count.
COUNTED = [state for state in V if state is not V.PURGED]


@pytest.mark.parametrize("current", sorted(DELIVERABLE))
@pytest.mark.parametrize("first", COUNTED)
@pytest.mark.parametrize("second", COUNTED)
def test_the_aggregate_never_asks_for_a_move_the_table_forbids(current: A, first: V, second: V) -> None:
    target = aggregate(current, MediaKind.IMAGE, _of(first, second))
    assert target is current or target in ASSET_MOVES[current]
