"""What the protocols of uploads that pass through the application share: who may, the body, one append.

``access`` decides who may, ``body`` reads bytes, ``append`` brings them into the upload. What an upload is, and where
its bytes go, is in :mod:`rindle.uploads.streams`.
"""
