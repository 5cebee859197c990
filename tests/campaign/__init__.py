"""Hostile input, as tables: what nobody should type, write into a file, or pass to a function, and what must come of it."""
