"""What people read of refused files, and under which names accepted ones are kept."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image

from rindle import errors
from rindle.errors import UploadRejected
from rindle.operations.explain import explain
from rindle.rejections import SENTENCES, sentence
from tests.stage import Stage, photo

HEIC = (Path(__file__).parents[1] / "media" / "plain.heic").read_bytes()
CYRILLIC = "фото из отпуска.jpg"


def encoded(format_: str, size: tuple[int, int] = (60, 40)) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", size, "teal").save(written, format_)
    return written.getvalue()


def silence() -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    return written.getvalue()


# --- two messages ------------------------------------------------------------------------------------------------


def test_every_rejection_has_a_sentence_for_the_uploader() -> None:
    assert set(SENTENCES) == errors.QUARANTINE_REASONS
    for code in SENTENCES:
        text = sentence(code, {"profile": "avatar"}) or ""
        assert text.endswith(".") and "avatar" not in text and "_" not in text


async def test_a_rejection_keeps_one_message_for_the_uploader_and_one_for_the_operator(lite_stage: Stage) -> None:
    await lite_stage.member()
    whole = photo(lite_stage.home / "p.jpg").read_bytes()

    asset = await lite_stage.ready(body=whole[: len(whole) // 3])

    assert (asset.state, asset.error_code, asset.kind) == ("quarantined", "decode_failed", "image")
    assert (
        asset.error_reason
        == "This JPEG image is damaged or incomplete and cannot be opened. Save it again and send it."
    )
    assert asset.error_detail == {"format": "image/jpeg"}
    assert sentence(asset.error_code, asset.error_detail) == asset.error_reason
    assert "premature end" in (asset.operator_reason or "")
    report = (await explain(lite_stage.rindle.services, asset.id)).to_dict()
    assert report["asset"]["operator_reason"] == asset.operator_reason
    assert report["diagnosis"]["last_error"]["reason"] == asset.operator_reason


async def test_an_unsupported_codec_is_not_called_damaged(lite_stage: Stage) -> None:
    await lite_stage.member()
    at = HEIC.index(b"hvc1", HEIC.index(b"infe"))

    asset = await lite_stage.ready(body=HEIC[:at] + b"vvc1" + HEIC[at + 4 :], filename="p.heic")

    assert (asset.state, asset.error_code) == ("quarantined", "unsupported_variant_of_format")
    assert asset.error_reason == (
        "This HEIC image is saved in a way that cannot be read here. Save it as JPEG or PNG and send that file."
    )
    assert "vvc1" in (asset.operator_reason or "")


@pytest.mark.parametrize(
    ("body", "name", "code", "said"),
    [
        (encoded("BMP"), "p.bmp", "no_probe_for_mime", "BMP images cannot be processed here. Save it as JPEG or PNG"),
        (encoded("ICO"), "p.ico", "no_probe_for_mime", "Icons cannot be processed here. Save it as JPEG or PNG"),
        (encoded("BMP"), "p.jpg", "no_probe_for_mime", "BMP images cannot be processed here."),
        (b"%PDF-1.7\n", "p.jpg", "mime_not_allowed", "PDF documents are not accepted here. Send one of these: images."),
        (b"", "p.jpg", "empty_upload", "This file has no content."),
    ],
    ids=["bmp", "ico", "bmp named jpg", "pdf", "empty"],
)
async def test_a_type_that_nothing_reads_is_refused_at_the_gate(
    lite_stage: Stage, body: bytes, name: str, code: str, said: str
) -> None:
    source = lite_stage.home / "source"
    source.write_bytes(body)
    with pytest.raises(UploadRejected) as refused:
        await lite_stage.rindle.upload("avatar", source, filename=name)
    assert refused.value.code == code
    assert refused.value.message.startswith(said)
    assert "avatar" not in refused.value.message
    assert refused.value.operator
    assert await lite_stage.keys() == set()


async def test_a_rejected_audio_file_is_not_an_image(lite_stage: Stage) -> None:
    await lite_stage.member()
    asset = await lite_stage.ready(body=silence(), filename="memo.wav")
    assert (asset.state, asset.error_code, asset.kind) == ("quarantined", "mime_not_allowed", "audio")


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "name", "stored", "mime"),
    [
        (HEIC, "IMG 1.jpg", "IMG_1.heic", "image/heic"),
        (encoded("WEBP"), "shop.jpg", "shop.webp", "image/webp"),
        (encoded("PNG"), "shot.JPG", "shot.png", "image/png"),
        (encoded("JPEG"), "p.heic", "p.jpg", "image/jpeg"),
        (encoded("JPEG"), "p.jpeg", "p.jpeg", "image/jpeg"),
    ],
)
async def test_the_content_decides_when_the_name_is_of_another_image_format(
    lite_stage: Stage, body: bytes, name: str, stored: str, mime: str
) -> None:
    await lite_stage.member()
    direct = await lite_stage.ready(body=body, filename=name)
    source = lite_stage.home / "source"
    source.write_bytes(body)
    server = await lite_stage.settled((await lite_stage.rindle.upload("avatar", source, filename=name)).id)
    for asset in (direct, server):
        assert (asset.state, asset.filename, asset.content_type) == ("ready", stored, mime)
        assert asset.display_name == stored.replace("IMG_1", "IMG 1")


async def test_the_uploaders_own_name_is_the_name_of_downloads(lite_stage: Stage) -> None:
    await lite_stage.member()
    asset = await lite_stage.ready(filename=f"C:\\albums\\\u202e{CYRILLIC}\x07")

    assert (asset.filename, asset.display_name) == ("upload.jpg", CYRILLIC)
    original = await lite_stage.rindle.url("avatar", asset, disposition="attachment")
    variant = await lite_stage.rindle.url("avatar", asset, variant="thumb", disposition="attachment")
    assert f"filename*=UTF-8''{quote(CYRILLIC)}" in disposition_of(original)
    assert f"filename*=UTF-8''{quote(CYRILLIC.removesuffix('.jpg'))}." in disposition_of(variant)


def disposition_of(url: str) -> str:
    """Return the header that a link of the local store carries in its token."""
    claims = urlsplit(url).path.rsplit("/", 1)[1].partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["disp"])
