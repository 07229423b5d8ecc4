"""The decoders of ffmpeg that may read an uploaded file: those of the formats that people have, out of five hundred.

The names are those of decoders, which ``ffmpeg -decoders`` lists; a codec may have several. The list stands for ffmpeg
and ffprobe alike, for the tracks that are used and for all others: ffprobe opens a decoder for each of them, and so a
file with a single track of another codec is refused. :mod:`rindle.media.ffmpeg` passes it with every input.

Subtitles are listed although no variant shows them, since a video with subtitles is an ordinary video; so are the
formats of cover images. Old codecs that browsers, phones and cameras never wrote (Cinepak, Indeo, Sorenson) are not.

Source: FFmpeg "Codec Options", ``codec_whitelist``.
"""

from __future__ import annotations

import re
from typing import Final

_VIDEO: Final = (
    "h264 hevc av1 libdav1d libaom-av1 vp8 libvpx vp9 libvpx-vp9 mpeg4 msmpeg4v2 msmpeg4 h263 mpeg1video mpeg2video "
    "theora mjpeg dvvideo prores dnxhd ffv1 qtrle rawvideo"
)
_COVERS: Final = "png gif bmp webp"
_AUDIO: Final = (
    "aac aac_fixed libfdk_aac aac_latm mp1 mp1float mp2 mp2float mp3 mp3float opus libopus vorbis libvorbis speex "
    "libspeex flac alac ac3 ac3_fixed eac3 dca truehd mlp amrnb amrwb libopencore_amrnb libopencore_amrwb wmav1 wmav2 "
    "adpcm_ms adpcm_ima_wav adpcm_ima_qt gsm_ms libgsm_ms"
)
_PCM: Final = (
    "pcm_alaw pcm_mulaw pcm_u8 pcm_s8 pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be pcm_s64le pcm_s64be "
    "pcm_f32le pcm_f32be pcm_f64le pcm_f64be pcm_bluray pcm_dvd"
)
_SUBTITLES: Final = "mov_text subrip srt ass ssa webvtt text dvbsub dvdsub pgssub cc_dec libzvbi_teletextdec"

#: Decoders that may be opened, as ``-codec_whitelist`` takes them.
CODEC_WHITELIST: Final = ",".join(" ".join((_VIDEO, _COVERS, _AUDIO, _PCM, _SUBTITLES)).split())

_REFUSED = re.compile(r"Codec \(([\w.-]{1,64})\) not on whitelist")


def refused_codec(words: bytes) -> str | None:
    """Return the codec that ffmpeg or ffprobe refused to open, from its stderr; ``None`` when it refused none."""
    found = _REFUSED.search(words.decode(errors="replace"))
    return found[1] if found else None
