"""Tests of the server that stands for Mux, through Mux's own client."""
