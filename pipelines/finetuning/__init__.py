"""A dataset and starts in a network → each fine-tuned with the setting that validation chooses."""
