"""Methods x seeds on the restoration of photographs, with equal budgets."""
