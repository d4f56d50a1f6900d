"""What the job kind `train` is made of: where its vectors come from, and what happens around the loop."""
