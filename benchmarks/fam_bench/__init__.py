"""Measurements: picture quality, the cost of a step, memory."""
