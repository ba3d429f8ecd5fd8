"""What clips exist and what they are called. Knows no torch."""
