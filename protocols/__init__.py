"""Pure state machines and grammars: no async, no I/O, no clock, no randomness. Time and ids are arguments."""
