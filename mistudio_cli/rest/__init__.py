"""The REST interface: one typed table of routes, from which routing, OpenAPI, docs/rest.md and the tests derive."""
