"""Blob stores and document stores, behind two small interfaces. They speak anyio, so that they run under any host."""
