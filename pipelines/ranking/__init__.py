"""Rankers: training, evaluation, publication."""
