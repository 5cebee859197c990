"""Runs that are killed: whatever the moment, the output is the old one or the new one, and the next run clears what was left."""
