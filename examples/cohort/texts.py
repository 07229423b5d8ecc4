"""What people read instead of an error's code, on the pages and in their scripts."""

from __future__ import annotations

from collections.abc import Mapping

_FOR_ALL: Mapping[str, str] = {
    "empty_upload": "That file is empty.",
    "extension_mime_mismatch": "The file's content does not match its name. It was refused.",
    "quarantined": "That file was refused.",
    "form_expired": "This form is too old. Please try again.",
    "upload_session_expired": "That took too long. Please start again.",
    "upload_cancelled": "Upload cancelled.",
    "storage_transient": "The store is not answering. Please try again in a moment.",
    "state_conflict": "Somebody else was changing this at the same moment. Please try again.",
    "not_processing": "There is nothing left to cancel: it has just been finished.",
    "network": "The connection was lost. Please try again.",
    "unexpected": "Something went wrong. Please try again.",
}

_PHOTO: Mapping[str, str] = {
    "max_bytes_exceeded": "That photo is larger than 15 MB. Please choose a smaller one.",
    "max_pixels_exceeded": "That photo has more than the allowed 60 million pixels.",
    "extension_not_allowed": "Please choose a JPEG, PNG, WebP or HEIC photo.",
    "missing_extension": "Please choose a JPEG, PNG, WebP or HEIC photo.",
    "mime_not_allowed": "That file is not a photo. It was rejected.",
    "unknown_mime": "That file is not a photo. It was rejected.",
    "decode_failed": "That photo is damaged and cannot be opened. Is there another copy?",
    "not_found": "That photo is not yours, or it is gone.",
    "profile_mismatch": "That file was not uploaded as a photo. Please choose a photo.",
    "unauthorized": "You can only change your own photo.",
    "nothing_chosen": "Please choose a photo first.",
}

_LESSON: Mapping[str, str] = {
    "max_bytes_exceeded": "That file is too large for a lesson. Please choose a smaller one.",
    "media_too_long": "A lesson lasts an hour at most. Please choose a shorter file.",
    "extension_not_allowed": "Please choose one of the kinds of file named below.",
    "missing_extension": "Please choose one of the kinds of file named below.",
    "mime_not_allowed": "That file does not match its name. It was rejected.",
    "unknown_mime": "That file does not match its name. It was rejected.",
    "decode_failed": "That file is damaged and cannot be played. Is there another copy?",
    "not_found": "That file is not yours, or it is gone.",
    "profile_mismatch": "That file was not uploaded for this kind of lesson. Please choose another one.",
    "unauthorized": "Only the teacher of the course may change its lesson.",
    "nothing_chosen": "Please choose a file first.",
    "not_streamed": "The streaming provider could not prepare this lesson. It plays from our own store.",
    "stream_ended": "The stream has ended. Please load the page again.",
}

_TALK: Mapping[str, str] = {
    "extension_not_allowed": "Please choose an MP4, QuickTime or WebM video.",
    "missing_extension": "Please choose an MP4, QuickTime or WebM video.",
    "not_found": "That talk is not yours, or it is gone.",
    "profile_mismatch": "That file was not uploaded as a talk. Please choose a video.",
    "unauthorized": "You can only change your own talk.",
    "nothing_chosen": "Talks go to the streaming provider, which needs scripts. Please allow them.",
    "not_cancellable": "Too late to cancel: the whole video has arrived.",
    "not_streamed": "The streaming provider could not prepare this video. Please choose another one.",
    "provider_sync_failed": "The streaming provider does not answer. Please try again in a moment.",
    "provider_quota_exceeded": "The streaming provider is busy. Please try again in a minute.",
    "stream_ended": "The stream has ended. Please load the page again.",
}

#: Sentences by error code, for each section of the site by the first part of its address.
TEXTS: Mapping[str, Mapping[str, str]] = {
    "members": {**_FOR_ALL, **_PHOTO},
    "lessons": {**_FOR_ALL, **_LESSON},
    "talks": {**_FOR_ALL, **_TALK},
}
