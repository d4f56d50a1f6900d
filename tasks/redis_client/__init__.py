"""Redis as a server: what a URL says, one connection, TLS, Sentinels, and what a call can end with."""
