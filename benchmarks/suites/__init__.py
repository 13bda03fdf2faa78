"""One file per suite: ``SUITE``, a protocol and where its data lies."""
