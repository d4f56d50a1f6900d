"""This machine and this process: limits of containers, who a process is, log output, deadlines."""
