"""Distillation of the model that writes anchors."""
