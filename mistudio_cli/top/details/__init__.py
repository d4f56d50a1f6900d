"""Details of one row: everything known of a job, a queue, a worker, a GPU or a host."""
