"""Jobs as commands mean them: found, chosen, waited for, exported, their logs."""
