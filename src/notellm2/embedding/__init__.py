"""Bulk embedding of notes, and the cache of frozen vision features."""
