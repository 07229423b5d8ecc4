"""Objects in an S3 bucket: Amazon S3, MinIO, Cloudflare R2 and others that speak the same API.

**Permissions.** ``s3:GetObject``, ``s3:PutObject``, ``s3:DeleteObject``, ``s3:AbortMultipartUpload`` and
``s3:ListMultipartUploadParts`` on the objects, ``s3:ListBucket`` and ``s3:ListBucketMultipartUploads`` on the bucket.
Without ``s3:ListBucket`` S3 answers 403 for a missing object, and Rindle cannot distinguish a missing upload from a
refused one. The two that list parts and uploads serve multipart uploads of clients. With ``s3:GetBucketCORS`` and
``s3:GetLifecycleConfiguration`` ``rindle doctor`` compares the bucket's rules with what Rindle needs.

**What is written.** One object per key, below ``key_prefix`` when given. Files over 64 MiB go up in parts; a process
that is killed meanwhile leaves an unfinished multipart upload, which the bucket's lifecycle rule
``AbortIncompleteMultipartUpload`` (8 days) removes. Multipart uploads of clients are aborted by the workflow of the
upload when they end otherwise.

**Browsers** need the bucket's CORS rules to allow ``PUT GET HEAD`` with the headers ``content-type`` and
``if-none-match``, and to expose ``ETag``.

Options by provider:

=============  ====================================================================================================
Amazon S3      ``S3Storage("bucket", region="eu-central-1")``
MinIO          ``S3Storage("bucket", endpoint_url="http://minio:9000", public_endpoint="https://media.example.com")``
Cloudflare R2  ``S3Storage("bucket", region="auto", endpoint_url="https://<account>.r2.cloudflarestorage.com")``
other          ``write_once=False`` for servers that do not know ``If-None-Match`` on PUT
=============  ====================================================================================================

``storage`` holds the verbs, ``client`` the calls to the SDK, signing and errors, ``parts`` the files on their way up,
whole or in parts, ``multipart`` the parts that clients send themselves, ``setup`` what ``rindle doctor`` checks.
"""

from __future__ import annotations

from rindle.extras import requires

with requires("s3"):
    from rindle.storage.s3.storage import S3Storage

__all__ = ["S3Storage"]
