"""The package formats: a table of routes and thin async handlers each, over the pure machines in enseada.protocols."""
