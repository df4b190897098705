"""Hostile input of every kind, made with its grammar in mind; `scripts/fuzz.py` is its command."""
