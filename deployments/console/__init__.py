"""The console: pages at `/console` over the service's own paths. Only who starts the service imports it."""
