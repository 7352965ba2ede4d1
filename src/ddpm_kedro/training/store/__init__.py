"""Trainings on disk: checkpoints, found again by what shaped them."""
