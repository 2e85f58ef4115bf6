"""Measuring what symmoe claims, of the library and of the service; nothing else imports this."""
