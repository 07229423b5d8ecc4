"""What our numbers are compared with: each peer as its users would write it, warm where it would be warm."""
