"""How much each group gives: sizes per atom, under budgets."""
