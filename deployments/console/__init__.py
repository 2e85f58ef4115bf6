"""The console: pages at `/console` that use the service's own paths. Imported only to start the service."""
