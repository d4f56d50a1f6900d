"""What the hosts on one Redis know of each other: heartbeats, clocks, the store that they share, owners."""
