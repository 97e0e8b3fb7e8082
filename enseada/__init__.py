"""Enseada: a package registry for the people who run their own."""

__version__ = "0.1.0"
