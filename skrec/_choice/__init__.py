"""Choices: the model of which items a user picks, and lists by it and by ratings."""
