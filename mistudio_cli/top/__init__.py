"""`mistudio top`: the live screen of queues, jobs, workers and devices."""
