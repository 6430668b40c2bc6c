"""Scores of draws, and what they owe to each image → where their variance comes from, in words."""
