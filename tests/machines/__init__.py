"""Several hosts on one machine: network namespaces on a bridge, each with a host name of its own."""
