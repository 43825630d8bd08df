"""Random graphs out of all kinds of rules, pruned at random, and checked against the masked original."""
