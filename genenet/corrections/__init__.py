"""Corrections of a segmentation by people: a log of what they did and when, and what follows from it."""
