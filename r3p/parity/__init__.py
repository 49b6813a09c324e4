"""Parity with the official PyTorch code: recorded golden cases, and how each is run here."""
