"""What the protocols of uploads that pass through the application share: the mount, who may, the body, one append.

``router`` is the ASGI application of a mount and ``call`` one request of it. ``access`` decides who may, ``body`` reads
bytes, ``append`` brings them into the upload. What an upload is, and where its bytes go, is in
:mod:`rindle.uploads.streams`.
"""
