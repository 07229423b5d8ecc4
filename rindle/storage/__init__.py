"""The shipped stores, one module or package each; what a store is stands in :class:`rindle.protocols.Storage`.

==============================  =====================================================
:mod:`rindle.storage.local`     ``LocalStorage``: a directory (embedded default)
:mod:`rindle.storage.s3`        ``S3Storage``: Amazon S3, MinIO, Cloudflare R2
:mod:`rindle.storage.gcs`       ``GCSStorage``: Google Cloud Storage
:mod:`rindle.storage.memory`    ``MemoryStorage``: a dict, for tests
==============================  =====================================================

Nothing is imported here, so that a process without S3 profiles never loads boto3, and one without GCS profiles never
Google's SDK.
"""
