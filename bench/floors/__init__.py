"""Floors: what the machine itself needs for the same bytes, by programs that do nothing else.

They are no servers that anybody could use. They speak just enough HTTP for the same load programs, know no accounts, no
names and no errors, and use every trick that a server of one thread may use.
"""
