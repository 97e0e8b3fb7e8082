"""Blob stores: bytes under random, final keys."""
