"""The shipped streaming providers; what a provider does is in :class:`rindle.protocols.StreamingProvider`.

==============================  =============================================
:mod:`rindle.streaming.mux`     ``MuxProvider``: Mux
:mod:`rindle.streaming.memory`  ``InMemoryProvider``: nothing is sent, for tests
==============================  =============================================

Nothing is imported here, so that a process without Mux never loads its SDK.
"""
