"""Objects in a bucket of Google Cloud Storage.

**Permissions.** ``roles/storage.objectUser`` on the bucket: create, get, update, delete and list objects. Without
``storage.objects.list`` the store answers 403 for a missing object, and Rindle cannot distinguish a missing upload from
a refused one. URLs are signed with the key of a service account. Where there is none (workload identity), IAM signs:
the workload needs ``roles/iam.serviceAccountTokenCreator`` on the account that ``signing_email`` names.

**What is written.** One object per key, below ``key_prefix`` when given; while more than 32 objects are joined, objects
below ``.rindle/compose/``, which are deleted at once. A process that is killed meanwhile leaves them, and unfinished
resumable sessions, which the store forgets after a week.

**Browsers** need the bucket's CORS rules to allow ``PUT GET HEAD`` with the headers ``content-type``,
``content-range``, ``x-goog-if-generation-match`` and ``x-goog-content-length-range``, and to expose ``Range``.

``storage`` holds the verbs, ``abilities`` the resumable sessions and the joining of objects, ``client`` the calls to
the SDK and errors, ``sending`` the files on their way up, ``sessions`` the resumable protocol, ``signing`` the URLs.
"""

from __future__ import annotations

from rindle.extras import requires

with requires("gcs"):
    from rindle.storage.gcs.storage import GCSStorage

__all__ = ["GCSStorage"]
