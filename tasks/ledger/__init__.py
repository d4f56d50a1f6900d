"""Jobs, queues and device leases in Redis: the only room that knows its keys."""
