"""What the kill suite is made of: who lives, what must hold, the load, and the strikes."""
