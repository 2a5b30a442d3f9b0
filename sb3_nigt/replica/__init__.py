"""Copies of the policy that act and differentiate at a sampling point while the algorithm's own one holds the iterate."""
