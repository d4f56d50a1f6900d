"""What describes the table of routes: the OpenAPI document and docs/rest.md."""
