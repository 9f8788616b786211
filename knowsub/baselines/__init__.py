"""Masks of a given size by other methods: scores in, mask out."""
