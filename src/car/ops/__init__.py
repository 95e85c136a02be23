"""Resampling operators."""
