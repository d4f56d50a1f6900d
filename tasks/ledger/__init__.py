"""Jobs, queues and device leases in Redis; no other package knows its keys."""
