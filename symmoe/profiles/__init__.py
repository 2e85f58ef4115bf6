"""What a pool learns of its experts by asking them questions with known answers: records, and skill at aggregating."""
