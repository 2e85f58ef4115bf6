"""Loading as a group: each rank reads a share of the chunks, and passes on what other ranks demand."""
