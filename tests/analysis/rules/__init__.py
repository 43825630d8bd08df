"""Tests of the rule table: one node at a time."""
