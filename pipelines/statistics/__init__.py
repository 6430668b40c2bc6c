"""Answers on tested images → scores, their intervals, and which of them can be distinguished."""
