"""Codes of every depth → scores on shared splits, their intervals, and a decision."""
