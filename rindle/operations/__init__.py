"""What an operator calls: doctor, runtime status, repair."""
