"""From a question to the experts that answer it: skills, records, recruiting."""
