"""The product without its command line: queues, jobs, and the work they do."""
