"""Small things that several folders need."""
