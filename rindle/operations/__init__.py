"""Operators' calls: doctor, runtime status, explain, repair."""
