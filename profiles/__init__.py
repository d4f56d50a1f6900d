"""The profiles that come with mistudio: rules from which workers follow, never lists of queues."""
