"""Measure speed, memory, stragglers, start-up and communication."""
