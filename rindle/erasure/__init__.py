"""Erasure: everything of an owner is removed, durably, with a report and a certificate.

The calls of ``Rindle`` are in :mod:`.calls`, the flows in :mod:`.owners`, the transactions that activities run in
:mod:`.steps`, the certificate in :mod:`.certificate`.
"""
