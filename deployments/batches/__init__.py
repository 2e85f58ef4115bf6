"""Files and batches of the service: what is kept of them where, and the runner that answers batches."""
