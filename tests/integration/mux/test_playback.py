"""Playback: a token of the right kind opens a film that really plays, and any other is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from urllib.parse import urljoin

import httpx
import pytest

from tests.integration.mux.client import Sdk
from tests.patience import PATIENCE_SECONDS, until_blocking
from tests.servers.mux import FakeMux, running_mux
from tests.servers.mux.tokens import sign

Urls = Callable[[str], str]
#: Seconds since 1970, far ahead.
LATER = 4_000_000_000


def get(url: httpx.URL | str) -> httpx.Response:
    """Ask for an address, however long the server takes: it may cut a picture first."""
    return httpx.get(url, trust_env=False, timeout=PATIENCE_SECONDS)


class Film:
    """A film that is ready, with a signed and a public playback id."""

    def __init__(self, mux: FakeMux, sdk: Sdk, url: str) -> None:
        self.mux = mux
        made = sdk.assets.create_asset({"inputs": [{"url": url}], "playback_policies": ["signed", "public"]}).data
        self.asset_id = made.id
        self.signed, self.public = (address.id for address in made.playback_ids)
        until_blocking(lambda: sdk.assets.get_asset(made.id).data.status == "ready")

    def token(self, audience: str = "v", **claims: object) -> str:
        """Return a token as an application makes it, with other claims where they are given."""
        key = self.mux.signing_key
        right = {"sub": self.signed, "aud": audience, "exp": LATER, "kid": key.id}
        return sign(key.private_key, {**right, **claims}, kid=key.id)

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        """Ask for an address of the film."""
        url = httpx.URL(f"{self.mux.base_url}/{path}")
        if token is not None:
            url = url.copy_set_param("token", token)
        return get(url)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, film_url: Urls) -> Iterator[Film]:
    """A film of all tests here, which change nothing of it."""
    with running_mux(tmp_path_factory.mktemp("mux")) as mux:
        sdk = Sdk(mux)
        yield Film(mux, sdk, film_url("film.mp4"))
        sdk.close()


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return status and message of a refusal."""
    (message,) = answer.json()["error"]["messages"]
    return answer.status_code, message


def played(url: str) -> dict[str, str]:
    """Play a film with ffprobe, to its end, and return the codec of each of its tracks."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    streams = json.loads(done.stdout)["streams"]
    assert all(int(stream["nb_read_frames"]) > 0 for stream in streams)
    return {stream["codec_type"]: stream["codec_name"] for stream in streams}


def test_a_signed_film_plays_with_its_token(film: Film) -> None:
    assert played(f"{film.mux.base_url}/{film.signed}.m3u8?token={film.token()}") == {"video": "h264", "audio": "aac"}


def test_a_public_film_plays_without_one(film: Film) -> None:
    assert played(f"{film.mux.base_url}/{film.public}.m3u8") == {"video": "h264", "audio": "aac"}


def test_a_page_of_another_origin_may_read_it(film: Film) -> None:
    answer = film.get(f"{film.signed}.m3u8", film.token())

    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["content-type"].startswith("application/vnd.apple.mpegurl")
    assert "RESOLUTION=320x180" in answer.text
    assert "CODECS=" in answer.text


REFUSED = {
    "no token": (lambda film: None, "needs a token"),
    "no JSON Web Token": (lambda film: "abc", "not a JSON Web Token"),
    "three parts of nothing": (lambda film: "a.b.c", "not a JSON Web Token"),
    "the audience of a thumbnail": (lambda film: film.token("t"), "aud"),
    "no audience": (lambda film: film.token(aud=None), "aud"),
    "expired": (lambda film: film.token(exp=1), "expired"),
    "no expiry": (lambda film: film.token(exp=None), "no exp"),
    "an expiry in words": (lambda film: film.token(exp="tomorrow"), "no exp"),
    "not valid yet": (lambda film: film.token(nbf=LATER - 1), "not valid yet"),
    "another film": (lambda film: film.token(sub=film.public), "sub"),
    "an unknown kid": (lambda film: sign(film.mux.signing_key.private_key, {}, kid="unknown"), "kid"),
    "no kid": (lambda film: sign(film.mux.signing_key.private_key, {}), "kid"),
    "another algorithm": (lambda film: sign(film.mux.signing_key.private_key, {}, alg="none"), "RS256"),
    "a secret of the application": (lambda film: sign(film.mux.signing_key.private_key, {}, alg="HS256"), "RS256"),
    "another key under this kid": (
        lambda film: sign(
            film.mux.new_signing_key().private_key,
            {"sub": film.signed, "aud": "v", "exp": LATER},
            kid=film.mux.signing_key.id,
        ),
        "signature",
    ),
    "changed claims": (
        lambda film: ".".join([*film.token().split(".")[:2], film.token("t").split(".")[2]]),
        "signature",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_token_that_does_not_fit_is_refused(film: Film, case: str) -> None:
    make, said = REFUSED[case]

    status, message = refusal(film.get(f"{film.signed}.m3u8", make(film)))

    assert status == 403
    assert said in message


def test_every_address_of_the_film_judges_the_token(film: Film) -> None:
    """A player sends the token of the first playlist to each segment."""
    master = film.get(f"{film.signed}.m3u8", film.token())
    (rendition,) = [line for line in master.text.splitlines() if line and not line.startswith("#")]
    segments = get(urljoin(str(master.url), rendition))
    first = next(line for line in segments.text.splitlines() if line and not line.startswith("#"))
    address = httpx.URL(urljoin(str(segments.url), first))
    assert get(address).headers["content-type"] == "video/mp2t"

    for url in (master.url, segments.url, address):
        assert get(url.copy_with(query=None)).status_code == 403
        assert get(url.copy_set_param("token", film.token(exp=1))).status_code == 403
    missing = address.copy_with(path=address.path.replace("00000", "00099"))
    assert get(missing).status_code == 404


PICTURES = {
    "thumbnail.jpg": ("t", "image/jpeg", b"\xff\xd8"),
    "thumbnail.png": ("t", "image/png", b"\x89PNG"),
    "animated.gif": ("g", "image/gif", b"GIF8"),
    "storyboard.jpg": ("s", "image/jpeg", b"\xff\xd8"),
    "storyboard.vtt": ("s", "text/vtt", b"WEBVTT"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_each_picture_opens_for_its_own_audience(film: Film, name: str) -> None:
    audience, kind, beginning = PICTURES[name]

    answer = film.get(f"{film.signed}/{name}", film.token(audience))
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
    assert answer.content.startswith(beginning)
    for other in {"v", "t", "g", "s"} - {audience}:
        assert refusal(film.get(f"{film.signed}/{name}", film.token(other)))[0] == 403
    assert film.get(f"{film.public}/{name}").status_code == 200


def test_the_storyboard_names_the_parts_of_its_picture(film: Film) -> None:
    cues = film.get(f"{film.signed}/storyboard.vtt", film.token("s")).text.splitlines()

    (first, *_) = [line for line in cues if line.startswith("http")]
    assert first.endswith("#xywh=0,0,256,144")
    assert get(first).headers["content-type"] == "image/jpeg"


def test_parameters_of_a_signed_picture_are_claims(film: Film) -> None:
    small = film.get(f"{film.signed}/thumbnail.png", film.token("t", width=64, time=1)).content
    assert int.from_bytes(small[16:20]) == 64  # the width in a PNG's header

    ignored = film.get(f"{film.signed}/thumbnail.png?width=64", film.token("t")).content
    assert int.from_bytes(ignored[16:20]) == 320
    assert refusal(film.get(f"{film.signed}/thumbnail.png", film.token("t", width="wide")))[0] == 400


def test_an_unknown_film_is_not_there(film: Film) -> None:
    assert refusal(film.get("unknown.m3u8", film.token()))[0] == 404
    assert refusal(film.get(f"{film.signed}/thumbnail.exe", film.token("t")))[0] == 404


def test_a_film_plays_from_the_moment_it_is_ready_until_it_is_deleted(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    request = {"inputs": [{"url": film_url("film.mp4")}], "playback_policies": ["public"]}
    made = sdk.assets.create_asset(request).data
    url = f"{mux.base_url}/{made.playback_ids[0].id}.m3u8"
    assert get(url).status_code == 412

    mux.release_ingest()
    until_blocking(lambda: get(url).status_code == 200)

    sdk.assets.delete_asset(made.id)
    assert get(url).status_code == 404


def test_time_and_a_deleted_key_end_a_token(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    film = Film(mux, sdk, film_url("film.mp4"))
    key = mux.new_signing_key()
    claims = {"sub": film.signed, "aud": "v"}
    token = sign(key.private_key, {**claims, "exp": LATER}, kid=key.id)
    assert film.get(f"{film.signed}.m3u8", token).status_code == 200

    sdk.keys.delete_signing_key(key.id)
    assert "kid" in refusal(film.get(f"{film.signed}.m3u8", token))[1]

    mux.advance(LATER)
    assert "expired" in refusal(film.get(f"{film.signed}.m3u8", film.token()))[1]
