"""The saved form of an SAE, written for others, and its model card."""
