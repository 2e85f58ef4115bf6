"""The service's HTTP interface: OpenAI's shapes, and symmoe's own beside them."""
