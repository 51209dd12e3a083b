"""Decisions only: nothing in here does I/O, reads a clock or draws lots. `now` and the events come in as data."""
