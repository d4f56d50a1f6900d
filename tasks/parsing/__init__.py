"""What comes from outside, read with nothing taken on trust: documents, values, text for a terminal, tensors."""
