"""Making a small gate from what a pool's experts write, and measuring what a gate is worth."""
