"""Evaluation MEASURES a judge."""
