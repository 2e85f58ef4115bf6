"""What a pool knows of its experts: records, and skill at aggregating, made by asking them what is known."""
